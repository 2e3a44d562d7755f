"""From answered test items to the tables of a comparison: accuracies by arm, and paired differences."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TypeAlias

import pandas as pd
import pyarrow as pa

from finedefics.errors import FinedeficsError
from finedefics.evaluation.statistics import CONFIDENCE, paired_difference
from finedefics.evaluation.statistics import interval as accuracy_interval

ANSWERS = ("names", "alignment", "describe")
ONE_PASS = ("names", "alignment")  # answers that generate no token
GROUPS = ("labelled", "new")
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
    """Paired differences of every arm to one arm, over the same test items.

    Each row has ``arm``, ``answer``, ``against``, ``against_answer``, ``group``, ``mean``, ``low``, ``high``,
    ``n``, ``confidence`` and ``comparison``, which is one of

    - ``same_answer``: both arms answer in the same way;
    - ``one_pass``: the better of each arm's one-pass answers (names, alignment);
    - ``one_pass_to_describe``: the arm's better one-pass answer to the other's describe-then-name.

    The better answer is picked on the test items themselves, which flatters whoever picks. Rows with a pick
    therefore hold a wider interval (Bonferroni over the pairs of answers it could have been, at most four:
    98.75 %), so that it covers whichever pair was picked with 95 %.

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
        if arm == against:
            continue
        for group in GROUPS:
            left, right = _of_group(answered[arm], group), _of_group(answered[against], group)
            for answer in ANSWERS:
                if answer in left and answer in right:
                    rows.append(_row("same_answer", arm, left, answer, against, right, answer, group))
            best, other = _best_one_pass(left), _best_one_pass(right)
            if best and other:
                rows.append(_row("one_pass", arm, left, best, against, right, other, group))
            if best and "describe" in right:
                rows.append(_row("one_pass_to_describe", arm, left, best, against, right, "describe", group))
    return rows


def _row(
    comparison: str,
    arm: str,
    left: Mapping[str, pd.Series],
    answer: str,
    against: str,
    right: Mapping[str, pd.Series],
    against_answer: str,
    group: str,
) -> dict[str, Any]:
    a, b = left[answer], right[against_answer]
    if not a.index.equals(b.index):
        raise FinedeficsError(
            f"{len(a)} and {len(b)} {group} items, {len(a.index.symmetric_difference(b.index))} of them "
            "answered by one only",
            place=f"{arm}.{answer} against {against}.{against_answer}",
            cure="evaluate both on the same dataset version",
        )
    confidence = 1 - (1 - CONFIDENCE) / _pairs_to_pick_from(comparison, left, right)
    estimate = paired_difference(a.to_numpy(), b.to_numpy(), confidence=confidence)
    return {
        "comparison": comparison,
        "arm": arm,
        "answer": answer,
        "against": against,
        "against_answer": against_answer,
        "group": group,
        **asdict(estimate),
        "confidence": confidence,
    }


def _pairs_to_pick_from(comparison: str, left: Mapping[str, Any], right: Mapping[str, Any]) -> int:
    if comparison == "same_answer":
        return 1
    own = sum(one in left for one in ONE_PASS)
    return own * sum(one in right for one in ONE_PASS) if comparison == "one_pass" else own


def _cell(correct: pd.Series) -> dict[str, Any]:
    estimate = accuracy_interval(correct.to_numpy())
    return {"accuracy": estimate.mean, "low": estimate.low, "high": estimate.high, "n": estimate.n}


def _best_one_pass(answers: Mapping[str, pd.Series]) -> str | None:
    return max((one for one in ONE_PASS if one in answers), key=lambda one: answers[one].mean(), default=None)


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
