"""From answered test items to the tables of a comparison: accuracies by arm, and paired differences."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, TypeAlias

import pandas as pd
import pyarrow as pa

from finedefics.errors import FinedeficsError
from finedefics.evaluation.statistics import CONFIDENCE, paired_difference
from finedefics.evaluation.statistics import interval as accuracy_interval

ANSWERS = ("names", "alignment", "describe")
ONE_PASS = ("names", "alignment")  # answers that generate no token
GROUPS = ("labelled", "new")
# Arms without attributes as a bridge: a method has to be better than the strongest of them.
CONTROLS = ("base", "instruction", "control", "object_category", "self_labelled")
COLUMNS = ("sample_id", "group", "answer", "scope", "correct")

Items: TypeAlias = pa.Table | pd.DataFrame
AccuracyTable: TypeAlias = dict[str, dict[str, dict[str, Any]]]


def accuracy_table(
    items_by_arm: Mapping[str, Items],
    speeds: Mapping[str, Mapping[str, float]],
    scope: str = "all",
) -> AccuracyTable:
    """Accuracy of every arm and answer, labelled and new categories apart.

    Args:
        items_by_arm: one row an item, answer and scope; columns sample_id, group, answer, scope, correct.
        speeds: pictures per second, by arm and answer; an answer that was not timed is left without.
        scope: ``all`` (every category competes) or ``options`` (the true one and hard negatives).

    Returns:
        ``{arm: {answer: {group: {"accuracy", "low", "high", "n"}, "pictures_per_second": x}}}``, fractions
        with 95 % Wilson intervals. What was not answered is absent.
    """
    table: AccuracyTable = {}
    for arm, items in items_by_arm.items():
        answered = _answered(items, arm, scope)
        table[arm] = {}
        for answer in sorted({answer for answer, _ in answered}, key=_place):
            cells: dict[str, Any] = {
                group: _cell(answered[answer, group]) for group in GROUPS if (answer, group) in answered
            }
            if cells and answer in speeds.get(arm, {}):
                cells["pictures_per_second"] = float(speeds[arm][answer])
            if cells:
                table[arm][answer] = cells
    return table


def _place(answer: str) -> tuple[int, str]:
    """The comparison's answers first, in their order; others after them by name."""
    return (ANSWERS.index(answer) if answer in ANSWERS else len(ANSWERS)), answer


def differences(
    items_by_arm: Mapping[str, Items], against: str = "control", scope: str = "all"
) -> list[dict[str, Any]]:
    """Paired differences over the same items: of every arm to one, and of methods to the strongest control.

    Each row has ``arm``, ``answer``, ``against``, ``against_answer``, ``group``, ``mean``, ``low``, ``high``,
    ``n``, ``confidence`` and ``comparison``, which is one of

    - ``same_answer``: every arm to ``against``, both answering in the same way;

    and for the arms that are no control (`CONTROLS`), to the control that is strongest in what is compared:

    - ``strongest``: both answer in the same way;
    - ``one_pass``: the better of the arm's one-pass answers (names, alignment) to the best of any control;
    - ``one_pass_to_describe``: the same to the best describe-then-name of any control.

    What is better or strongest is picked on the test items themselves, which flatters whoever is picked. Rows
    with a pick therefore hold a wider interval (Bonferroni over the pairs it could have been), so that it
    covers whichever pair was picked with 95 %.

    Raises:
        FinedeficsError: the arm compared against is missing, or arms did not answer the same items.
    """
    if against not in items_by_arm:
        raise FinedeficsError(
            f"no arm {against!r} among {', '.join(items_by_arm) or 'none'}",
            place="differences",
            cure="evaluate it, or compare against another arm",
        )
    answered = {arm: _answered(items, arm, scope) for arm, items in items_by_arm.items()}
    rows = []
    for arm in items_by_arm:
        for group in GROUPS:
            own = _of_group(answered[arm], group)
            if arm != against:
                other = _of_group(answered[against], group)
                for answer in ANSWERS:
                    if answer in own and answer in other:
                        pair = _Pair(arm, own, answer, against, other, answer)
                        rows.append(_row("same_answer", pair, group, 1))
            if arm not in CONTROLS:
                controls = {one: _of_group(answered[one], group) for one in CONTROLS if one in answered}
                rows += _to_the_strongest(arm, own, controls, group)
    return rows


Answers: TypeAlias = Mapping[str, pd.Series]  # of one arm and group: whether each item was right


def _to_the_strongest(
    arm: str, own: Answers, controls: Mapping[str, Answers], group: str
) -> list[dict[str, Any]]:
    rows = []
    best = _best(own, ONE_PASS)
    picks = sum(one in own for one in ONE_PASS)
    compared: list[tuple[str, str, tuple[str, ...], int]]
    compared = [("strongest", answer, (answer,), 1) for answer in ANSWERS if answer in own]
    if best is not None:
        compared += [
            ("one_pass", best, ONE_PASS, picks),
            ("one_pass_to_describe", best, ("describe",), picks),
        ]
    for comparison, answer, rivals, of_own in compared:
        there = [(one, rival) for one in controls for rival in rivals if rival in controls[one]]
        if there:
            name, rival = max(there, key=lambda one: controls[one[0]][one[1]].mean())
            pair = _Pair(arm, own, answer, name, controls[name], rival)
            rows.append(_row(comparison, pair, group, of_own * len(there)))
    return rows


class _Pair(NamedTuple):
    arm: str
    own: Answers
    answer: str
    against: str
    other: Answers
    against_answer: str


def _row(comparison: str, pair: _Pair, group: str, picked_from: int) -> dict[str, Any]:
    a, b = pair.own[pair.answer], pair.other[pair.against_answer]
    if not a.index.equals(b.index):
        raise FinedeficsError(
            f"{len(a)} and {len(b)} {group} items, {len(a.index.symmetric_difference(b.index))} of them "
            "answered by one only",
            place=f"{pair.arm}.{pair.answer} against {pair.against}.{pair.against_answer}",
            cure="evaluate both on the same dataset version",
        )
    confidence = 1 - (1 - CONFIDENCE) / picked_from
    estimate = paired_difference(a.to_numpy(), b.to_numpy(), confidence=confidence)
    return {
        "comparison": comparison,
        "arm": pair.arm,
        "answer": pair.answer,
        "against": pair.against,
        "against_answer": pair.against_answer,
        "group": group,
        **asdict(estimate),
        "confidence": confidence,
    }


def _cell(correct: pd.Series) -> dict[str, Any]:
    estimate = accuracy_interval(correct.to_numpy())
    return {"accuracy": estimate.mean, "low": estimate.low, "high": estimate.high, "n": estimate.n}


def _best(answers: Answers, among: Sequence[str]) -> str | None:
    return max((one for one in among if one in answers), key=lambda one: answers[one].mean(), default=None)


def _of_group(answered: Mapping[tuple[str, str], pd.Series], group: str) -> dict[str, pd.Series]:
    return {answer: correct for (answer, own), correct in answered.items() if own == group}


def _answered(items: Items, arm: str, scope: str) -> dict[tuple[str, str], pd.Series]:
    """Whether each item was right, sorted by sample id, for every answer and group that occurs."""
    missing = [name for name in COLUMNS if name not in getattr(items, "column_names", items.columns)]
    if missing:
        raise FinedeficsError(
            f"no column {', '.join(missing)}", place=f"items of arm {arm}", cure="evaluate the arm again"
        )
    frame = items.select(COLUMNS).to_pandas() if isinstance(items, pa.Table) else items[list(COLUMNS)]
    frame = frame[frame["scope"] == scope]
    twice = frame[frame.duplicated(["sample_id", "answer"])]
    if len(twice):
        raise FinedeficsError(
            f"{twice['sample_id'].iloc[0]} is answered twice by {twice['answer'].iloc[0]}",
            place=f"items of arm {arm}",
            cure="evaluate the arm again",
        )
    grouped = frame.set_index("sample_id").sort_index().groupby(["answer", "group"], sort=False)["correct"]
    return {(str(answer), str(group)): correct for (answer, group), correct in grouped}
