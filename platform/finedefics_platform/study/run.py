"""A study from its file to its result: planned, done as far as it can be, told, recorded."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from finedefics.errors import FinedeficsError, wrong_use
from finedefics_platform.base.names import meant
from finedefics_platform.base.progress import SILENT, Progress
from finedefics_platform.base.storage import Location, lease
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.study.document import OWN, Study
from finedefics_platform.study.execution import Outcome, carry_out
from finedefics_platform.study.page import write_pages
from finedefics_platform.study.plan import Cell, Plan, plan
from finedefics_platform.study.result import name_of, summary
from finedefics_platform.tracking.tracker import Tracker

RESULT, EVENTS = "study.json", "events"
ADDRESSES = "addresses"  # in the result: of its steps


@dataclass(frozen=True)
class StudyResult:
    """A study whose steps were done, as far as they could be.

    Attributes:
        key: ``<name>-<digest>`` of all that the file says but its words.
        place: ``studies/<key>``, with ``study.json``, ``study.md``, ``study.html`` and ``events/``.
        summary: what ``study.json`` holds.
        figures: how many it is made of: arms, conditions, worlds and seeds multiplied.
        done, reused: steps done now, and steps that were finished before.
        parent_run_id: the study's MLflow run, None where nothing tracked it.
    """

    key: str
    place: Location
    summary: dict[str, Any]
    figures: int
    done: int
    reused: int
    parent_run_id: str | None


def run_study(
    workspace: Workspace,
    study: Study,
    documents: Mapping[str, Mapping[str, Any]],
    *,
    tracker: Tracker | None = None,
    progress: Progress = SILENT,
    at_once: int | None = None,
) -> StudyResult:
    """Do a study's steps and write its result; finished steps are found again, whichever study did them.

    A step that fails leaves the others alone: the result says which arms and worlds are missing.

    Args:
        documents: the experiments of the trained arms (`load_study`).
        tracker: records one run for the study and under it one for each arm and world.
        at_once: at most so many steps at a time; default: what the cluster has room for.

    Raises:
        FinedeficsError: the file does not fit what is there.
    """
    planned = plan(workspace, study, documents)
    place = workspace.studies / planned.key
    with (
        lease(place / "lease", f"study {planned.key}", progress=progress),
        _recorded(tracker, planned) as record,
    ):
        progress.event("recording", study=planned.key, mlflow_run=record.run)
        outcome = carry_out(workspace, planned, place, progress, at_once)
        told = {**summary(planned, outcome), ADDRESSES: sorted(planned.steps)}
        (place / RESULT).write_json(told)
        write_pages(told, place)
        if tracker is not None and record.run is not None:
            _record(tracker, record.run, planned, outcome, told, place)
        if outcome.failed:
            record.why = f"{len(outcome.failed)} steps failed, first: {next(iter(outcome.failed.values()))}"
    return StudyResult(planned.key, place, told, len(planned.cells), outcome.done, outcome.reused, record.run)


def open_study(workspace: Workspace, name: str) -> tuple[Location, dict[str, Any]]:
    """The place and the result of a study, by its key or the beginning of it; of several the newest.

    Raises:
        FinedeficsError: there is no such study, or it has no result yet.
    """
    there = [p for p in workspace.studies.children() if p.name != "steps" and p.name.startswith(name)]
    if not there or not name:
        names = [p.name for p in workspace.studies.children() if p.name != "steps"]
        cure = f"{meant(name, names)}choose one of: {', '.join(names)}"
        if not names:
            cure = f"run one with `finedefics study run FILE` (looked in {workspace.studies})"
        raise wrong_use("there is no such study", place=name or "finedefics study show", cure=cure)
    exact = [p for p in there if p.name.rpartition("-")[0] == name] or there
    told = [p for p in exact if (p / RESULT).is_file()]
    if not told:
        cure = "run `finedefics study run` with its file: it goes on"
        raise FinedeficsError("this study is not finished", place=exact[0].name, cure=cure)
    newest = max(told, key=lambda p: (p / RESULT).modified())
    return newest, dict((newest / RESULT).read_json())


@dataclass
class _Record:
    """The study's own run, and why it is not finished where steps of it failed."""

    run: str | None
    why: str | None = None


@contextmanager
def _recorded(tracker: Tracker | None, planned: Plan) -> Iterator[_Record]:
    """The study's own run: open while it is worked on, and finished if all its steps are."""
    if tracker is None:
        yield _Record(None)
        return
    params = planned.study.model_dump(mode="json", exclude={"name", "arms", "comparisons", "limits"})
    run = tracker.parent(planned.study.name, key=planned.key, tags={"kind": "study"}, params=params)
    record = _Record(run)
    try:
        yield record
    except BaseException as error:
        tracker.finish(run, "FAILED" if isinstance(error, Exception) else "KILLED", why=error)
        raise
    tracker.finish(run, "FAILED" if record.why else "FINISHED", why=record.why)


def _record(
    tracker: Tracker,
    parent: str,
    planned: Plan,
    outcome: Outcome,
    told: Mapping[str, Any],
    place: Location,
) -> None:
    """One run for each arm, world and condition, with its figures; the differences are the study's own."""
    for condition, arm, world in dict.fromkeys((c.condition, c.arm, c.world) for c in planned.cells):
        cells = [planned.cells[Cell(condition, arm, world, seed)] for seed in planned.study.seeds]
        named = name_of(condition, arm)
        runs = [run for address, *_ in cells for run in _runs(planned, outcome, address)]
        tags = {"kind": "study arm", "arm": arm, "world": world, "condition": condition or OWN}
        tags["runs"] = ", ".join(dict.fromkeys(runs))
        child = tracker.child(parent, f"{named}, {world}", tags=tags)
        figures = told["figures"][named].get(world)
        if figures is not None:
            tracker.metrics(child, 0, figures)
        tracker.finish(child, "FINISHED" if figures is not None else "FAILED")
    for row in told["differences"]:
        if row["planned"] and row["mean"] is not None:
            name = f"{row['arm']} - {row['against']}/{row['metric']}".replace("@", "in")
            tracker.metrics(parent, 0, {name: row["mean"]})
    for name in (RESULT, "study.md", "study.html"):
        tracker.artifact(parent, place / name)


def _runs(planned: Plan, outcome: Outcome, address: str) -> Iterator[str]:
    """Keys of the training runs behind a figure."""
    for need in planned.steps[address].needs:
        result = outcome.records.get(need, {}).get("result", {})
        if "run" in result:
            yield result["run"]
