"""What refusing to answer buys: risk by coverage, and what a threshold on the score does."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from finedefics.evaluation.rows import ALL
from finedefics.scoring.unknown import RULE, Unknown

POINTS = 50  # of a curve that is kept


def risk_coverage(
    correct: npt.NDArray[np.bool_], scores: npt.NDArray[np.floating]
) -> tuple[float, list[tuple[float, float]]]:
    """The area under the risk-coverage curve (AURC, Geifman and El-Yaniv 2017), and points of the curve.

    The k surest of n answers have coverage k/n, and the risk is the share of them that is wrong; the area is
    the mean risk over k = 1 … n. Pictures of one score cannot be told apart: they are answered together, and
    on the way there the risk is what is expected of them in random order. Zero is perfect; an order that says
    nothing gives the error rate.

    Args:
        correct, scores: [pictures], at least one; -inf: not answered.

    Returns:
        AURC, and at most `POINTS` pairs of coverage and risk, from the surest answers to all of them; each
        stands at a threshold.
    """
    count = len(scores)
    order = np.argsort(-scores, kind="stable")
    sure, wrong = scores[order], ~correct[order]
    ends = np.flatnonzero(np.append(sure[1:] != sure[:-1], True)) + 1  # a threshold takes all of a score
    errors = np.cumsum(wrong)[ends - 1]
    # expected errors among the first k grow evenly within a run of equal scores
    risks = np.interp(np.arange(1, count + 1), [0, *ends], [0, *errors]) / np.arange(1, count + 1)
    shown = np.unique(np.linspace(0, len(ends) - 1, min(POINTS, len(ends))).round().astype(int))
    curve = [(float(ends[i] / count), float(errors[i] / ends[i])) for i in shown]
    return float(risks.mean()), curve


def selective(items: pa.Table, unknown: Unknown | None = None) -> dict[str, dict[str, Any]]:
    """By answer what a threshold does to its answers among all categories.

    Args:
        items: columns ``answer``, ``scope``, ``correct`` and ``score``.
        unknown: thresholds chosen on other pictures.

    Returns:
        ``{answer: {"threshold", "chosen_on", "coverage", "risk", "aurc", "curve"}}`` of every answer whose
        scores say how sure it is; without a threshold the first four are None. ``coverage`` is the share of
        these pictures that it answers, ``risk`` the share of those that is wrong, None of none.
    """
    found = {}
    wide = items.filter(pc.field("scope") == ALL)
    for answer in sorted(pc.unique(wide["answer"]).to_pylist()):
        own = wide.filter(pc.field("answer") == answer)
        if own["score"].null_count == len(own):
            continue
        scores = own["score"].fill_null(float("-inf")).to_numpy()
        correct = own["correct"].to_numpy()
        aurc, curve = risk_coverage(correct, scores)
        told: Mapping[str, Any] = dict.fromkeys(("threshold", "chosen_on", "coverage", "risk"))
        if unknown is not None and answer in unknown.thresholds:
            told = _at(unknown, answer, correct, scores)
        found[answer] = {**told, "aurc": aurc, "curve": [list(point) for point in curve]}
    return found


def _at(
    unknown: Unknown, answer: str, correct: npt.NDArray[np.bool_], scores: npt.NDArray[np.floating]
) -> Mapping[str, Any]:
    threshold = unknown.thresholds[answer]
    answered = scores >= threshold
    chosen = {name: getattr(unknown, name) for name in ("dataset", "split", "pictures", "target")}
    return {
        "threshold": threshold,
        "chosen_on": {**chosen, "rule": RULE},
        "coverage": float(answered.mean()),
        "risk": float((~correct[answered]).mean()) if answered.any() else None,
    }
