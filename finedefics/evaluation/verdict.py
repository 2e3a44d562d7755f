"""What the numbers say in plain sentences, and what they do not.

Every sentence follows from an interval: one that contains zero never becomes "better", "worse" or "equal".
"""

from collections.abc import Mapping, Sequence
from typing import Any

from finedefics.evaluation.tables import CONTROLS, ONE_PASS

NOT_SHOWN = "Not shown: "  # how a sentence about the limits begins

Row = Mapping[str, Any]
Table = Mapping[str, Mapping[str, Mapping[str, Any]]]


def verdict(
    table: Table,
    differences: Sequence[Row],
    *,
    categories: Mapping[str, int] | None = None,
    worlds: int = 1,
    seeds: int = 1,
    generated: bool = True,
) -> list[str]:
    """Sentences that follow from `accuracy_table` and `differences`; the limits come last.

    Args:
        table: accuracies and speeds by arm and answer.
        differences: paired differences, the rows of `differences`.
        categories: how many the test pictures of a group are of: an interval covers no others.
        worlds: how many data sets the numbers come from.
        seeds: how often every arm was trained.
        generated: whether the pictures were drawn by a program.
    """
    sentences: list[str] = []
    drawn = _drawn_from((categories or {}).get("new"), worlds)
    methods = _methods(table, differences)
    either = [row for row in differences if _is_on_new(row, "whichever") and row["arm"] in methods[:1]]
    sentences += [_whichever(table, row, drawn) for row in either]
    for arm in methods:
        for group in ("new", "labelled"):
            rows = {
                row["comparison"]: row for row in differences if (row["arm"], row["group"]) == (arm, group)
            }
            if "one_pass" in rows:
                sentences.append(_one_pass(table, rows["one_pass"], drawn if group == "new" else ""))
            if group == "new" and "one_pass_to_describe" in rows:
                sentences.append(_to_describe(table, rows["one_pass_to_describe"], drawn))
    for comparison in ("same_answer", "strongest"):
        names = [r for r in differences if _is_on_new(r, comparison) and r["answer"] == "names"]
        if names:
            sentences.append(_names_answer(table, names, drawn))
    return sentences + _limits(differences, worlds, seeds, generated)


def _methods(table: Table, differences: Sequence[Row]) -> list[str]:
    """Arms that are no control; the one furthest above the strongest on new categories speaks first."""
    leading = "whichever" if any(row["comparison"] == "whichever" for row in differences) else "one_pass"
    gains = {
        row["arm"]: row["mean"]
        for row in differences
        if row["comparison"] == leading and row["group"] == "new"
    }
    return sorted((arm for arm in table if arm not in CONTROLS), key=lambda arm: -gains.get(arm, 0.0))


def _one_pass(table: Table, row: Row, drawn: str) -> str:
    what = (
        "names categories it never had a label for"
        if row["group"] == "new"
        else "names categories it had labels for"
    )
    own = table[row["arm"]][row["answer"]][row["group"]]
    other = table[row["against"]][row["against_answer"]][row["group"]]
    start = f"In one pass ({row['answer']}), {row['arm']} {what} with {_accuracy(own)}{drawn}"
    how = f"{row['against_answer']}: {_percent(other['accuracy'])} %"
    rival = f"the best one-pass answer of any control ({row['against']}, {how})"
    return _compared(start, row, rival)


def _compared(start: str, row: Row, rival: str) -> str:
    """A sentence's end: what its interval says of the difference to a rival."""
    if row["low"] > 0:
        return f"{start}: {_points(row)} more than {rival}."
    if row["high"] < 0:
        return f"{start}: {_points(row)} less than {rival}."
    return f"{start}; no difference to {rival} is shown: {_signed(row)}."


def _drawn_from(categories: int | None, worlds: int) -> str:
    """What an interval on new categories covers, said beside it: other pictures, never other categories."""
    of = "the new categories" if categories is None else _count(categories, "category", "categories")
    return f" (pictures of {of} in {_count(worlds, 'world')})"


def _to_describe(table: Table, row: Row, drawn: str) -> str:
    own = f"{row['arm']} in one pass ({row['answer']})"
    other = table[row["against"]]["describe"][row["group"]]
    rival = f"the best describe-then-name of any control ({row['against']}: {_percent(other['accuracy'])} %)"
    pace = _pace(table, row)
    if row["low"] > 0:
        return f"On new categories {own} is {_points(row)}{drawn} above {rival}{pace}."
    if row["high"] < 0:
        return f"On new categories {own} is {_points(row)}{drawn} below {rival}{pace}."
    none = f"On new categories no difference between {own} and {rival} is shown"
    return f"{none}: {_signed(row)}{drawn}{pace}."


def _pace(table: Table, row: Row) -> str:
    own = table[row["arm"]][row["answer"]].get("pictures_per_second")
    other = table[row["against"]]["describe"].get("pictures_per_second")
    if not own or not other:
        return ""
    return f", at {own / other:.2g} times its pictures per second ({own:.3g} against {other:.3g})"


def _is_on_new(row: Row, comparison: str) -> bool:
    return row["comparison"] == comparison and row["group"] == "new" and row["arm"] not in CONTROLS


def _whichever(table: Table, row: Row, drawn: str) -> str:
    """What is left of an arm's accuracy where it is asked in the way that suits it less."""
    own, other = (
        table[row[arm]][row[answer]]["new"]
        for arm, answer in (("arm", "answer"), ("against", "against_answer"))
    )
    start = (
        f"Whichever way it is asked, by names or alignment, {row['arm']} names categories it never had a "
        f"label for with at least {_accuracy(own)}{drawn}"
    )
    rival = f"any control ({row['against']}, {row['against_answer']}: {_percent(other['accuracy'])} %)"
    return _compared(start, row, rival)


def _names_answer(table: Table, rows: Sequence[Row], drawn: str) -> str:
    """Whether the likelihood of the name learned the new categories too."""
    parts = []
    for row in rows:
        own = _percent(table[row["arm"]]["names"]["new"]["accuracy"])
        if row["low"] > 0:
            parts.append(f"{row['arm']} gains ({own} %, {_signed(row)})")
        elif row["high"] < 0:
            parts.append(f"{row['arm']} loses ({own} %, {_signed(row)})")
        else:
            parts.append(f"{row['arm']} shows no difference ({own} %, {_signed(row)})")
    against = rows[0]["against"]
    other = _percent(table[against]["names"]["new"]["accuracy"])
    strongest = ", the strongest control in it" if rows[0]["comparison"] == "strongest" else ""
    return (
        f"By the likelihood of the name on new categories, against {against} ({other} %){strongest}"
        f"{drawn}: " + "; ".join(parts) + "."
    )


def _limits(differences: Sequence[Row], worlds: int, seeds: int, generated: bool) -> list[str]:
    limits = []
    undecided = sum(row["low"] <= 0 <= row["high"] for row in differences)
    if undecided:
        limits.append(
            f"a difference in {undecided} of the {len(differences)} comparisons: their intervals contain 0, "
            "which is no proof of equality either."
        )
    if differences:
        limits.append(f"that all {len(differences)} intervals hold at once; each stands for itself.")
    limits.append(
        "what other categories, another data set or training run would give: the figures come from "
        f"{_count(worlds, 'world')} and {_count(seeds, 'seed')}, and the intervals cover the draw of test "
        "pictures alone."
    )
    if generated:
        limits.append("anything about photographs: these pictures are drawn by a program.")
    return [NOT_SHOWN + limit for limit in limits]


def _count(number: int, noun: str, nouns: str | None = None) -> str:
    return f"one {noun}" if number == 1 else f"{number} {nouns or noun + 's'}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _accuracy(cell: Mapping[str, Any]) -> str:
    return f"{_percent(cell['accuracy'])} % [{_percent(cell['low'])}, {_percent(cell['high'])}]"


def _points(row: Row) -> str:
    """Size of a difference whose sign the sentence says."""
    low, high = sorted(abs(row[bound]) for bound in ("low", "high"))
    return f"{_percent(abs(row['mean']))} points [{_percent(low)}, {_percent(high)}]"


def _signed(row: Row) -> str:
    mean, low, high = (f"{100 * row[name]:+.1f}" for name in ("mean", "low", "high"))
    return f"{mean} points [{low}, {high}]"


def one_pass_accuracy(table: Table, arm: str, group: str) -> tuple[str, Mapping[str, Any]] | None:
    """The better of an arm's one-pass answers on a group: its name and its cell of the table."""
    cells = {one: table[arm][one][group] for one in ONE_PASS if group in table[arm].get(one, {})}
    if not cells:
        return None
    best = max(cells, key=lambda one: cells[one]["accuracy"])
    return best, cells[best]
