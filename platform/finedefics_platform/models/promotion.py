"""Who may be champion: promotion through the gate, and rollback. Both are entries of the log of decisions."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from finedefics.errors import FinedeficsError, wrong_use
from finedefics_platform.base.user import user
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.models.cases import case_of
from finedefics_platform.models.decisions import Entry, Standing, read_log, standing, write
from finedefics_platform.models.describing import describe_model
from finedefics_platform.models.evidence import figures
from finedefics_platform.models.gate import Decision, Gate, Missing, Verdict, decide, load_gate
from finedefics_platform.models.registry import CHAMPION, ModelVersion, get_version, versions
from finedefics_platform.tracking.mlflow_client import check_writable


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
    gate: Gate | None = None,
    by: str | None = None,
    force: str | None = None,
) -> Change:
    """Make a version the champion if the gate allows it; the old champion becomes ``previous``.

    Args:
        workspace: names the tracking URI.
        name: the registered model.
        version: its version.
        reason: why, for the history.
        gate: what is asked; by default the gate that comes with the product.
        by: who; by default the user's login name.
        force: why the gate's refusal is overruled; recorded in the history.

    Raises:
        FinedeficsError: the gate refuses (exit code 1, with its reasons), somebody else decided meanwhile,
            there is no such version, or the workspace cannot be written to.
    """
    if not reason.strip() or (force is not None and not force.strip()):
        raise wrong_use("a reason is empty", place=f"{name}/{version}", cure="say why, for the history")
    candidate = get_version(workspace, f"{name}/{version}")
    check_writable(workspace)
    now = standing(workspace, name)
    if now.champion == version:
        if now.moved:
            return _restore(workspace, now, reason=reason, by=by)
        return Change(name, version, version, False, Decision(True, ("It is the champion already.",)))
    champion = get_version(workspace, f"{name}/{now.champion}") if now.champion else None
    decision = decide(case_of(workspace, candidate, champion), gate or load_gate())
    if not decision.allowed and force is None:
        raise FinedeficsError(
            f"the gate refuses the promotion: {' '.join(decision.reasons)}".rstrip("."),
            place=candidate.reference,
            cure=_cure(candidate, decision.missing),
        )
    forced = force if not decision.allowed else None
    change = Change(name, version, now.champion, True, decision, forced)
    _write(workspace, "promote", change, now, candidate, reason=reason, by=by)
    return change


def rollback(workspace: Workspace, name: str, *, reason: str, by: str | None = None) -> Change:
    """Swap ``champion`` and ``previous``; where the alias was moved by hand, put back the champion instead.

    Raises:
        FinedeficsError: there is no such model, or no champion before the present one.
    """
    if not versions(workspace, name):
        get_version(workspace, name)  # says which models there are
    check_writable(workspace)
    now = standing(workspace, name)
    if now.moved and now.champion:
        return _restore(workspace, now, reason=reason, by=by)
    if now.latest is None or now.latest.before is None:
        raise FinedeficsError(
            "there is no earlier champion to go back to",
            place=name,
            cure=f"promote a version: `finedefics models promote {name} VERSION --reason …`",
        )
    previous = get_version(workspace, f"{name}/{now.latest.before}")
    decision = Decision(True, ("A rollback does not pass the gate.",))
    change = Change(name, previous.version, now.champion, True, decision)
    _write(workspace, "rollback", change, now, previous, reason=reason, by=by)
    return change


def history(workspace: Workspace, name: str) -> list[dict[str, Any]]:
    """The log of decisions, oldest first: the fields of `decisions.Entry`; void ones are among them."""
    return [asdict(entry) for entry in read_log(workspace, name)]


def _restore(workspace: Workspace, now: Standing, *, reason: str, by: str | None) -> Change:
    assert now.latest is not None
    assert now.moved is not None
    version = get_version(workspace, f"{now.name}/{now.champion}")
    decision = Decision(True, (f"{now.moved[0].upper()}{now.moved[1:]}; it was put back.",))
    change = Change(now.name, version.version, now.latest.before, True, decision)
    _write(workspace, "restore", change, now, version, reason=reason, by=by)
    return change


def _write(
    workspace: Workspace,
    action: str,
    change: Change,
    now: Standing,
    version: ModelVersion,
    *,
    reason: str,
    by: str | None,
) -> None:
    reasons = [*change.decision.reasons]
    if now.moved and action != "restore":
        reasons.append(f"Before, {now.moved}.")
    entry = Entry(
        action=action,
        version=change.version,
        before=change.before,
        by=by or user(),
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        reason=reason,
        based_on=now.latest.number if now.latest else 0,
        forced=change.forced,
        decision={
            "allowed": change.decision.allowed,
            "reasons": reasons,
            "gate": dict(change.decision.gate),
            "verdicts": [_kept(one) for one in change.decision.verdicts],
        },
        figures=figures(version),
    )
    write(workspace, change.name, entry)
    describe_model(workspace, change.name)


def _kept(verdict: Verdict) -> dict[str, Any]:
    """A verdict as the log has it; its sentences are JSON's, like all else."""
    return {
        "rule": verdict.rule,
        "settings": dict(verdict.settings),
        "passed": verdict.passed,
        "sentences": list(verdict.sentences),
        "figures": dict(verdict.figures),
    }


def _cure(candidate: ModelVersion, missing: Sequence[Missing]) -> str:
    """The commands that make a comparison possible, or what else can be done."""
    if not missing:
        return "improve the model, or overrule the gate with --force and a reason"
    names = {"champion": f"{candidate.name}@{CHAMPION}", "candidate": candidate.reference}
    commands = [
        f"finedefics evaluate {names[one.who]} --data {one.ground.dataset} --split {one.ground.split} "
        f"--answers {','.join(one.answers)}"
        + (f" --limit {one.limit}" if one.limit else "")
        + (f" --options {one.ground.file.rpartition('@')[0]}" if one.ground.file else "")
        + f" --register {candidate.name}"
        for one in missing
    ]
    return f"run {' and '.join(f'`{command}`' for command in commands)}, then promote again"
