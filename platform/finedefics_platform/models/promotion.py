"""Who may be champion: promotion through the gate, rollback, and the history of both."""

import getpass
import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from finedefics.errors import FinedeficsError, wrong_use
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.models.gate import Decision, Figures, GatePolicy, decide
from finedefics_platform.models.registry import (
    CANDIDATE,
    CHAMPION,
    PREFIX,
    PREVIOUS,
    ModelVersion,
    get_version,
    open_model,
    versions,
)
from finedefics_platform.tracking.mlflow_client import answered, open_client

# One tag an event: a tag is written whole, so two people promoting at once cannot lose each other's entry.
EVENT = f"{PREFIX}event."


@dataclass(frozen=True)
class Change:
    """What a promotion or rollback did; ``changed`` is False if the version was champion already."""

    name: str
    version: int
    before: int | None
    changed: bool
    decision: Decision
    forced: str | None = None


def promote(
    workspace: Workspace,
    name: str,
    version: int,
    *,
    reason: str,
    policy: GatePolicy | None = None,
    by: str | None = None,
    force: str | None = None,
) -> Change:
    """Make a version the champion if the gate allows it; the old champion becomes ``previous``.

    Args:
        workspace: names the tracking URI.
        name: the registered model.
        version: its version.
        reason: why, for the history.
        policy: the gate's rule; by default that of `GatePolicy`.
        by: who; by default the user's login name.
        force: why the gate's refusal is overruled; recorded in the history.

    Raises:
        FinedeficsError: the gate refuses (exit code 1, with its reasons), or there is no such version.
    """
    if not reason.strip() or (force is not None and not force.strip()):
        raise wrong_use("a reason is empty", place=f"{name}/{version}", cure="say why, for the history")
    candidate = get_version(workspace, f"{name}/{version}")
    champion = _holder(workspace, name, CHAMPION)
    if champion is not None and champion.version == candidate.version:
        return Change(name, version, version, False, Decision(True, ("It is the champion already.",)))
    decision = decide(
        figures(workspace, candidate),
        figures(workspace, champion) if champion else None,
        policy or GatePolicy(),
    )
    if not decision.allowed and force is None:
        raise FinedeficsError(
            f"the gate refuses the promotion: {' '.join(decision.reasons)}".rstrip("."),
            place=candidate.reference,
            cure="improve the model, or overrule the gate with --force and a reason",
        )
    forced = force if not decision.allowed else None
    change = Change(name, version, champion.version if champion else None, True, decision, forced)
    _move_aliases(workspace, change)
    _record(workspace, "promote", change, reason=reason, by=by, evaluation=candidate.evaluation)
    return change


def rollback(workspace: Workspace, name: str, *, reason: str, by: str | None = None) -> Change:
    """Swap ``champion`` and ``previous``.

    Raises:
        FinedeficsError: there is no such model, or no champion before the present one.
    """
    if not versions(workspace, name):
        get_version(workspace, name)  # says which models there are
    champion, previous = _holder(workspace, name, CHAMPION), _holder(workspace, name, PREVIOUS)
    if champion is None or previous is None:
        raise FinedeficsError(
            "there is no earlier champion to go back to",
            place=name,
            cure=f"promote a version: `finedefics models promote {name} VERSION --reason …`",
        )
    decision = Decision(True, ("A rollback does not pass the gate.",))
    change = Change(name, previous.version, champion.version, True, decision)
    _move_aliases(workspace, change)
    _record(workspace, "rollback", change, reason=reason, by=by, evaluation=previous.evaluation)
    return change


def history(workspace: Workspace, name: str) -> list[dict[str, Any]]:
    """Promotions and rollbacks of a model, oldest first: action, version, by, at, reason, decision."""
    client = open_client(workspace)
    with answered(workspace):
        tags = client.get_registered_model(name).tags
    return [json.loads(tags[key]) for key in sorted(tags) if key.startswith(EVENT)]


def figures(workspace: Workspace, version: ModelVersion) -> Figures:
    """A version's figures as the gate reads them, with its items where they were registered."""
    path = open_model(workspace, version.reference) / "items.parquet"
    summary = Figures.from_evaluation(version.evaluation)
    if not path.is_file():
        return summary
    return Figures.from_evaluation(version.evaluation, _items(path, summary))


def _items(path: Path, summary: Figures) -> dict[str, dict[str, bool]]:
    """Which pictures were answered correctly, by slice ``answer/group``.

    A table can hold several scopes (all names, four options) of a slice, the summary has one: the scope whose
    count and accuracy are those of the summary. Items that belong to no figure would compare something else.
    """
    table = pq.read_table(path, columns=["sample_id", "group", "answer", "scope", "correct"])
    by_scope: dict[tuple[str, str], dict[str, bool]] = {}
    for row in table.to_pylist():
        slice_name = f"{row['answer']}/{row['group']}"
        by_scope.setdefault((slice_name, row["scope"]), {})[row["sample_id"]] = row["correct"]
    found: dict[str, dict[str, bool]] = {}
    for (name, _), answers in sorted(by_scope.items()):
        shown = summary.slices.get(name)
        if shown and shown.n == len(answers) and abs(sum(answers.values()) / shown.n - shown.accuracy) < 1e-3:
            found.setdefault(name, answers)
    return found


def _holder(workspace: Workspace, name: str, alias: str) -> ModelVersion | None:
    return next((v for v in versions(workspace, name) if alias in v.aliases), None)


def _move_aliases(workspace: Workspace, change: Change) -> None:
    client = open_client(workspace)
    with answered(workspace):
        aliases = client.get_registered_model(change.name).aliases
        if change.before is not None:
            # First, so that a crash between the two calls still leaves a way back.
            client.set_registered_model_alias(change.name, PREVIOUS, str(change.before))
        client.set_registered_model_alias(change.name, CHAMPION, str(change.version))
        if str(aliases.get(CANDIDATE)) == str(change.version):
            client.delete_registered_model_alias(change.name, CANDIDATE)
        if change.before is None and str(aliases.get(PREVIOUS)) == str(change.version):
            client.delete_registered_model_alias(change.name, PREVIOUS)


def _record(
    workspace: Workspace,
    action: str,
    change: Change,
    *,
    reason: str,
    by: str | None,
    evaluation: Mapping[str, Any],
) -> None:
    at = datetime.now(UTC).isoformat(timespec="microseconds")
    event = {"action": action, "by": by or _user(), "at": at, "reason": reason, **asdict(change)}
    event["evaluation"] = evaluation
    client = open_client(workspace)
    with answered(workspace):
        stamp = at.replace(":", "").replace("+0000", "Z")
        client.set_registered_model_tag(
            change.name, f"{EVENT}{stamp}-{uuid.uuid4().hex[:6]}", json.dumps(event)
        )
        for key, value in (("promoted_by", event["by"]), ("promoted_at", at), ("promotion_reason", reason)):
            client.set_model_version_tag(change.name, str(change.version), PREFIX + key, value)
        summary = {"action": action, **asdict(change.decision), "forced": change.forced}
        client.set_model_version_tag(
            change.name, str(change.version), f"{PREFIX}promotion_decision", json.dumps(summary)
        )


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user need not have a name
        return "unknown"
