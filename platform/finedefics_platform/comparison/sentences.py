"""The verdict in sentences: each follows from an interval, and one that holds zero never becomes "better"."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from finedefics.evaluation import NOT_SHOWN
from finedefics.evaluation.statistics import paired_difference
from finedefics.evaluation.tables import GROUPS, ONE_PASS
from finedefics_platform.comparison.arms import BASE, Arm, Gathered
from finedefics_platform.comparison.pairing import shared

Table = Mapping[str, Any]


class Leading(NamedTuple):
    """The figure that a report leads with."""

    arm: str
    answer: str
    scope: str
    group: str
    cell: Mapping[str, Any]
    of: int  # answers it is the best of


def leading_of(gathered: Gathered, table: Table, options: Table) -> Leading | None:
    """The run that is right most often, by its best answer, on new categories where there are any."""
    for scope, own in (("all", table), ("options", options)):
        arms = [arm.name for arm in gathered.runs if own.get(arm.name)] or [*own]
        groups = [
            g for g in reversed(GROUPS) if any(g in cells for arm in arms for cells in own[arm].values())
        ]
        if not groups:
            continue
        bests = [best for arm in arms if (best := best_answer(own, arm, scope, groups[0]))]
        if bests:
            return max(bests, key=lambda one: one.cell["accuracy"])
    return None


def best_answer(table: Table, arm: str, scope: str, group: str) -> Leading | None:
    """An arm's best answer on a group: of those given in one pass, where there is one."""
    cells = {answer: own[group] for answer, own in table.get(arm, {}).items() if group in own}
    among = {answer: cell for answer, cell in cells.items() if answer in ONE_PASS} or cells
    if not among:
        return None
    answer = max(among, key=lambda one: among[one]["accuracy"])
    return Leading(arm, answer, scope, group, among[answer], len(among))


def verdict_of(gathered: Gathered, table: Table, options: Table, names: Mapping[str, str]) -> list[str]:
    """Three sentences of a run or of several, then what they do not show."""
    leading = leading_of(gathered, table, options)
    if leading is None:
        return [*_of_training(gathered), *_limits(gathered, None)]
    said = [_reached(gathered, leading, table if leading.scope == "all" else options)]
    said.append(_against(gathered, leading, table if leading.scope == "all" else options))
    said.append(_confused(gathered.frames[leading.arm], leading, names))
    return [*said, *_limits(gathered, leading)]


def _reached(gathered: Gathered, leading: Leading, table: Table) -> str:
    among = "" if leading.scope == "all" else " among hard options"
    one_of = "" if leading.of == 1 else f" (the best of {leading.of} answers)"
    several = [arm for arm in gathered.runs if table.get(arm.name)]
    start = f"Of {len(several)} runs, {leading.arm}" if len(several) > 1 else f"The run {leading.arm}"
    most = " most often:" if len(several) > 1 else ""
    said = (
        f"{start} names pictures of {_group(leading.group)}{among}{most} with {accuracy(leading.cell)} right"
    )
    said += f", by {leading.answer}{one_of}"
    cells = table[leading.arm][leading.answer]
    other = next((g for g in GROUPS if g != leading.group and g in cells), None)
    return f"{said}; of {_group(other)}, {accuracy(cells[other])}." if other else f"{said}."


def _against(gathered: Gathered, leading: Leading, table: Table) -> str:
    """To the next best run, or of one run to the base."""
    runs = [arm.name for arm in gathered.runs if arm.name != leading.arm]
    rivals = [best for name in runs if (best := best_answer(table, name, leading.scope, leading.group))]
    if rivals:
        rival = max(rivals, key=lambda one: one.cell["accuracy"])
        title = f"the next best, {rival.arm}"
    elif (base := best_answer(table, BASE, leading.scope, leading.group)) and leading.arm != BASE:
        rival, title = base, "the model before tuning"
    else:
        return "What tuning brought is not known: the model before it was not evaluated on these pictures."
    pair = shared(_items(gathered, leading), _items(gathered, rival), leading.group)
    if pair is None:
        return f"It shares no picture with {title}, so nothing can be said of a difference."
    found = paired_difference(*pair)
    other = f"{title} ({rival.answer}: {percent(rival.cell['accuracy'])} %)"
    if found.low <= 0 <= found.high:
        return f"On the same {found.n} pictures no difference to {other} is shown: {points(found)}."
    word = "more" if found.low > 0 else "less"
    low, high = sorted(abs(bound) for bound in (found.low, found.high))
    size = f"{percent(abs(found.mean))} points [{percent(low)}, {percent(high)}]"
    return f"On the same {found.n} pictures that is {size} {word} than {other}."


def _items(gathered: Gathered, one: Leading) -> pd.DataFrame:
    frame = gathered.frames[one.arm]
    return frame[(frame["answer"] == one.answer) & (frame["scope"] == one.scope)]


def _confused(frame: pd.DataFrame, leading: Leading, names: Mapping[str, str]) -> str:
    own = frame[(frame["answer"] == leading.answer) & (frame["scope"] == leading.scope)]
    wrong = own[~own["correct"]]
    if wrong.empty:
        return f"It names every one of the {len(own)} pictures rightly."
    counted = wrong.fillna({"predicted": ""}).groupby(["category_id", "predicted"]).size()
    truth, named = counted.idxmax()
    of = int((own["category_id"] == truth).sum())
    said = names.get(named, named) if named else "nothing"
    start = f"Of {len(wrong)} wrong answers the most frequent kind is {names.get(truth, truth)} named {said}"
    return f"{start} ({int(counted.max())} of {of} pictures)."


def _of_training(gathered: Gathered) -> list[str]:
    """What can be said of runs that were not evaluated."""
    said = []
    for arm in gathered.runs[:2]:
        losses = [row["metrics"]["loss"] for row in arm.history if "loss" in row["metrics"]]
        steps = sum(row["stage"] is not None and "loss" in row["metrics"] for row in arm.history)
        state = "is trained" if arm.run else "is not finished"
        course = (
            f": its loss went from {losses[0]:.3g} to {losses[-1]:.3g} in {steps} recorded steps"
            if losses
            else ""
        )
        said.append(f"{arm.name} {state}{course}.")
    return [*said, "Nothing is known of how right it is: no evaluation of it is in this workspace."]


def _limits(gathered: Gathered, leading: Leading | None) -> list[str]:
    if leading is None:
        return []
    limits = []
    if leading.of > 1:
        limits.append(
            "that the best answer would be the best again: it was picked on these pictures, which flatters."
        )
    seeds = {arm.experiment.seed for arm in gathered.runs if arm.experiment}
    if gathered.runs and len(seeds) == 1:
        limits.append("what another training seed would give: every run was trained with the same one.")
    limits.append(
        "what other categories or another data set would give: the intervals cover the draw of test pictures "
        "alone, those by category that of categories too."
    )
    controls = [arm for arm in gathered.arms if arm.name in ("instruction", "control")]
    if len(gathered.runs) == 1 and not controls:
        limits.append("that contrast is what helps: no run with instruction tuning alone stands beside it.")
    return [NOT_SHOWN + limit for limit in limits]


def verdict_of_search(
    trials: Sequence[Mapping[str, Any]], best: Mapping[str, Any], about: Mapping[str, Any]
) -> list[str]:
    """Sentences of a search: what won, by how much, and what the figure is worth."""
    metric, mode = about.get("metric", "metric"), about.get("mode", "max")
    ended = {
        state: sum(trial["status"] == state for trial in trials)
        for state in ("finished", "stopped", "failed")
    }
    counted = ", ".join(f"{n} {state}" for state, n in ended.items() if n)
    settings = ", ".join(f"{key} {_short(value)}" for key, value in best["config"].items())
    said = [
        f"Of {len(trials)} trials ({counted}) the best has {metric} {best['metric']:.3g} with {settings}."
    ]
    others = sorted(
        (
            t["metric"]
            for t in trials
            if t["status"] == "finished" and t is not best and t["trial"] != best["trial"]
        ),
        reverse=mode == "max",
    )
    if len(others) == 1:
        said.append(f"The other one that ran to its end has {others[0]:.3g}.")
    elif others:
        said.append(f"The next best that ran to its end has {others[0]:.3g}, the worst {others[-1]:.3g}.")
    said.append(
        "The winner was picked by this figure on validation pictures, which flatters it: an evaluation on "
        "test pictures says what it is worth."
    )
    return said


def accuracy(cell: Mapping[str, Any]) -> str:
    """``85.4 % [77.0, 91.1]``."""
    return f"{percent(cell['accuracy'])} % [{percent(cell['low'])}, {percent(cell['high'])}]"


def points(found: Any) -> str:
    """``+1.2 points [-3.4, +5.8]``."""
    mean, low, high = (f"{100 * value:+.1f}" for value in (found.mean, found.low, found.high))
    return f"{mean} points [{low}, {high}]"


def percent(share: float) -> str:
    """One digit."""
    return f"{100 * share:.1f}"


def _group(group: str) -> str:
    return "categories it never had a label for" if group == "new" else "labelled categories"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def names_of_runs(arms: Sequence[Arm]) -> str:
    """``joint``; ``joint and control``; ``joint, control and 3 more``."""
    names = [arm.name for arm in arms]
    if len(names) > 3:
        return f"{', '.join(names[:2])} and {len(names) - 2} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
