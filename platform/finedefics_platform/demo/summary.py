"""The demo's end: one table, paired differences, a plain verdict, and a report a person wants to look at."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version as package_version
from typing import Any

import pyarrow as pa

from finedefics.evaluation.items import NEW, OPTIONS
from finedefics.evaluation.tables import accuracy_table, differences
from finedefics.evaluation.verdict import verdict
from finedefics.records import Sample
from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.experiment import Experiment
from finedefics_platform.data.store import Dataset
from finedefics_platform.demo.scale import SERVED
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
    table_file: Location
    report_file: Location


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
    sentences = verdict(table, paired, categories=_categories(items))
    table_file, report_file = workspace.demo / "table.json", workspace.demo / "report.html"
    table_file.write_json(table)
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
            embeddings={arm: _embeddings(evaluations[arm], dataset) for arm in ("base", SERVED)},
            provenance=_provenance(dataset, runs, experiments, version, seed),
        ),
        report_file,
    )
    return Summary(table, paired, sentences, table_file, report_file)


def _categories(items: Mapping[str, pa.Table]) -> dict[str, int]:
    """How many categories the pictures of a group are of."""
    pictures = next(iter(items.values())).select(["group", "category_id"]).group_by("group")
    counted = pictures.aggregate([("category_id", "count_distinct")]).to_pylist()
    return {row["group"]: row["category_id_count_distinct"] for row in counted}


def _history(run: TrainedRun) -> list[dict[str, Any]]:
    steps = [event for event in run.events() if event["event"] == "step"]
    return [{key: step[key] for key in ("stage", "step", "metrics")} for step in steps]


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
            if arm == SERVED and row["description"]:
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
        "workers": experiments[SERVED].resources.workers,
        "ZeRO stage": experiments[SERVED].deepspeed.zero_stage,
        "python": sys.version.split()[0],
        **{name: package_version(name) for name in PACKAGES},
        "reproduce": f"finedefics demo --seed {seed}",
    }
