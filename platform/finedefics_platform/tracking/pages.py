"""Addresses of MLflow's pages that a person wants to see first, asked of a server that runs.

Asked over HTTP, so that no store needs to be opened a second time and MLflow not to be imported.
"""

import json
import urllib.request
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

_SECONDS = 20.0
_MOST = 20  # experiments that are looked into


@dataclass(frozen=True)
class Pages:
    """Pages to begin at.

    Attributes:
        start: the runs of the experiment with the newest run, else the server's own first page.
        runs: of each experiment that has runs, the one with the newest run first.
        champions: of each registered model the page of the version that is its champion.
    """

    start: str
    runs: dict[str, str] = field(default_factory=dict)
    champions: dict[str, str] = field(default_factory=dict)


def pages_of(url: str) -> Pages:
    """The pages of the server at ``url``; only its first page where it does not say what it has."""
    try:
        runs, champions = _runs(url), _champions(url)
    except (OSError, ValueError, KeyError):
        return Pages(url)
    return Pages(next(iter(runs.values()), url), runs, champions)


def _runs(url: str) -> dict[str, str]:
    found = _ask(url, "experiments/search", {"max_results": _MOST, "order_by": ["last_update_time DESC"]})
    newest: dict[str, int] = {}
    names = {}
    for experiment in found.get("experiments", ()):
        number = experiment["experiment_id"]
        wanted = {"experiment_ids": [number], "max_results": 1, "order_by": ["attributes.start_time DESC"]}
        for run in _ask(url, "runs/search", wanted).get("runs", ()):
            newest[number], names[number] = int(run["info"]["start_time"]), experiment["name"]
    ordered = sorted(newest, key=newest.__getitem__, reverse=True)
    return {names[number]: f"{url}/#/experiments/{number}/runs" for number in ordered}


def _champions(url: str) -> dict[str, str]:
    found = _ask(url, "registered-models/search?max_results=100", None).get("registered_models", ())
    return {
        model["name"]: f"{url}/#/models/{quote(model['name'], safe='')}/versions/{alias['version']}"
        for model in found
        for alias in model.get("aliases", ())
        if alias["alias"] == "champion"
    }


def _ask(url: str, method: str, body: dict[str, Any] | None) -> dict[str, Any]:
    request = urllib.request.Request(f"{url}/api/2.0/mlflow/{method}")
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
        return dict(json.load(answer))
