"""Whether a choice depends on where its options stand: every question asked in several cyclic orders."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import chisquare

from finedefics.conversation import letters
from finedefics.evaluation.rows import OPTIONS
from finedefics.evaluation.statistics import interval

_COLUMNS = ["sample_id", "answer", "predicted", "correct", "options", "position", "rotation"]


def rotation_figures(items: pa.Table) -> dict[str, dict[str, Any]]:
    """By answer how its choices follow the order of the options; of answers asked in several orders only.

    Args:
        items: an item table with all its rotations.

    Returns:
        ``{answer: {"orders", "questions", "accuracy", "by_rotation", "consistency", "unparsed", "positions",
        "chi_square"}}``:

        - ``accuracy`` over all orders, each question counting once; ``by_rotation`` a list of
          ``{"rotation", "accuracy", "low", "high", "n"}`` with 95 % Wilson intervals;
        - ``consistency``: share of the questions that were answered with the same category in every order;
          a question with a reply that names no option is not;
        - ``unparsed``: share of replies that name no option;
        - ``positions``: ``{"letter", "chosen", "truth"}``, how often each was chosen and held the truth;
        - ``chi_square``: Pearson's test that positions are chosen as often as they hold the truth, in
          proportion: ``{"statistic", "df", "p"}``; None where a position never held it. It takes replies for
          independent; those of one question are not, which makes it cautious where the model is consistent.
    """
    asked = items.filter((pc.field("scope") == OPTIONS) & pc.is_valid(pc.field("rotation")))
    turned = pc.unique(asked.filter(pc.field("rotation") > 0)["answer"]).to_pylist()
    found = {}
    for answer in sorted(turned):
        frame = asked.filter(pc.field("answer") == answer).select(_COLUMNS).to_pandas()
        found[answer] = _figures(frame)
    return found


def _figures(rows: pd.DataFrame) -> dict[str, Any]:
    questions = rows.groupby("sample_id", sort=False)
    said = questions["predicted"]
    same = (said.nunique(dropna=False) == 1) & said.first().notna()
    by_rotation = []
    for rotation, part in rows.groupby("rotation"):
        cell = asdict(interval(part["correct"].to_numpy()))
        by_rotation.append({"rotation": int(rotation), "accuracy": cell.pop("mean"), **cell})
    positions = _positions(rows)
    return {
        "orders": int(rows["rotation"].max()) + 1,
        "questions": int(rows["sample_id"].nunique()),
        "accuracy": float(questions["correct"].mean().mean()),
        "by_rotation": by_rotation,
        "consistency": float(same.mean()),
        "unparsed": float(rows["predicted"].isna().mean()),
        "positions": positions,
        "chi_square": _test([one["chosen"] for one in positions], [one["truth"] for one in positions]),
    }


def _positions(rows: pd.DataFrame) -> list[dict[str, Any]]:
    most = int(rows["options"].map(len).max())
    read = rows[rows["predicted"].notna()]
    chosen = np.zeros(most, int)
    for options, predicted in zip(read["options"], read["predicted"], strict=True):
        chosen[list(options).index(predicted)] += 1
    truth = np.bincount(rows["position"], minlength=most)
    pairs = zip(letters(most), chosen.tolist(), truth.tolist(), strict=True)
    return [{"letter": letter, "chosen": own, "truth": held} for letter, own, held in pairs]


def _test(chosen: Sequence[int], truth: Sequence[int]) -> dict[str, Any] | None:
    if not sum(chosen) or not all(truth):
        return None
    expected = np.array(truth) * (sum(chosen) / sum(truth))
    found = chisquare(chosen, expected)
    return {"statistic": float(found.statistic), "df": len(chosen) - 1, "p": float(found.pvalue)}
