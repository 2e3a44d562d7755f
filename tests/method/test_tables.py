"""Accuracy tables and paired differences from answered items."""

from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from finedefics.errors import FinedeficsError
from finedefics.evaluation import (
    accuracy_table,
    clustered_difference,
    clustered_interval,
    differences,
    interval,
    mcnemar,
    paired_difference,
)

Rows = dict[tuple[str, str], list[bool]]


def items_of(rows: Rows, scope: str = "all") -> pd.DataFrame:
    """Items of one arm from the right and wrong answers of each (answer, group)."""
    return pd.DataFrame(
        [
            {
                "sample_id": f"{group}-{number:03}",
                "category_id": "a",
                "group": group,
                "answer": answer,
                "scope": scope,
                "predicted": "a" if right else "b",
                "correct": right,
            }
            for (answer, group), answers in rows.items()
            for number, right in enumerate(answers)
        ]
    )


def share(right: int, n: int = 20) -> list[bool]:
    return [True] * right + [False] * (n - right)


CONTROL: Rows = {
    ("names", "labelled"): share(17),
    ("alignment", "labelled"): share(4),
    ("describe", "labelled"): share(16),
    ("names", "new"): share(0),
    ("alignment", "new"): share(3),
    ("describe", "new"): share(18),
}
JOINT: Rows = {**CONTROL, ("alignment", "labelled"): share(16), ("alignment", "new"): share(19)}
SPEEDS = {"control": {"names": 90.0, "alignment": 300.0, "describe": 30.0}, "joint": {"alignment": 310.0}}


def one(rows: list[dict[str, Any]], **wanted: str) -> dict[str, Any]:
    (found,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return found


def test_table_has_accuracies_with_intervals_and_speeds() -> None:
    table = accuracy_table({"control": items_of(CONTROL), "joint": items_of(JOINT)}, SPEEDS)
    assert list(table) == ["control", "joint"]
    assert list(table["joint"]) == ["names", "alignment", "describe"]
    expected = interval(share(19))
    assert table["joint"]["alignment"]["new"] == {
        "accuracy": 0.95,
        "low": expected.low,
        "high": expected.high,
        "n": 20,
        "low_clustered": None,
        "high_clustered": None,
        "clusters": 1,
    }
    assert table["joint"]["alignment"]["pictures_per_second"] == 310.0
    assert "pictures_per_second" not in table["joint"]["names"]


def test_scopes_and_groups_are_kept_apart() -> None:
    both = pd.concat([items_of(CONTROL), items_of({("names", "labelled"): share(20)}, scope="options")])
    options = accuracy_table({"control": both}, {}, scope="options")
    assert options == {"control": {"names": {"labelled": options["control"]["names"]["labelled"]}}}
    assert options["control"]["names"]["labelled"]["accuracy"] == 1.0
    assert accuracy_table({"control": both}, {})["control"]["names"]["labelled"]["accuracy"] == 0.85


def test_arrow_and_pandas_give_the_same() -> None:
    frames = {"control": items_of(CONTROL), "joint": items_of(JOINT)}
    tables = {arm: pa.Table.from_pandas(frame, preserve_index=False) for arm, frame in frames.items()}
    assert accuracy_table(tables, SPEEDS) == accuracy_table(frames, SPEEDS)
    assert differences(tables) == differences(frames)


def test_differences_are_paired_by_sample_whatever_the_order() -> None:
    shuffled = items_of(JOINT).sample(frac=1, random_state=3)
    rows = differences({"control": items_of(CONTROL), "joint": shuffled})
    row = one(rows, comparison="same_answer", answer="alignment", group="new")
    expected = paired_difference(share(19), share(3))
    assert (row["mean"], row["low"], row["high"], row["n"]) == (
        expected.mean,
        expected.low,
        expected.high,
        expected.n,
    )
    assert (row["arm"], row["against"]) == ("joint", "control")


def test_best_one_pass_is_picked_by_group_and_its_interval_is_wider() -> None:
    rows = differences({"control": items_of(CONTROL), "joint": items_of(JOINT)})
    new = one(rows, comparison="one_pass", group="new")
    assert (new["answer"], new["against_answer"]) == ("alignment", "alignment")
    same = one(rows, comparison="same_answer", answer="alignment", group="new")
    assert new["mean"] == same["mean"]
    assert new["low"] < same["low"]
    assert new["confidence"] == pytest.approx(1 - 0.05 / 4)
    labelled = one(rows, comparison="one_pass", group="labelled")
    assert (labelled["answer"], labelled["against_answer"]) == ("names", "names")
    describe = one(rows, comparison="one_pass_to_describe", group="new")
    assert (describe["answer"], describe["against_answer"]) == ("alignment", "describe")
    assert describe["mean"] == pytest.approx(0.05)
    assert describe["confidence"] == pytest.approx(0.975)


def test_no_new_categories_give_no_rows_of_them() -> None:
    rows = {key: value for key, value in CONTROL.items() if key[1] == "labelled"}
    found = differences({"control": items_of(rows), "joint": items_of(rows)})
    assert {row["group"] for row in found} == {"labelled"}


def test_arms_that_answered_other_items_are_refused() -> None:
    fewer = items_of({**JOINT, ("names", "new"): share(0, 19)})
    with pytest.raises(FinedeficsError, match=r"joint.names against control.names: 19 and 20 new items, 1"):
        differences({"control": items_of(CONTROL), "joint": fewer})


def test_an_item_answered_twice_is_refused() -> None:
    items = items_of(CONTROL)
    with pytest.raises(FinedeficsError, match="answered twice"):
        accuracy_table({"control": pd.concat([items, items.head(1)])}, {})


def test_a_missing_control_or_column_is_named() -> None:
    with pytest.raises(FinedeficsError, match="no arm 'control' among joint"):
        differences({"joint": items_of(JOINT)})
    with pytest.raises(FinedeficsError, match="no column correct"):
        accuracy_table({"joint": items_of(JOINT).drop(columns="correct")}, {})


def test_a_method_is_compared_with_the_strongest_control_of_each_answer_and_group() -> None:
    bridge = {**CONTROL, ("names", "new"): share(12), ("describe", "new"): share(19)}
    items = {"control": CONTROL, "self_labelled": bridge, "joint": JOINT, "two_stage": JOINT}
    rows = differences({arm: items_of(rows) for arm, rows in items.items()})
    assert {row["arm"] for row in rows if row["comparison"] != "same_answer"} == {"joint", "two_stage"}
    names = one(rows, arm="joint", comparison="strongest", answer="names", group="new")
    assert (names["against"], names["mean"]) == ("self_labelled", pytest.approx(-0.6))
    assert names["confidence"] == pytest.approx(1 - 0.05 / 2)
    best = one(rows, arm="joint", comparison="one_pass", group="new")
    assert (best["answer"], best["against"], best["against_answer"]) == (
        "alignment",
        "self_labelled",
        "names",
    )
    assert best["confidence"] == pytest.approx(1 - 0.05 / 8)
    words = one(rows, arm="joint", comparison="one_pass_to_describe", group="new")
    assert (words["against"], words["mean"]) == ("self_labelled", 0)


def test_whichever_way_it_is_asked_compares_the_worse_answers() -> None:
    half = {**CONTROL, ("names", "new"): share(18)}
    whole = {**half, ("alignment", "new"): share(17)}
    items = {"control": CONTROL, "self_labelled": half, "joint": JOINT, "both": whole}
    rows = differences({arm: items_of(rows) for arm, rows in items.items()})
    found = one(rows, arm="both", comparison="whichever", group="new")
    assert (found["answer"], found["against"], found["against_answer"]) == (
        "alignment",
        "self_labelled",
        "alignment",
    )
    assert found["mean"] == pytest.approx(14 / 20)
    assert found["confidence"] == pytest.approx(1 - 0.05 / 8)
    one_way = one(rows, arm="joint", comparison="whichever", group="new")
    assert (one_way["answer"], one_way["mean"]) == ("names", pytest.approx(-3 / 20))


def of_species(rows: Rows) -> pd.DataFrame:
    """The same items, of four species, so that species are alike in being right."""
    items = items_of(rows)
    return items.assign(category_id=items["sample_id"].str[-3:].astype(int).floordiv(5).astype(str))


def test_cells_and_differences_are_clustered_by_category() -> None:
    owner = [str(number // 5) for number in range(20)]
    frames = {"control": of_species(CONTROL), "joint": of_species(JOINT).sample(frac=1, random_state=5)}
    cell = accuracy_table(frames, {})["joint"]["names"]["labelled"]
    expected = clustered_interval(share(17), owner)
    assert (cell["low_clustered"], cell["high_clustered"]) == (expected.low, expected.high)
    assert cell["clusters"] == 4
    assert cell["low_clustered"] < cell["low"], "species are right or wrong together here"
    row = one(differences(frames), comparison="same_answer", answer="alignment", group="new")
    wide = clustered_difference(share(19), share(3), owner)
    assert (row["low_clustered"], row["high_clustered"], row["clusters"]) == (wide.low, wide.high, 4)
    assert row["p"] == mcnemar(share(19), share(3)).p


def test_a_pick_has_a_larger_p() -> None:
    rows = differences({"control": items_of(CONTROL), "joint": items_of(JOINT)})
    picked = one(rows, comparison="one_pass", group="labelled")
    assert picked["p"] == min(1.0, 4 * mcnemar(share(17), share(17)).p) == 1.0
    picked, same = (
        one(rows, comparison=name, group="new", answer="alignment") for name in ("one_pass", "same_answer")
    )
    assert picked["p"] == pytest.approx(4 * same["p"])


def test_items_without_a_category_have_no_clusters() -> None:
    bare = {arm: items_of(rows).drop(columns="category_id") for arm, rows in (("control", CONTROL),)}
    assert set(accuracy_table(bare, {})["control"]["names"]["new"]) == {"accuracy", "low", "high", "n"}
    unlabelled = items_of(CONTROL).assign(category_id=None)
    assert "clusters" not in accuracy_table({"control": unlabelled}, {})["control"]["names"]["new"]
    assert "clusters" not in differences({**bare, "joint": bare["control"]})[0]
