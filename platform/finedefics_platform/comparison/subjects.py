"""What a user calls a run, a search or a study: found in the workspace by key, name or what MLflow shows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from finedefics.errors import FinedeficsError, wrong_use
from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.models.decisions import named_version
from finedefics_platform.models.registry import is_registered
from finedefics_platform.tracking.own_database import has_records, nothing_recorded
from finedefics_platform.tracking.runs import RunRecord, get_run

Kind = Literal["run", "search", "study", "recorded"]

_FILES: dict[Kind, str] = {"run": "experiment.json", "search": "search.json", "study": "study.json"}
_SHOWN = 12  # names in an error's one line
_DEEPEST = 4  # runs above a stage's or a trial's


@dataclass(frozen=True)
class Subject:
    """A thing that can be reported or compared.

    Attributes:
        kind: ``recorded`` is a run that the tracking server has, and this workspace has no folder of.
        place: of its folder in the workspace.
        record: of what is recorded only.
    """

    kind: Kind
    place: Location
    record: RunRecord | None = field(default=None, compare=False)

    @property
    def key(self) -> str:
        """``<name>-<digest>``."""
        return self.place.name

    @property
    def name(self) -> str:
        """As its file calls it."""
        return self.key.rpartition("-")[0] or self.key


def find_subject(workspace: Workspace, reference: str, *, recorded: bool = False) -> Subject:
    """The run, search or study that a reference names.

    Args:
        reference: a key or the beginning of one; a name, where one thing has it; a registered model
            (``birds@champion``: the run that made it); an id or name that `finedefics runs list` shows (of a
            stage: the run it belongs to).
        recorded: whether one that is recorded alone, without a folder in this workspace, will do.

    Raises:
        FinedeficsError: nothing or more than one thing has this name, or it is not in this workspace.
    """
    there = list(_all(workspace))
    for wanted in (
        [one for one in there if one.key == reference],
        [one for one in there if one.name == reference],
        [one for one in there if reference and one.key.startswith(reference)],
    ):
        if len(wanted) == 1:
            return wanted[0]
        if wanted:
            cure = f"choose one of: {_listed(wanted)}"
            raise wrong_use("several things are called so", place=reference, cure=cure)
    record = _record(workspace, reference)
    for one in there:
        if record is not None and one.key == record.key:
            return one
    if record is not None:
        if recorded:
            return Subject("recorded", workspace.runs / (record.key or record.run_id), record)
        raise FinedeficsError(
            "it was recorded, but its folder is not in this workspace",
            place=reference,
            cure="set FINEDEFICS_HOME to the workspace that it was made in",
        )
    if not there and not has_records(workspace):
        raise nothing_recorded(workspace)
    cure = f"choose one of: {_listed(there)}" if there else "train one with `finedefics train`"
    raise wrong_use("there is no run, search or study of this name", place=reference or "''", cure=cure)


def _all(workspace: Workspace) -> Iterator[Subject]:
    places: dict[Kind, Location] = {
        "run": workspace.runs,
        "search": workspace.searches,
        "study": workspace.studies,
    }
    for kind, place in places.items():
        for child in place.children():
            if (child / _FILES[kind]).is_file():
                yield Subject(kind, child)


def _record(workspace: Workspace, reference: str) -> RunRecord | None:
    """The recorded run that a reference names, or that a registered model's version was made by."""
    if not has_records(workspace):
        return None
    if ("@" in reference or "/" in reference) and is_registered(workspace, reference):
        reference = named_version(workspace, reference).run_id
    try:
        record = get_run(workspace, reference)
    except FinedeficsError as error:
        if error.exit_code != 2 or error.thing.startswith("several"):
            raise
        return None
    for _ in range(_DEEPEST):
        if record.key is not None or record.parent is None:
            break
        record = get_run(workspace, record.parent)
    return record


def _listed(there: Sequence[Subject]) -> str:
    names = [one.key for one in there]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
