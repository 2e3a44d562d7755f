"""The demo's end: one table, paired differences, a plain verdict, and a report a person wants to look at."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

from finedefics.evaluation.items import NEW, OPTIONS
from finedefics.evaluation.tables import accuracy_table, differences
from finedefics.evaluation.verdict import verdict
from finedefics.records import Sample
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.experiment import Experiment
from finedefics_platform.data.store import Dataset
from finedefics_platform.evaluation.items import Evaluated
from finedefics_platform.models.registry import ModelVersion
from finedefics_platform.reporting.report import ReportData, write_report
from finedefics_platform.search.run import SearchResult
from finedefics_platform.training.run import TrainedRun

TITLE = "Naming birds nobody labelled"
SHOWN_SAMPLES = 12
PACKAGES = ("finedefics", "torch", "transformers", "ray", "deepspeed", "mlflow")


@dataclass(frozen=True)
class Summary:
    """The demo's result in numbers and words.

    Attributes:
        table: ``{arm: {answer: {group: {"accuracy", "low", "high", "n"}, "pictures_per_second"}}}``.
        differences: paired differences to the control (`finedefics.evaluation.tables.differences`).
        sentences: what the numbers show and do not show.
        table_file, report_file: where table and report were written.
    """

    table: dict[str, Any]
    differences: list[dict[str, Any]]
    sentences: list[str]
    table_file: Path
    report_file: Path


def summarise(
    workspace: Workspace,
    dataset: Dataset,
    runs: Mapping[str, TrainedRun],
    evaluations: Mapping[str, Evaluated],
    search: SearchResult,
    version: ModelVersion,
    experiments: Mapping[str, Experiment],
    seed: int,
) -> Summary:
    """Write ``table.json`` and ``report.html`` into the workspace's demo folder."""
    items = {arm: evaluated.items() for arm, evaluated in evaluations.items()}
    speeds = {arm: evaluated.summary["pictures_per_second"] for arm, evaluated in evaluations.items()}
    table = accuracy_table(items, speeds)
    paired = differences(items)
    sentences = verdict(table, paired)
    table_file, report_file = workspace.local.demo / "table.json", workspace.local.demo / "report.html"
    _write_whole(table_file, json.dumps(table, indent=1))
    write_report(
        ReportData(
            title=TITLE,
            table=table,
            options_table=accuracy_table(items, speeds, scope=OPTIONS),
            differences=paired,
            verdict=sentences,
            retrieval={arm: evaluated.summary["retrieval"] for arm, evaluated in evaluations.items()},
            histories={arm: _history(run) for arm, run in runs.items()},
            trials=search.trials,
            samples=_samples(dataset, items),
            embeddings={arm: _embeddings(evaluations[arm], dataset) for arm in ("base", "joint")},
            provenance=_provenance(dataset, runs, experiments, version, seed),
        ),
        report_file,
    )
    return Summary(table, paired, sentences, table_file, report_file)


def _write_whole(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}")
    aside.write_text(text)
    aside.replace(path)


def _history(run: TrainedRun) -> list[dict[str, Any]]:
    return [{k: e[k] for k in ("stage", "step", "metrics")} for e in run.events() if e["event"] == "step"]


def _samples(dataset: Dataset, items: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A few held-out pictures of new and labelled species with every arm's answers."""
    names = {category.category_id: category.name for category in dataset.categories()}
    labelled = dataset.labelled_category_ids()
    samples = [s for s in dataset.samples("test") if s.category_id is not None]
    new = [s for s in samples if s.category_id not in labelled]
    old = [s for s in samples if s.category_id in labelled]
    half = SHOWN_SAMPLES // 2
    chosen = [*new[:: max(1, len(new) // half)][:half], *old[:: max(1, len(old) // half)][:half]]
    answers: dict[str, dict[str, dict[str, Any]]] = {s.sample_id: {} for s in chosen}
    words: dict[str, str] = {}
    for arm, table in items.items():
        for row in table.to_pylist():
            if row["scope"] != "all" or row["sample_id"] not in answers:
                continue
            said = {"name": names[row["predicted"]], "correct": row["correct"]}
            answers[row["sample_id"]].setdefault(arm, {})[row["answer"]] = said
            if arm == "joint" and row["description"]:
                words[row["sample_id"]] = row["description"]
    return [_shown(sample, names, labelled, words, answers) for sample in chosen]


def _shown(
    sample: Sample,
    names: Mapping[str, str],
    labelled: set[str],
    words: Mapping[str, str],
    answers: Mapping[str, Any],
) -> dict[str, Any]:
    category = sample.category_id or ""
    return {
        "image": sample.image,
        "truth": names[category],
        "group": "labelled" if category in labelled else NEW,
        "description": words.get(sample.sample_id, ""),
        "answers": answers[sample.sample_id],
    }


def _embeddings(evaluated: Evaluated, dataset: Dataset) -> dict[str, Any]:
    stored = evaluated.embeddings()
    names = {category.category_id: category.name for category in dataset.categories()}
    labelled = dataset.labelled_category_ids()
    owner = {s.sample_id: s.category_id or "" for s in dataset.samples("test")}
    owners = [owner[sample_id] for sample_id in stored["sample_ids"].tolist()]
    return {
        "objects": stored["objects"],
        "object_groups": ["labelled" if category in labelled else NEW for category in owners],
        "object_categories": [names[category] for category in owners],
        "texts": stored["name"],
        "text_names": [names[i] for i in stored["category_ids"].tolist()],
    }


def _provenance(
    dataset: Dataset,
    runs: Mapping[str, TrainedRun],
    experiments: Mapping[str, Experiment],
    version: ModelVersion,
    seed: int,
) -> dict[str, Any]:
    return {
        "dataset": dataset.reference,
        "seed": seed,
        "champion": version.reference,
        **{f"configuration of {arm}": run.config_digest for arm, run in runs.items()},
        "workers": experiments["joint"].resources.workers,
        "ZeRO stage": experiments["joint"].deepspeed.zero_stage,
        "python": sys.version.split()[0],
        **{name: package_version(name) for name in PACKAGES},
        "reproduce": f"finedefics demo --seed {seed}",
    }
