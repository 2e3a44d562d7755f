"""From answered test items to the tables of a comparison: accuracies by arm, and paired differences."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, TypeAlias

import pandas as pd
import pyarrow as pa

from finedefics.errors import FinedeficsError
from finedefics.evaluation.clustered import ClusteredEstimate, clustered_difference, clustered_interval
from finedefics.evaluation.statistics import CONFIDENCE, mcnemar, paired_difference
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
        with 95 % Wilson intervals. What was not answered is absent. Where the items have a ``category_id``, a
        cell has ``low_clustered`` and ``high_clustered`` too, an interval for other categories as well
        (`finedefics.evaluation.clustered`; None of one category), and ``clusters``, how many there are.
    """
    table: AccuracyTable = {}
    for arm, items in items_by_arm.items():
        answered, owner = _answered(items, arm, scope), _categories(items)
        table[arm] = {}
        for answer in sorted({answer for answer, _ in answered}, key=_place):
            cells: dict[str, Any] = {
                group: _cell(answered[answer, group], owner)
                for group in GROUPS
                if (answer, group) in answered
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
    ``n``, ``confidence``, ``p`` of McNemar's exact test, where the items have a ``category_id`` also
    ``low_clustered``, ``high_clustered`` and ``clusters`` as in `accuracy_table`, and ``comparison``, which
    is one of

    - ``same_answer``: every arm to ``against``, both answering in the same way;

    and for the arms that are no control (`CONTROLS`), to the control that is strongest in what is compared:

    - ``strongest``: both answer in the same way;
    - ``one_pass``: the better of the arm's one-pass answers (names, alignment) to the best of any control;
    - ``one_pass_to_describe``: the same to the best describe-then-name of any control;
    - ``whichever``: the worse of the arm's one-pass answers to the control whose worse one is best: what is
      left where a model is asked in the way that suits it less.

    What is better or strongest is picked on the test items themselves, which flatters whoever is picked. Rows
    with a pick therefore hold wider intervals and a larger p (Bonferroni over the pairs it could have
    been), so that they cover whichever pair was picked with 95 %.

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
    owner = _categories(items_by_arm[against])
    rows = []
    for arm in items_by_arm:
        for group in GROUPS:
            own = _of_group(answered[arm], group)
            if arm != against:
                other = _of_group(answered[against], group)
                for answer in ANSWERS:
                    if answer in own and answer in other:
                        pair = _Pair(arm, own, answer, against, other, answer)
                        rows.append(_row("same_answer", pair, group, 1, owner))
            if arm not in CONTROLS:
                controls = {one: _of_group(answered[one], group) for one in CONTROLS if one in answered}
                rows += _to_the_strongest(arm, own, controls, group, owner)
    return rows


Answers: TypeAlias = Mapping[str, pd.Series]  # of one arm and group: whether each item was right


def _to_the_strongest(
    arm: str, own: Answers, controls: Mapping[str, Answers], group: str, owner: pd.Series | None
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
            rows.append(_row(comparison, pair, group, of_own * len(there), owner))
    least = _worst(own)
    worse = {one: worst for one in controls if (worst := _worst(controls[one]))}
    if least is not None and worse:
        name = max(worse, key=lambda one: controls[one][worse[one]].mean())
        pair = _Pair(arm, own, least, name, controls[name], worse[name])
        rows.append(_row("whichever", pair, group, len(ONE_PASS) ** 2 * len(worse), owner))
    return rows


class _Pair(NamedTuple):
    arm: str
    own: Answers
    answer: str
    against: str
    other: Answers
    against_answer: str


def _row(
    comparison: str, pair: _Pair, group: str, picked_from: int, owner: pd.Series | None
) -> dict[str, Any]:
    a, b = pair.own[pair.answer], pair.other[pair.against_answer]
    if not a.index.equals(b.index):
        raise FinedeficsError(
            f"{len(a)} and {len(b)} {group} items, {len(a.index.symmetric_difference(b.index))} of them "
            "answered by one only",
            place=f"{pair.arm}.{pair.answer} against {pair.against}.{pair.against_answer}",
            cure="evaluate both on the same dataset version",
        )
    confidence = 1 - (1 - CONFIDENCE) / picked_from
    left, right = a.to_numpy(), b.to_numpy()
    estimate = paired_difference(left, right, confidence=confidence)
    clustered = {}
    if owner is not None:
        found = clustered_difference(left, right, owner.loc[a.index].to_numpy(), confidence=confidence)
        clustered = _clustered(found)
    return {
        "comparison": comparison,
        "arm": pair.arm,
        "answer": pair.answer,
        "against": pair.against,
        "against_answer": pair.against_answer,
        "group": group,
        **asdict(estimate),
        "confidence": confidence,
        "p": min(1.0, picked_from * mcnemar(left, right).p),
        **clustered,
    }


def _cell(correct: pd.Series, owner: pd.Series | None) -> dict[str, Any]:
    estimate = accuracy_interval(correct.to_numpy())
    cell = {"accuracy": estimate.mean, "low": estimate.low, "high": estimate.high, "n": estimate.n}
    if owner is None:
        return cell
    return {**cell, **_clustered(clustered_interval(correct.to_numpy(), owner.loc[correct.index].to_numpy()))}


def _clustered(found: ClusteredEstimate) -> dict[str, Any]:
    return {"low_clustered": found.low, "high_clustered": found.high, "clusters": found.clusters}


def _categories(items: Items) -> pd.Series | None:
    """The category of every sample id, None where the items do not say it."""
    if "category_id" not in getattr(items, "column_names", items.columns):
        return None
    names = ["sample_id", "category_id"]
    frame = items.select(names).to_pandas() if isinstance(items, pa.Table) else items[names]
    owner = frame.drop_duplicates("sample_id").set_index("sample_id")["category_id"]
    return None if owner.isna().any() else owner


def _best(answers: Answers, among: Sequence[str]) -> str | None:
    return max((one for one in among if one in answers), key=lambda one: answers[one].mean(), default=None)


def _worst(answers: Answers) -> str | None:
    """The one-pass answer that is right least often; None where one was not asked."""
    if not all(one in answers for one in ONE_PASS):
        return None
    return min(ONE_PASS, key=lambda one: answers[one].mean())


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
