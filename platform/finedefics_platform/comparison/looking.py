"""Wrong answers made ready to be looked at: confusions by arm and answer, and pictures within a bound."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from finedefics.errors import FinedeficsError
from finedefics.evaluation.statistics import interval
from finedefics.evaluation.tables import GROUPS
from finedefics_platform.data.inspection.pictures import thumbnail
from finedefics_platform.data.store import Dataset, Place
from finedefics_platform.reporting.mistakes import NOTHING, Mistakes, Said, Shot, View
from finedefics_platform.reporting.report import PerCategory

EDGE = 160  # pixels of a picture's longer side
MOST_BYTES = 2_400_000  # of all pictures; base64 makes a third more of it
MOST_VIEWS = 60
MOST_ROWS = 400  # categories in the table
_AT_ONCE = 32  # pictures read together

AMONG = {"all": "all categories", "options": "options"}


def mistakes(
    frames: Mapping[str, pd.DataFrame],
    names: Mapping[str, str],
    leading: tuple[str, str, str],
    dataset: Dataset | None,
    split: str,
    *,
    pictures: int = 200,
) -> Mistakes | None:
    """Confusions of every arm's answers, and pictures: the wrong ones of the leading answer first.

    Args:
        frames: items by arm, grouped alike.
        names: of categories, by id; one that is missing is called by its id.
        leading: arm, answer and scope that is seen first.
        dataset: has the pictures; None where it is gone.
        split: in which they are.
        pictures: the most that are put into the page; never more than `MOST_BYTES` of them.
    """
    asked = [
        (arm, str(answer), str(scope))
        for arm, frame in frames.items()
        for (answer, scope), _ in frame.groupby(["answer", "scope"], sort=False)
    ]
    if leading not in asked:
        return None
    asked = [leading, *(one for one in asked if one != leading)][:MOST_VIEWS]
    tables = [_of(frames[arm], answer, scope) for arm, answer, scope in asked]
    place, groups = _places(tables, names)
    views = [
        View(arm, f"{answer}, {AMONG.get(scope, scope)}", _pairs(table, place))
        for (arm, answer, scope), table in zip(asked, tables, strict=True)
    ]
    order = list(_order(tables, pictures))
    shots, note = _shots(tables, order, place, dataset, split)
    wrong = {*tables[0].index[~tables[0]["correct"]]}
    kept = sum(sample in wrong for sample, _ in shots)
    of = f"{len(wrong)} pictures that {views[0].arm} names wrongly by {views[0].label}"
    said = f"{'All' if kept == len(wrong) else f'{kept} of the'} {of} are here"
    if shots:
        more = " (--pictures asks for more)" if kept < len(wrong) else ""
        said += f"{more}, and {len(shots) - kept} others, {note}"
    elif wrong:
        said = f"None of the {of} is here: {note}"
    return Mistakes([names.get(i, i) for i in place], groups, views, 0, [shot for _, shot in shots], said)


def _of(frame: pd.DataFrame, answer: str, scope: str) -> pd.DataFrame:
    own = frame[(frame["answer"] == answer) & (frame["scope"] == scope)]
    return own.drop_duplicates("sample_id").set_index("sample_id")


def _places(tables: Sequence[pd.DataFrame], names: Mapping[str, str]) -> tuple[dict[str, int], list[str]]:
    """Position of every category that occurs, new ones first, by name; and its group."""
    group: dict[str, str] = {}
    for table in tables:
        group |= dict(zip(table["category_id"], table["group"], strict=True))
    occur = {one for table in tables for one in table["predicted"].dropna()} | {*group}
    occur |= {str(one) for table in tables for shown in table["options"].dropna() for one in shown}
    rank = {name: number for number, name in enumerate(reversed(GROUPS))}
    ids = sorted(occur, key=lambda i: (rank.get(group.get(i, ""), len(rank)), names.get(i, i).casefold(), i))
    return {i: number for number, i in enumerate(ids)}, [group.get(i, "not asked") for i in ids]


def _pairs(table: pd.DataFrame, place: Mapping[str, int]) -> dict[tuple[int, int], int]:
    counted = table.groupby(["category_id", "predicted"], dropna=False, sort=False).size()
    return {
        (place[str(truth)], NOTHING if pd.isna(named) else place[str(named)]): int(n)
        for (truth, named), n in counted.items()
    }


def _order(tables: Sequence[pd.DataFrame], most: int) -> Iterator[str]:
    """Sample ids: wrong ones of the first table, its cells in turn; of the others; then some right ones."""
    taken: dict[str, None] = {}
    sources: list[Iterable[str]] = [_in_turn(table[~table["correct"]]) for table in tables]
    sources.append(_in_turn(tables[0][tables[0]["correct"]]))
    for number, source in enumerate(sources):
        room = most if number in (0, len(sources) - 1) else max(len(taken), int(0.8 * most))
        for sample in source:
            if len(taken) >= room:
                break
            taken.setdefault(sample)
    yield from list(taken)[:most]


def _in_turn(table: pd.DataFrame) -> Iterator[str]:
    """One picture of every cell, the fullest first, then a second one of each, and so on."""
    named = table["predicted"].fillna("")
    cells = table.assign(named=named).groupby(["category_id", "named"], sort=False)
    sizes = cells["answer"].transform("size")
    turn = cells.cumcount()
    ordered = pd.DataFrame({"turn": turn, "size": -sizes}).sort_values(["turn", "size"], kind="stable")
    return iter(ordered.index.astype(str).tolist())


def _shots(
    tables: Sequence[pd.DataFrame],
    order: Sequence[str],
    place: Mapping[str, int],
    dataset: Dataset | None,
    split: str,
) -> tuple[list[tuple[str, Shot]], str]:
    """Pictures made small, in order, until there are bytes enough; and what was left out."""
    if dataset is None:
        return [], "the dataset version that they are of is not in this workspace."
    try:
        images, full = _images(dataset, split, order)
    except FinedeficsError as error:
        return [], f"they cannot be read ({error.thing})."
    shots = []
    for sample, image in images.items():
        said = {n: _said(table.loc[sample], place) for n, table in enumerate(tables) if sample in table.index}
        truth = next(table.loc[sample, "category_id"] for table in tables if sample in table.index)
        shots.append((sample, Shot(image, place[str(truth)], said)))
    bound = f", and a page holds {MOST_BYTES / 1e6:.1f} MB of them at most" if full else ""
    return shots, f"made small ({EDGE} pixels): {sum(map(len, images.values())) / 1e6:.1f} MB{bound}."


def _images(dataset: Dataset, split: str, order: Sequence[str]) -> tuple[dict[str, bytes], bool]:
    where = _where(dataset, split, {*order})
    wanted = [sample for sample in order if sample in where]
    found: dict[str, bytes] = {}
    spent = 0
    for start in range(0, len(wanted), _AT_ONCE):
        part = wanted[start : start + _AT_ONCE]
        columns = {"samples": ("sample_id", "image", "category_id")}
        for sample in dataset.samples_at([where[one] for one in part], columns):
            small = thumbnail(sample.image, EDGE)
            if spent + len(small) > MOST_BYTES:
                return found, True
            spent += len(small)
            found[sample.sample_id] = small
    return found, False


def _where(dataset: Dataset, split: str, wanted: set[str]) -> dict[str, Place]:
    found: dict[str, Place] = {}
    for group in dataset.row_groups(split):
        ids = dataset.read(group, {"samples": ["sample_id"]})["sample_id"].to_pylist()
        found |= {one: Place(group, row) for row, one in enumerate(ids) if one in wanted}
        if len(found) == len(wanted):
            break
    return found


def _said(row: "pd.Series[Any]", place: Mapping[str, int]) -> Said:
    options = row["options"]
    there = options is not None and not isinstance(options, float) and all(i in place for i in options)
    return Said(
        NOTHING if pd.isna(row["predicted"]) else place[row["predicted"]],
        _present(row["score"], float),
        _present(row["reply"], str),
        [place[i] for i in options] if there else None,
        _present(row["position"], int) if there else None,
        _present(row["description"], str),
    )


def _present(value: Any, kind: Any) -> Any:
    return None if value is None or pd.isna(value) else kind(value)


def per_category(
    frames: Mapping[str, pd.DataFrame], names: Mapping[str, str], columns: Sequence[tuple[str, str, str]]
) -> PerCategory | None:
    """Accuracy of every category by each column's arm, answer and scope; the worst of the first lead."""
    tables = [_of(frames[arm], answer, scope) for arm, answer, scope in columns]
    if not tables or tables[0].empty:
        return None
    of: list[dict[str, pd.Series[Any]]] = [
        {str(i): own for i, own in table.groupby("category_id", sort=False)["correct"]} for table in tables
    ]
    group = dict(zip(tables[0]["category_id"], tables[0]["group"], strict=True))
    ids = sorted(of[0], key=lambda i: (of[0][i].mean(), names.get(i, i).casefold()))
    rows = [
        {
            "category": names.get(i, i),
            "group": group[i],
            "n": len(of[0][i]),
            "cells": [_cell(own[i]) if i in own else None for own in of],
        }
        for i in ids[:MOST_ROWS]
    ]
    shown = f"All {len(ids)} categories" if len(ids) <= MOST_ROWS else f"The worst {MOST_ROWS} of {len(ids)}"
    note = f"{shown} with 95 % Wilson intervals; the worst first, a heading sorts."
    return PerCategory([{"arm": arm, "answer": answer} for arm, answer, _ in columns], rows, note)


def _cell(correct: "pd.Series[Any]") -> dict[str, float]:
    estimate = interval(correct.to_numpy(bool))
    return {"accuracy": estimate.mean, "low": estimate.low, "high": estimate.high}
