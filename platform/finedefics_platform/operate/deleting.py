"""Deleting what was trained, searched or studied: only what nothing else needs, and the record with it."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from finedefics.errors import FinedeficsError, wrong_use
from finedefics_platform.base.names import meant
from finedefics_platform.base.storage import Location, discard, holder, lease
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.models.registry import ModelVersion, versions
from finedefics_platform.study.run import ADDRESSES
from finedefics_platform.study.run import RESULT as STUDY_RESULT
from finedefics_platform.tracking.own_database import has_records
from finedefics_platform.tracking.runs import (
    PIPELINE,
    SEARCH,
    STUDY,
    TRIAL,
    RunRecord,
    get_run,
    mark_deleted,
)

_WITH_ITS_RUN = ("stage", "evaluation", "study arm")


@dataclass(frozen=True)
class Doomed:
    """A run, search or study that is to go.

    Attributes:
        key: of it.
        kind: pipeline, trial, search, study, base or other.
        place: its folder, None where it has none (any more).
        bytes: of its files.
        run_id: of its MLflow run, None where it was not recorded.
        needed_by: who needs it, in words; then it stays.
    """

    key: str
    kind: str
    place: Location | None
    bytes: int
    run_id: str | None
    needed_by: tuple[str, ...]


def doomed(workspace: Workspace, references: Sequence[str]) -> list[Doomed]:
    """What deleting these would take, a search with its trials; nothing is touched.

    Args:
        references: keys, names or ids, as `tracking.runs.get_run` takes them, or keys of runs that were not
            recorded.

    Raises:
        FinedeficsError: there is no such run, or several, or one that goes with its run (exit code 2); or
            the tracking server is away, which knows what registered models need.
    """
    found: dict[str, tuple[str, str | None]] = {}  # key: kind and id
    for reference in references:
        record = _recorded(workspace, reference)
        if record is not None and record.kind in _WITH_ITS_RUN:
            raise wrong_use(
                f"this {record.kind} goes with its run",
                place=reference,
                cure=f"name that run: finedefics runs delete {record.parent}",
            )
        kind, key, run_id = _named(workspace, reference, record)
        found[key] = kind, run_id
        for trial in _trials(workspace, key) if kind == SEARCH else ():
            found.setdefault(trial, (TRIAL, None))  # marked deleted with the search's own
    registered = versions(workspace) if has_records(workspace) else []
    needs = _Needs(workspace, registered, set(found))
    return [_doomed(workspace, key, kind, run_id, needs) for key, (kind, run_id) in found.items()]


def delete(workspace: Workspace, each: Doomed) -> None:
    """Delete it: the record is marked, which can be undone until `finedefics gc`, then the folder goes.

    Raises:
        FinedeficsError: somebody works on it, the tracking server is away, or the place cannot be written to.
    """
    assert not each.needed_by, "what is needed stays"
    if each.place is None:
        _mark(workspace, each)
        return
    with lease(each.place / "lease", f"{each.kind} {each.key}", wait=False):
        _mark(workspace, each)
        discard(each.place)


def _mark(workspace: Workspace, each: Doomed) -> None:
    if each.run_id is not None:
        mark_deleted(workspace, each.run_id)


def _recorded(workspace: Workspace, reference: str) -> RunRecord | None:
    if not has_records(workspace):
        return None
    try:
        record = get_run(workspace, reference)
    except FinedeficsError as error:
        if error.exit_code != 2 or not error.thing.startswith("there is no"):
            raise
        return None
    return None if record.status == "deleted" else record


def _named(workspace: Workspace, reference: str, record: RunRecord | None) -> tuple[str, str, str | None]:
    """Kind, key and id."""
    if record is not None:
        return record.kind, record.key or record.run_id, record.run_id
    there = {place.name: kind for kind, place in _rooms(workspace) for place in place.children()}
    there.pop("steps", None)
    matching = [name for name in there if reference and name.startswith(reference)]
    if reference in there:
        matching = [reference]
    if len(matching) != 1:
        thing = "several runs begin like this" if matching else "there is no such run"
        several = f"give one of: {', '.join(matching[:5])}" if matching else ""
        cure = several or f"{meant(reference, there)}see `finedefics runs list`"
        raise wrong_use(thing, place=reference or "finedefics runs delete", cure=cure)
    return there[matching[0]], matching[0], None


def _rooms(workspace: Workspace) -> list[tuple[str, Location]]:
    return [(PIPELINE, workspace.runs), (SEARCH, workspace.searches), (STUDY, workspace.studies)]


def _doomed(workspace: Workspace, key: str, kind: str, run_id: str | None, needs: "_Needs") -> Doomed:
    room = dict(_rooms(workspace)).get(PIPELINE if kind == TRIAL else kind)
    place = room / key if room is not None else None
    if place is None or not place.exists():
        return Doomed(key, kind, None, 0, run_id, tuple(needs.of(key, kind, run_id, None)))
    return Doomed(key, kind, place, place.held()[0], run_id, tuple(needs.of(key, kind, run_id, place)))


def _trials(workspace: Workspace, key: str) -> list[str]:
    """Keys of a finished search's trials that were ever runs."""
    told = _json(workspace.searches / key / "search.json")
    return [trial["run"] for trial in told.get("trials", ()) if trial.get("run")]


class _Needs:
    """Who needs what; looked up once for all that is asked for."""

    def __init__(self, workspace: Workspace, registered: Sequence[ModelVersion], asked: Collection[str]):
        self._registered = registered
        self._best = {
            told["best"]["run"]: place.name
            for place in workspace.searches.children()
            if place.name not in asked and (told := _json(place / "search.json"))
        }
        self._steps = dict(_needed_steps(workspace, asked))

    def of(self, key: str, kind: str, run_id: str | None, place: Location | None) -> Iterator[str]:
        """In words."""
        for version in self._registered:
            if version.tags.get("run") == key or (run_id is not None and version.run_id == run_id):
                yield f"registered model {version.reference}"
        if kind in (PIPELINE, TRIAL):
            if key in self._best:
                yield f"search {self._best[key]}, whose best trial it is"
            if key in self._steps:
                yield self._steps[key]
        if place is not None and (somebody := holder(place / "lease")) is not None:
            yield f"{somebody}, who works on it"


def _needed_steps(workspace: Workspace, asked: Collection[str]) -> Iterator[tuple[str, str]]:
    """Runs that are steps of studies which stay."""
    studies = [p for p in workspace.studies.children() if p.name != "steps" and p.name not in asked]
    if not studies:
        return
    needed: dict[str, str] = {}
    unsure = None  # a study that is not finished does not say which steps are its own
    for place in studies:
        told = _json(place / STUDY_RESULT)
        if ADDRESSES not in told:
            unsure = place.name
        needed |= dict.fromkeys(told.get(ADDRESSES, ()), place.name)
    for file in (workspace.studies / "steps").children():
        address = file.name.removesuffix(".json")
        study = needed.get(address, unsure)
        record = _json(file)
        if study is not None and "run" in record.get("result", {}):
            yield record["result"]["run"], f"study {study} ({record['title']})"


def _json(file: Location) -> dict[str, Any]:
    try:
        return dict(file.read_json())
    except (FileNotFoundError, ValueError):
        return {}
