"""What a report says beside its figures: when, on what, by which code; controls; what is not known yet."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from finedefics_platform.base.workspace import Workspace
from finedefics_platform.comparison.arms import BASE, Arm, Gathered, shown_path
from finedefics_platform.comparison.sentences import percent

Table = Mapping[str, Any]
Check = tuple[str, str, str]  # "good", "bad" or "open"; what; the finding

_SHOWN = 4  # figures named in one finding
_CONSISTENT = 0.9  # below it a choice follows its place more than a reader would think


def facts_of(gathered: Gathered) -> list[tuple[str, str]]:
    """Date, commit, hardware, and what was measured on."""
    times = [
        e.summary["finished"]
        for arm in gathered.arms
        if arm.judged
        for e in arm.judged.evaluations
        if "finished" in e.summary
    ]
    ended = [attempt["ended"] for arm in gathered.runs for attempt in arm.attempts if attempt.get("ended")]
    last = [arm.attempts[-1] for arm in gathered.runs if arm.attempts]
    commits = dict.fromkeys(commit_of(attempt) for attempt in last)
    facts = [
        ("evaluated" if times else "trained", day(max(times or ended)) if times or ended else ""),
        ("commit", ", ".join(filter(None, commits))),
        ("hardware", "; ".join(dict.fromkeys(hardware_of(attempt) for attempt in last))),
    ]
    judged = next((arm.judged for arm in gathered.arms if arm.judged), None)
    if judged is not None:
        told = judged.summary
        limit = f", the first {told['limit']}" if told.get("limit") else ""
        pictures = f"{told.get('pictures', '?')} pictures of {told['split']}{limit}"
        facts.append(
            ("measured on", f"{told['dataset']}: {pictures}, {told.get('categories', '?')} categories")
        )
    return [fact for fact in facts if fact[1]]


def day(seconds: float) -> str:
    """``2026-01-31 14:05 UTC``."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def commit_of(attempt: Mapping[str, Any]) -> str:
    """The commit of the code that trained, or the version installed."""
    versions = attempt.get("versions", {})
    commit = versions.get("git_commit", "")
    if not commit:
        installed = versions.get("version.finedefics")
        return f"finedefics {installed} (no git checkout)" if installed else ""
    return commit[:12] + (" with changes" if versions.get("git_changed") == "true" else "")


def hardware_of(attempt: Mapping[str, Any]) -> str:
    """``2 workers of 1 core each, ZeRO 1, Linux x86_64``."""
    resources = attempt.get("topology", {}).get("resources", {})
    zero = attempt.get("topology", {}).get("deepspeed", {}).get("zero_stage")
    workers = resources.get("workers") or 0
    cores = resources.get("cpus_per_worker", 1)
    each = f"{cores:g} core{'s' if cores != 1 else ''}"
    if gpus := resources.get("gpus_per_worker"):
        each += f" and {gpus:g} GPU{'s' if gpus != 1 else ''}"
    who = f"{workers} worker{'s' if workers != 1 else ''} of {each}" if workers else "one process"
    sharded = f", ZeRO {zero}" if workers and zero is not None else ""
    return f"{who}{sharded}, {attempt.get('versions', {}).get('machine', '')}".rstrip(", ")


def missing_of(workspace: Workspace, gathered: Gathered) -> list[tuple[str, str]]:
    """What is not known yet, each with the command that measures it."""
    missing = []
    for arm in gathered.runs:
        if arm.run is None:
            total = sum(stage.steps for stage in arm.experiment.stages) if arm.experiment else 0
            done = max((event.get("total_step", 0) for event in arm.events), default=0)
            missing.append(
                (
                    f"{arm.name} is not finished (step {done} of {total}).",
                    f"finedefics train --resume {arm.key}",
                )
            )
        elif arm.judged is None:
            said = "has no evaluation" if gathered.ground is None else "was not evaluated on these pictures"
            data = arm.run.dataset if gathered.ground is None else _asked(gathered)
            missing.append(
                (f"How right {arm.name} is: it {said}.", f"finedefics evaluate {arm.key} --data {data}")
            )
    tuned = next((arm for arm in gathered.runs if arm.run), None)
    if tuned and tuned.judged and tuned.experiment and not any(arm.name == BASE for arm in gathered.arms):
        path = shown_path(workspace, tuned.experiment.model.path)
        said = (
            "What tuning brought, and the embeddings before it: the base was not evaluated on these pictures."
        )
        missing.append((said, f"finedefics evaluate {path} --data {_asked(gathered)}"))
    return missing


def _asked(gathered: Gathered) -> str:
    """The data set with the options that make an evaluation one on the same ground."""
    judged = next(arm.judged for arm in gathered.arms if arm.judged)
    told = judged.summary
    more = f" --split {told['split']}" if told["split"] != "test" else ""
    return f"{told['dataset']}{more}" + (f" --limit {told['limit']}" if told.get("limit") else "")


def checks_of(gathered: Gathered, tables: Mapping[str, Table], chance: Mapping[str, float]) -> list[Check]:
    """Controls that stand beside the runs, chance, leaks, replies that could not be read."""
    if gathered.ground is None:
        return []
    return [
        *_controls(gathered),
        *(
            _chance(scope, {arm: own for arm, own in tables[scope].items() if arm != BASE}, chance[scope])
            for scope in tables
            if tables[scope] and scope in chance
        ),
        _leaks(gathered),
        *_unread(gathered),
        *_turned(gathered),
        *_refusing(gathered),
    ]


def _controls(gathered: Gathered) -> list[Check]:
    names = {arm.name for arm in gathered.arms}
    tuned = sorted(names & {"instruction", "control", "object_category", "self_labelled"})
    encoders = [arm for arm in gathered.arms if arm.name.startswith("encoder")]
    return [
        ("good", "before tuning", "the base stands beside it, on the same pictures")
        if BASE in names
        else ("open", "before tuning", "the base was not evaluated on these pictures"),
        ("good", "tuning without contrast", f"beside it: {', '.join(tuned)}")
        if tuned
        else ("open", "tuning without contrast", "no run called instruction or control is among these"),
        ("good", "a frozen encoder", f"{len(encoders)} on the same pictures")
        if encoders
        else (
            "open",
            "a frozen encoder",
            "none on these pictures (finedefics evaluate --encoder clip:MODEL)",
        ),
    ]


def _chance(scope: str, table: Table, chance: float) -> Check:
    reached = [
        f"{arm} {answer} ({group})"
        for arm, answers in table.items()
        for answer, cells in answers.items()
        for group, cell in cells.items()
        if isinstance(cell, Mapping) and cell["low"] <= chance
    ]
    what = f"guessing among {'all categories' if scope == 'all' else 'options'}: {percent(chance)} %"
    if not reached:
        return "good", what, "every figure's interval lies above it"
    more = f" and {len(reached) - _SHOWN} more" if len(reached) > _SHOWN else ""
    return "bad", what, f"not shown to be better: {', '.join(reached[:_SHOWN])}{more}"


def _leaks(gathered: Gathered) -> Check:
    found = [arm.judged.summary.get("leaks") for arm in gathered.arms if arm.judged]
    leaks = next((one for one in found if one), None)
    what = "test pictures that stand in the training split"
    if leaks is None:
        return "open", what, "this evaluation did not look"
    return "bad" if leaks["pictures"] else "good", what, f"{leaks['pictures']} of {leaks['of']}"


def _unread(gathered: Gathered) -> Sequence[Check]:
    shares = _of_answers(gathered.arms, "unparseable")
    if not shares:
        return []
    worst = sorted((one for one in shares if one[1]), key=lambda one: -one[1])
    what = "replies that named no category or option"
    if not worst:
        return [("good", what, "none")]
    told = ", ".join(f"{name} {percent(share)} %" for name, share in worst[:_SHOWN])
    return [("bad" if worst[0][1] > 0.05 else "open", what, f"{told} (counted as wrong)")]


def _of_answers(arms: Iterable[Arm], name: str) -> list[tuple[str, Any]]:
    """What the summaries of their evaluations hold under a name, each called by its arm and answer."""
    return [
        (f"{arm.name} {answer}", found)
        for arm in arms
        if arm.judged
        for answer, found in arm.judged.merged(name).items()
    ]


def _turned(gathered: Gathered) -> Sequence[Check]:
    """Whether choices follow the order of the options, where they were asked in several."""
    told = _of_answers(gathered.runs, "rotations")
    return [
        (
            "good" if found["consistency"] >= _CONSISTENT else "bad",
            f"the order of the options, {name}",
            f"the same choice in all {found['orders']} orders for {percent(found['consistency'])} % of "
            f"{found['questions']} questions",
        )
        for name, found in told[:_SHOWN]
    ]


def _refusing(gathered: Gathered) -> Sequence[Check]:
    """What a threshold chosen on other pictures does: how many are named, and how many of them wrongly."""
    told = [one for one in _of_answers(gathered.runs, "unknown") if one[1]["coverage"] is not None]
    return [
        (
            "open",
            f"refusing to name, {name}",
            f"above its threshold it names {percent(found['coverage'])} % of the pictures, "
            + ("none" if found["risk"] is None else f"{percent(found['risk'])} % of them wrongly"),
        )
        for name, found in told[:_SHOWN]
    ]


def risks_of(gathered: Gathered) -> dict[str, dict[str, list[list[float]]]]:
    """Risk-coverage curves of each run, by answer."""
    told = {
        arm.name: {
            answer: found["curve"]
            for answer, found in arm.judged.merged("unknown").items()
            if found.get("curve")
        }
        for arm in gathered.runs
        if arm.judged
    }
    return {arm: curves for arm, curves in told.items() if curves}


def provenance_of(gathered: Gathered, keys: Sequence[str]) -> dict[str, Any]:
    """What to know to repeat it."""
    told: dict[str, Any] = {}
    if gathered.ground is not None:
        judged = next(arm.judged for arm in gathered.arms if arm.judged)
        told["dataset"] = judged.summary["dataset"]
        told["protocol"] = {
            k: v for k, v in judged.summary.get("protocol", {}).items() if not isinstance(v, list)
        }
    for arm in gathered.runs:
        told[f"run {arm.name}"] = run_facts(arm)
    if gathered.elsewhere:
        others = dict.fromkeys(
            f"{one.summary['dataset']} {one.summary['split']}" for one in gathered.elsewhere
        )
        told["evaluated elsewhere too"] = ", ".join(others)
    last = next((arm.attempts[-1] for arm in gathered.runs if arm.attempts), None)
    if last is not None:
        versions = last.get("versions", {})
        told["versions"] = {
            k.removeprefix("version."): v for k, v in versions.items() if k.startswith("version.")
        }
        told["python"] = versions.get("python")
    told["commands"] = [f"finedefics report {' '.join(keys)}"]
    return told


def run_facts(arm: Arm) -> dict[str, Any]:
    """Digests and seed of a run."""
    facts: dict[str, Any] = {"key": arm.key}
    if arm.run is not None:
        facts |= {"data": arm.run.dataset, "configuration": arm.run.config_digest, "base": arm.run.base}
    if arm.experiment is not None:
        facts["seed"] = arm.experiment.seed
    if arm.attempts:
        facts |= {"attempts": len(arm.attempts), "by": arm.attempts[-1].get("user", "")}
    return facts
