"""Which categories an answer knows, what it takes them for, and how far a name that is not listed counts."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finedefics.evaluation.rows import ALL, OPTIONS
from finedefics.evaluation.statistics import interval
from finedefics.scoring import named, normalised

FREE = ("names_free", "names_open")  # answers whose reply is to be a name


def scopes_of(items: pa.Table) -> dict[str, str]:
    """For every answer the scope that says most of it: all categories where they compete, else options."""
    wide = set(pc.unique(items.filter(pc.field("scope") == ALL)["answer"]).to_pylist())
    answers = sorted(pc.unique(items["answer"]).to_pylist())
    return {answer: ALL if answer in wide else OPTIONS for answer in answers}


def by_category(items: pa.Table, answer: str, scope: str) -> list[dict[str, Any]]:
    """The accuracy of each category, the lowest first.

    Args:
        items: columns ``category_id``, ``group``, ``answer``, ``scope``, ``correct`` and ``predicted``, one
            row a picture.

    Returns:
        ``{"category_id", "group", "accuracy", "low", "high", "n", "unparsed"}``: fractions with 95 % Wilson
        intervals, the number of pictures, and how many replies named nothing.
    """
    own = _own(items, answer, scope).to_pandas()
    cells = []
    for (category, group), part in own.groupby(["category_id", "group"], sort=True):
        cell = asdict(interval(part["correct"].to_numpy()))
        told = {"category_id": category, "group": group, "accuracy": cell.pop("mean"), **cell}
        cells.append({**told, "unparsed": int(part["predicted"].isna().sum())})
    return sorted(cells, key=lambda cell: (cell["accuracy"], -cell["n"]))


def confused(items: pa.Table, answer: str, scope: str, most: int | None = None) -> list[dict[str, Any]]:
    """Pairs of categories that were confused, the most frequent first.

    Args:
        items: as `by_category` takes them.
        most: pairs; default: all.

    Returns:
        ``{"truth", "predicted", "count", "of"}``: so many of the pictures of the truth were taken for the
        other. Among options a category that stands there seldom is confused seldom.
    """
    own = _own(items, answer, scope)
    truth, said = own["category_id"].to_pylist(), own["predicted"].to_pylist()
    shown = Counter(truth)
    wrong = Counter((t, s) for t, s in zip(truth, said, strict=True) if s is not None and s != t)
    pairs = sorted(wrong.items(), key=lambda pair: (-pair[1], pair[0]))[:most]
    return [{"truth": t, "predicted": s, "count": n, "of": shown[t]} for (t, s), n in pairs]


def open_set(items: pa.Table, names: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """How often a free reply was the name of what is shown, by two rules.

    Args:
        items: an item table.
        names: of all categories, by id.

    Returns:
        ``{answer: {"exact": cell, "normalised": cell}}`` of answers whose reply is to be a name. ``exact``:
        the reply is the name, character by character, but for space around it; ``normalised``: it is in
        `finedefics.scoring.normalised` form, and no other name has that form. A cell is ``{"accuracy", "low",
        "high", "n"}`` with a 95 % Wilson interval.
    """
    found = {}
    for answer in FREE:
        own = _own(items, answer, ALL)
        if not len(own):
            continue
        replies = [(reply or "").strip() for reply in own["reply"].to_pylist()]
        truth = own["category_id"].to_pylist()
        ids = list(names)
        exact = [reply == names[one] for reply, one in zip(replies, truth, strict=True)]
        positions = named(replies, [names[one] for one in ids], normalised)
        same = [p is not None and ids[p] == one for p, one in zip(positions, truth, strict=True)]
        found[answer] = {"exact": _cell(exact), "normalised": _cell(same)}
    return found


def _cell(correct: list[bool]) -> dict[str, Any]:
    cell = asdict(interval(np.array(correct)))
    return {"accuracy": cell.pop("mean"), **cell}


def _own(items: pa.Table, answer: str, scope: str) -> pa.Table:
    return items.filter((pc.field("answer") == answer) & (pc.field("scope") == scope))
