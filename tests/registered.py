"""Runs and evaluations as training and evaluating leave them, without training or evaluating."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finedefics.evaluation.schema import ITEMS
from finedefics_platform.base.content import model_digest
from finedefics_platform.base.digest import digest_of
from finedefics_platform.base.storage import commit, committed, fetch
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.experiment import parse_experiment
from finedefics_platform.evaluation.items import Evaluated, open_evaluation
from finedefics_platform.models.registration import register_run
from finedefics_platform.models.registry import ModelVersion, versions
from finedefics_platform.tracking.tracker import Tracker
from finedefics_platform.training.trained import TrainedRun, open_run

EXPERIMENT: dict[str, Any] = {
    "name": "one",
    "data": {"dataset": "birds"},
    "model": {"path": "base"},
    "stages": [{"name": "align", "steps": 4, "feeds": {"labelled": 8}, "terms": {"answer": 1}}],
}


def trained_run(
    workspace: Workspace,
    key: str,
    *,
    model: Path | None = None,
    labelled: Sequence[str] = ("tern",),
    dataset: str = "birds@d1",
    tracked: bool = True,
    **settings: Any,
) -> TrainedRun:
    """A finished run; its model is a copy of ``model``, or weights that say the run's key."""
    place = workspace.runs / key
    with commit(place / "training-1" / "model") as draft:
        if model is None:
            (draft / "config.json").write_text("{}")
            (draft / "w.safetensors").write_text(key)
        else:
            for file in model.iterdir():
                (draft / file.name).write_bytes(file.read_bytes())
    experiment = parse_experiment(EXPERIMENT | settings, place="test")
    (place / "experiment.json").write_json(experiment.model_dump(mode="json"))
    tracker = Tracker(workspace, "models")
    run_id = tracker.parent("train", key=key) if tracked else None
    if run_id:
        tracker.finish(run_id)
    result = {
        "training": "training-1",
        "model": "training-1/model",
        "experiment": experiment.model_dump(mode="json"),
        "dataset": dataset,
        "dataset_digest": dataset.partition("@")[2],
        "config_digest": "config-digest",
        "base": "base-digest",
        "labelled": list(labelled),
        "parent_run_id": run_id,
        "metrics": {},
    }
    (place / "result.json").write_json(result)
    return open_run(workspace, key)


def evaluation_of(
    workspace: Workspace,
    run: TrainedRun,
    right: Sequence[bool],
    *,
    dataset: str = "birds@d1",
    split: str = "test",
    limit: int | None = None,
    answers: Sequence[str] = ("alignment",),
    categories: Sequence[str] = ("gull",),
    index: Path | None = None,
    **more: Any,
) -> Evaluated:
    """An evaluation on pictures ``p0`` …, each right or wrong by every answer, all wrong among options.

    ``more`` goes into its summary.
    """
    protocol = {"answers": list(answers), "options": 4, "seed": 0}
    about = {
        "dataset": dataset,
        "dataset_digest": dataset.partition("@")[2],
        "split": split,
        "limit": limit,
        "protocol": protocol,
        "model_digest": model_digest(fetch(run.model)),
        "labelled_digest": digest_of(sorted(run.labelled)),
    }
    place = workspace.evaluations / digest_of([about, list(right)])
    rows = [
        {
            "sample_id": f"p{number}",
            "category_id": categories[number % len(categories)],
            "group": "new",
            "answer": answer,
            "scope": scope,
            "predicted": "gull",
            "correct": hit and scope == "all",
            "description": None,
        }
        for answer in answers
        for scope in ("all", "options")
        for number, hit in enumerate(right)
    ]
    if committed(place) is None:
        with commit(place) as draft:
            pq.write_table(pa.Table.from_pylist(rows, ITEMS), draft / "items.parquet")
            told = {
                "pictures": len(right),
                "unparseable": dict.fromkeys(answers, 0.0),
                "chance": {"all": 0.05, "options": 0.25},
                "leaks": {"pictures": 0, "of": len(right)},
                "finished": 1.7e9,
            }
            (draft / "summary.json").write_text(json.dumps({**about, **told, **more}))
            (draft / "index").mkdir()
            for file in index.iterdir() if index else ():
                (draft / "index" / file.name).write_bytes(file.read_bytes())
            if index is None:
                (draft / "index" / "categories.json").write_text("[]")
    return open_evaluation(place)


def answers(right: int, n: int = 400, *, first: int = 0) -> list[bool]:
    """``right`` of ``n`` pictures, beginning at ``first``; 400 are enough to show what is equal."""
    hits = {(number + first) % n for number in range(right)}
    return [number in hits for number in range(n)]


def registered(
    workspace: Workspace, name: str, right: int, n: int = 400, *, first: int = 0, **more: Any
) -> ModelVersion:
    """A new run, evaluated and registered."""
    run = trained_run(workspace, f"{name}-{len(versions(workspace, name))}")
    return register_run(
        workspace, name, run, evaluation_of(workspace, run, answers(right, n, first=first), **more)
    )
