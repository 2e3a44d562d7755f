"""What Prometheus reads of a run, from a real node's own page of metrics."""

import re
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from finedefics_platform.base.progress import SILENT
from finedefics_platform.search.document import Search
from finedefics_platform.search.trial_watch import TrialWatch, watching
from finedefics_platform.training import gauges
from finedefics_platform.training.gauges import RunGauges

DASHBOARD = Path(__file__).parents[3] / "cluster" / "grafana.json"
METRICS = {
    "loss": 1.5,
    "loss_answer": 0.5,
    "object_attribute_temperature": 0.07,
    "attribute_category_temperature": 0.05,
    "data_wait_share": 0.25,
    "samples_per_second": 12.0,
    "learning_rate": 1e-4,
    "gradient_norm": 1.0,
    "mfu": 0.4,
}


def scraped(ray: Any) -> dict[str, float]:
    """``name{label=value,…}`` of the product's own gauges, Ray's labels left out, on every node's page."""
    found = {}
    for node in ray.nodes():
        page = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        with urllib.request.urlopen(page, timeout=30) as answer:
            text = answer.read().decode()
        for name, labels, value in re.findall(r"^ray_(finedefics_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
            own = sorted(re.findall(r'\b(run|stage|term|search|state)="([^"]*)"', labels))
            found[name + "{" + ",".join(f"{key}={said}" for key, said in own) + "}"] = float(value)
    return found


def test_a_run_and_a_search_are_seen_from_outside(ray_cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauges, "REFRESH_SECONDS", 0.2)
    search = Search.model_construct(name="wide", trials=4, metric="val_alignment", mode="max")
    of = "run=birds-1,stage=joint"
    wanted = {
        f"finedefics_step{{{of}}}": 3,
        f"finedefics_loss{{{of},term=total}}": 1.5,
        f"finedefics_loss{{{of},term=answer}}": 0.5,
        f"finedefics_temperature{{{of},term=object_attribute}}": 0.07,
        f"finedefics_temperature{{{of},term=attribute_category}}": 0.05,
        f"finedefics_data_wait_share{{{of}}}": 0.25,
        f"finedefics_samples_per_second{{{of}}}": 12,
        "finedefics_search_trials{search=wide,state=asked}": 4,
        "finedefics_search_trials{search=wide,state=failed}": 1,
        "finedefics_search_best{search=wide}": 0.9,
    }
    with RunGauges("birds-1") as run, watching(search, SILENT, lambda count: None):
        run.handle({"event": "step", "stage": "joint", "total_step": 3, "metrics": METRICS})
        watch = TrialWatch()
        trial = type("Trial", (), {"trial_id": "t", "config": {}})()
        for value in (0.9, 0.7):
            watch.on_trial_result(0, [], trial, {"val_alignment": value})
        watch.on_trial_error(0, [], trial)
        age, found = f"finedefics_checkpoint_age_seconds{{{of}}}", {}
        deadline = time.monotonic() + 120  # Ray reports every ten seconds
        while time.monotonic() < deadline and not {*wanted, age} <= {*found}:
            time.sleep(0.5)
            found = scraped(ray_cluster)
    assert {name: found.get(name) for name in wanted} == pytest.approx(wanted)
    assert found[age] > 0
    names = {name.partition("{")[0] for name in found}
    shown = set(re.findall(r"ray_(finedefics_\w+)", DASHBOARD.read_text()))
    # families are asked for by how they begin (`finedefics_loss.*`)
    assert not [one for one in shown if not any(name.startswith(one) for name in names)]
