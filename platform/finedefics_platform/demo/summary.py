"""The demo's end: one table, paired differences, a plain verdict, and a report a person wants to look at."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from finedefics.evaluation.tables import accuracy_table, differences
from finedefics.evaluation.verdict import verdict
from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.comparison.arms import with_evaluations
from finedefics_platform.comparison.making import gathered_runs
from finedefics_platform.comparison.reports import report_of
from finedefics_platform.comparison.subjects import find_subject
from finedefics_platform.data.store import Dataset
from finedefics_platform.evaluation.items import Evaluated
from finedefics_platform.models.registry import ModelVersion
from finedefics_platform.reporting.report import write_report
from finedefics_platform.search.run import SearchResult
from finedefics_platform.training.run import TrainedRun

TITLE = "Naming birds nobody labelled"


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
    subjects = [find_subject(workspace, run.key) for run in runs.values()]
    gathered = with_evaluations(gathered_runs(workspace, subjects), evaluations)
    data = report_of(workspace, gathered, title=TITLE)
    about = {
        "champion": version.reference,
        "dataset": dataset.reference,
        "seed": seed,
        **{name: value for name, value in data.provenance.items() if name != "commands"},
        "commands": [f"finedefics demo --seed {seed}"],
    }
    write_report(
        replace(
            data,
            kind="comparison of arms",
            table=table,
            verdict=sentences,
            differences=paired,
            trials=search.trials,
            provenance=about,
        ),
        report_file,
    )
    return Summary(table, paired, sentences, table_file, report_file)


def _categories(items: Mapping[str, pa.Table]) -> dict[str, int]:
    """How many categories the pictures of a group are of."""
    pictures = next(iter(items.values())).select(["group", "category_id"]).group_by("group")
    counted = pictures.aggregate([("category_id", "count_distinct")]).to_pylist()
    return {row["group"]: row["category_id_count_distinct"] for row in counted}
