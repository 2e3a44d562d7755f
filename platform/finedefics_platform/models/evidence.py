"""What a version showed: evaluations of it, each with what it was measured on. They are added, never changed.

A record stands in the version's tags; which pictures were answered correctly stands in a table beside the
packages (``models/evidence/``), and on the run as well where the registry is a server.
"""

import json
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finedefics.evaluation.items import ALL, LABELLED, NEW, OPTIONS
from finedefics.evaluation.tables import accuracy_table
from finedefics_platform.base.digest import digest_of
from finedefics_platform.base.storage import Location, cached
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.evaluation.items import Evaluated
from finedefics_platform.models.gate import Ground, Measured, Slice
from finedefics_platform.models.packaging import is_served
from finedefics_platform.models.registry import ModelVersion
from finedefics_platform.models.texts import gathered, spread
from finedefics_platform.tracking.mlflow_client import answered, is_refusal, open_client

if TYPE_CHECKING:
    from mlflow import MlflowClient

TAG = "evidence."
_TOLD = ("unparseable", "chance", "leaks")  # of a summary, kept with the figures
COLUMNS = ("sample_id", "category_id", "group", "answer", "scope", "correct")


@dataclass(frozen=True)
class Evidence:
    """An evaluation of a version.

    Attributes:
        evaluation: the evaluation's digest.
        ground: dataset version, split, options, seed, and the file that the options are of.
        limit: pictures that were asked for; None for the whole split.
        answers: the ways of answering.
        pictures: how many were answered.
        figures: ``{answer: {group: {"accuracy", "low", "high", "n"}}}``; the groups are told by the
            version's own training. An answer given among options only has the figures of those.
        scopes: ``{answer: "all" | "options"}``, what the figures of an answer count.
        table: file of the items in ``models/evidence/``.
        at: ISO time at which it was added, by the clock of who added it.
        unparseable, chance, leaks: as in the evaluation's summary; None where it did not say, as older ones.
    """

    evaluation: str
    ground: Ground
    limit: int | None
    answers: tuple[str, ...]
    pictures: int
    figures: Mapping[str, Any]
    scopes: Mapping[str, str]
    table: str
    at: str
    unparseable: Mapping[str, float] | None = None
    chance: Mapping[str, float] | None = None
    leaks: Mapping[str, Any] | None = None

    def tags(self) -> dict[str, str]:
        """The record as tags of the version."""
        return spread(TAG + self.evaluation, json.dumps(asdict(self), sort_keys=True))


def collect(evaluated: Evaluated, labelled: Collection[str], at: str) -> tuple[Evidence, pa.Table]:
    """The record of an evaluation and its items, grouped by which categories had labels in training."""
    summary = evaluated.summary
    items = _grouped(evaluated.items().select(COLUMNS), labelled)
    name = evaluated.place.name
    figures, scopes = figures_of(items)
    evidence = Evidence(
        evaluation=name,
        ground=ground_of(summary),
        limit=summary["limit"],
        answers=tuple(summary["protocol"]["answers"]),
        pictures=summary["pictures"],
        figures=figures,
        scopes=scopes,
        table=f"{name}-{digest_of(sorted(labelled))}.parquet",
        at=at,
        **{of: summary.get(of) for of in _TOLD},
    )
    return evidence, items


def ground_of(summary: Mapping[str, Any]) -> Ground:
    """What an evaluation was measured on, by its summary."""
    protocol = summary["protocol"]
    return Ground(
        summary["dataset"],
        summary["dataset_digest"],
        summary["split"],
        protocol["options"],
        protocol["seed"],
        summary.get("options_file", {}).get("name", ""),
    )


def figures_of(items: pa.Table) -> tuple[dict[str, Any], dict[str, str]]:
    """Figures by answer and group, and the scope of each answer's: what competes with every category says
    more than what competes with a few."""
    tables = {s: accuracy_table({"": items}, {}, s)[""] for s in (OPTIONS, ALL)}
    figures = {answer: cells for scope in (OPTIONS, ALL) for answer, cells in tables[scope].items()}
    return figures, {answer: ALL if answer in tables[ALL] else OPTIONS for answer in figures}


def keep_items(
    workspace: Workspace, client: "MlflowClient", run_id: str, evidence: Evidence, items: pa.Table
) -> None:
    """Store the items before the record that names them."""
    place = _place(workspace, evidence)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / evidence.table
        pq.write_table(items, file)
        if not place.is_file():
            place.upload(file)
        if is_served(workspace):
            client.log_artifact(run_id, str(file), "evidence")


def evidence_of(version: ModelVersion) -> list[Evidence]:
    """The evaluations of a version, the largest first."""
    found = []
    for key in version.tags:
        if key.startswith(TAG) and ".part" not in key:
            record = json.loads(gathered(version.tags, key) or "")
            ground = Ground(**record.pop("ground"))
            found.append(Evidence(ground=ground, **{**record, "answers": tuple(record["answers"])}))
    return sorted(found, key=lambda one: (-one.pictures, one.at))


def figures(version: ModelVersion) -> dict[str, Any]:
    """A version's figures by answer and group, each of the largest evaluation that has the answer."""
    return {a: cells for one in reversed(evidence_of(version)) for a, cells in one.figures.items()}


def measured(workspace: Workspace, version: ModelVersion) -> list[Measured]:
    """The evaluations of a version as the gate reads them; without items where those are not to be had."""
    return [_measured(workspace, version, one) for one in evidence_of(version)]


def measured_of(summary: Mapping[str, Any], items: pa.Table) -> Measured:
    """An evaluation of what is no version, as the gate reads it: groups are those of its own items."""
    figures, scopes = figures_of(items)
    told = {of: summary.get(of) for of in _TOLD}
    return _as_measured(ground_of(summary), summary["limit"], figures, scopes, items, told)


def _measured(workspace: Workspace, version: ModelVersion, evidence: Evidence) -> Measured:
    file = _items_file(workspace, version, evidence)
    told = {of: getattr(evidence, of) for of in _TOLD}
    items = pq.read_table(file) if file is not None else None
    return _as_measured(evidence.ground, evidence.limit, evidence.figures, evidence.scopes, items, told)


def _as_measured(
    ground: Ground,
    limit: int | None,
    figures: Mapping[str, Any],
    scopes: Mapping[str, str],
    items: pa.Table | None,
    told: Mapping[str, Any],
) -> Measured:
    by_slice: dict[str, dict[str, bool]] = {}
    if items is not None:
        for row in items.select(COLUMNS).to_pylist():
            if row["scope"] == scopes.get(row["answer"]):
                of_slice = by_slice.setdefault(f"{row['answer']}/{row['group']}", {})
                of_slice[row["sample_id"]] = row["correct"]
    slices = {
        (name := f"{answer}/{group}"): Slice(
            cell["accuracy"], cell["n"], by_slice.get(name, {}), cell["low"], cell["high"], scopes[answer]
        )
        for answer, cells in figures.items()
        for group, cell in cells.items()
    }
    return Measured(ground, slices, limit, told["unparseable"], told["chance"], told["leaks"])


def _items_file(workspace: Workspace, version: ModelVersion, evidence: Evidence) -> Path | None:
    place = _place(workspace, evidence)
    if not place.is_file() and is_served(workspace):
        _download(workspace, version.run_id, evidence, place)
    return cached(place) if place.is_file() else None


def _download(workspace: Workspace, run_id: str, evidence: Evidence, place: Location) -> None:
    """Registered from another workspace: the server has the table with the run."""
    client = open_client(workspace)
    with tempfile.TemporaryDirectory() as folder, answered(workspace):
        try:
            file = client.download_artifacts(run_id, f"evidence/{evidence.table}", folder)
        except Exception as error:
            if not is_refusal(error):
                raise
            return
        place.upload(Path(file))


def _place(workspace: Workspace, evidence: Evidence) -> Location:
    return workspace.models / "evidence" / evidence.table


def _grouped(items: pa.Table, labelled: Collection[str]) -> pa.Table:
    had = pc.is_in(items["category_id"], value_set=pa.array(sorted(labelled), pa.string()))
    return items.set_column(items.column_names.index("group"), "group", pc.if_else(had, LABELLED, NEW))
