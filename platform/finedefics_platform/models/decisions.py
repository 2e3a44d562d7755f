"""The log of decisions on who is champion: entries that the registry numbers, and nobody can overwrite.

The log of ``birds`` is the registered model ``birds-decisions``; each of its versions is a decision, written
in one request and given its number by the server, so that of two that decide at once one comes first. A
decision says on which one it was based; if that is not the latest valid one any more, it is void. The aliases
``champion`` and ``previous`` are set from the latest valid decision afterwards, and again by whoever looks
next if that did not happen. An alias that differs from a decision that was carried out was moved by hand.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from finedefics.errors import FinedeficsError
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.models.registry import (
    CANDIDATE,
    CHAMPION,
    DECISIONS,
    KIND,
    PREVIOUS,
    ModelVersion,
    get_version,
    make_registered_model,
    open_reader,
    own_tags,
    parse,
    stored_versions,
    versions,
)
from finedefics_platform.models.texts import PREFIX, gathered, spread
from finedefics_platform.tracking.mlflow_client import answered, open_client
from finedefics_platform.tracking.own_database import has_records

if TYPE_CHECKING:
    from mlflow import MlflowClient

CARRIED_OUT = "carried_out"


@dataclass(frozen=True)
class Entry:
    """One decision.

    Attributes:
        action: promote, rollback or restore (an alias moved by hand was put back).
        version: the champion by this decision.
        before: the champion before it; the ``previous`` one after it.
        by, at, reason: who, when (ISO time by their clock), why.
        based_on: number of the decision that was the latest then; 0 for none.
        forced: why the gate was overruled, None where it was not.
        decision: the gate's answer: ``allowed`` and ``reasons``.
        figures: of the version, by answer and group.
        number: given by the registry.
        void: another decision was faster.
        carried_out: the aliases were set from it.
    """

    action: str
    version: int
    before: int | None
    by: str
    at: str
    reason: str
    based_on: int
    forced: str | None = None
    decision: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    number: int = 0
    void: bool = False
    carried_out: bool = False


@dataclass(frozen=True)
class Standing:
    """Who is champion by the log, and by the alias in the registry."""

    name: str
    latest: Entry | None
    alias: int | None

    @property
    def champion(self) -> int | None:
        """The champion's version by the log."""
        return self.latest.version if self.latest else None

    @property
    def moved(self) -> str | None:
        """A sentence where the alias was moved around the gate, else None."""
        if self.alias == self.champion:
            return None
        now, then = (f"{self.name}/{v}" if v else "nothing" for v in (self.alias, self.champion))
        return f"the alias champion was moved by hand to {now}; the log of decisions says {then}"


def read_log(workspace: Workspace, name: str) -> list[Entry]:
    """All decisions on a model, oldest first, the void ones marked; none, and nothing made, where nothing was
    recorded."""
    if not has_records(workspace):
        return []
    client = open_reader(workspace)
    with answered(workspace):
        stored = stored_versions(client, name + DECISIONS)
    entries: list[Entry] = []
    latest = 0
    for one in reversed(stored):
        tags = own_tags(one)
        record = json.loads(gathered(tags, "decision") or "{}")
        if not record:  # somebody else made this version
            continue
        # What an entry is based on is the latest one, or one that was deleted from the registry since.
        void = record["based_on"] < latest
        latest = latest if void else int(one.version)
        entries.append(Entry(**record, number=int(one.version), void=void, carried_out=CARRIED_OUT in tags))
    return entries


def champions(workspace: Workspace, name: str) -> dict[int, Entry]:
    """Versions that were made champion, each with the last decision that did it."""
    return {entry.version: entry for entry in read_log(workspace, name) if not entry.void}


def write(workspace: Workspace, name: str, entry: Entry) -> Entry:
    """Add a decision and see that it stands; the aliases are set from it.

    Raises:
        FinedeficsError: somebody else decided meanwhile: the message says who, on what.
    """
    record = asdict(entry)
    for key in ("number", "void", "carried_out"):
        record.pop(key)
    client = open_client(workspace)
    with answered(workspace):
        make_registered_model(
            client,
            name + DECISIONS,
            tags={KIND: "decisions"},
            description=f"Log of who is champion of {name} and why; written by finedefics, a version each.",
        )
        said = {f"{PREFIX}{key}": str(record[key]) for key in ("action", "version", "before", "by", "at")}
        made = client.create_model_version(
            name + DECISIONS,
            f"models:/{name}/{entry.version}",
            tags=said | spread("decision", json.dumps(record, sort_keys=True)),
            description=f"{entry.action} {name}/{entry.version} by {entry.by}",
        )
    log = read_log(workspace, name)
    own = next(one for one in log if one.number == int(made.version))
    if own.void:
        winner = [one for one in log if not one.void and one.number < own.number][-1]
        raise FinedeficsError(
            f"{winner.by} made {name}/{winner.version} champion while this was decided "
            f"(decision {winner.number}: {winner.reason}), so decision {own.number} is void",
            place=f"{name}/{entry.version}",
            cure="look at `finedefics models show`, and decide again",
        )
    standing(workspace, name)
    return replace(own, carried_out=True)


def standing(workspace: Workspace, name: str) -> Standing:
    """Where things stand; a decision that has not reached the aliases yet is carried out first."""
    if not has_records(workspace):
        return Standing(name, None, None)
    done: int | None = None
    while True:
        latest = _latest(read_log(workspace, name))
        # Slower than a decision that came meanwhile, one would have left its aliases as they were before.
        if latest is None or (latest.carried_out and done in (None, latest.number)):
            break
        client = open_client(workspace)
        with answered(workspace):
            _set_aliases(client, name, latest)
            client.set_model_version_tag(
                name + DECISIONS, str(latest.number), f"{PREFIX}{CARRIED_OUT}", "yes"
            )
        done = latest.number
    with answered(workspace):
        alias = _aliases(open_reader(workspace), name).get(CHAMPION)
    return Standing(name, latest, alias)


def named_version(workspace: Workspace, reference: str) -> ModelVersion:
    """The version that a reference names; ``@champion`` is the one that was decided on.

    Raises:
        FinedeficsError: there is none, or the alias champion was moved around the gate.
    """
    name, _, alias = parse(reference)
    found = get_version(workspace, reference) if alias != CHAMPION else None
    if found is not None:
        return found
    if not versions(workspace, name):
        return get_version(workspace, reference)  # says which models there are
    now = standing(workspace, name)
    if now.moved:
        raise FinedeficsError(now.moved, place=f"{name}@{CHAMPION}", cure=cure_of(now))
    return get_version(workspace, reference)


def cure_of(moved: Standing) -> str:
    """How a champion that was moved by hand is confirmed or put back."""
    confirm = f"finedefics models promote {moved.name} {moved.alias or 'VERSION'} --reason …"
    back = f", or put it back: `finedefics models rollback {moved.name}`" if moved.champion else ""
    return f"confirm it: `{confirm}`{back}"


def _latest(log: list[Entry]) -> Entry | None:
    return next((entry for entry in reversed(log) if not entry.void), None)


def _aliases(client: Any, name: str) -> dict[str, int]:
    found = client.search_registered_models(filter_string=f"name = '{name}'")
    return {alias: int(number) for model in found for alias, number in model.aliases.items()}


def _set_aliases(client: "MlflowClient", name: str, entry: Entry) -> None:
    aliases = _aliases(client, name)
    if entry.before is not None:
        client.set_registered_model_alias(name, PREVIOUS, str(entry.before))
    elif PREVIOUS in aliases:
        client.delete_registered_model_alias(name, PREVIOUS)
    client.set_registered_model_alias(name, CHAMPION, str(entry.version))
    if aliases.get(CANDIDATE) == entry.version:
        client.delete_registered_model_alias(name, CANDIDATE)
