"""Paired differences of whatever answers two arms share, on the items that both were asked."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd

from finedefics.evaluation.statistics import CONFIDENCE, paired_difference
from finedefics.evaluation.tables import GROUPS


def paired_rows(frames: Mapping[str, pd.DataFrame], against: str, scope: str) -> list[dict[str, Any]]:
    """Every arm's answers minus those of one, on shared pictures, labelled and new categories apart.

    Args:
        frames: items by arm; ``against`` names the one that is subtracted.
        scope: ``all`` or ``options``.

    Returns:
        rows as those of `finedefics.evaluation.differences` with the comparison ``same_answer``.
    """
    rows = []
    other = _answers(frames[against], scope)
    for arm, frame in frames.items():
        if arm == against:
            continue
        own = _answers(frame, scope)
        for answer in own:
            if answer not in other:
                continue
            for group in GROUPS:
                pair = shared(own[answer], other[answer], group)
                if pair is not None:
                    rows.append(_row(arm, against, answer, group, pair))
    return rows


def shared(own: pd.DataFrame, other: pd.DataFrame, group: str | None = None) -> tuple[Any, Any] | None:
    """Whether each item that both were asked was right, by one and by the other; None where there is none.

    Args:
        own, other: items of one answer and scope.
        group: ``labelled`` or ``new``, as the first arm has it; None for all.
    """
    left = own if group is None else own[own["group"] == group]
    both = left.merge(other, on=["sample_id", "category_id"], suffixes=("", "_other"))
    if both.empty:
        return None
    return both["correct"].to_numpy(bool), both["correct_other"].to_numpy(bool)


def _answers(frame: pd.DataFrame, scope: str) -> dict[str, pd.DataFrame]:
    columns = ["sample_id", "category_id", "group", "correct"]
    own = frame[frame["scope"] == scope]
    return {str(answer): rows[columns] for answer, rows in own.groupby("answer", sort=False)}


def _row(arm: str, against: str, answer: str, group: str, pair: tuple[Any, Any]) -> dict[str, Any]:
    return {
        "comparison": "same_answer",
        "arm": arm,
        "answer": answer,
        "against": against,
        "against_answer": answer,
        "group": group,
        **asdict(paired_difference(*pair)),
        "confidence": CONFIDENCE,
    }
