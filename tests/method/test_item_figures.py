"""The figures of an item table beside accuracy: orders of options, free names, risk, categories."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.stats import chi2

from finedefics.backbones import Backbone
from finedefics.evaluation.categories import by_category, confused, open_set, scopes_of
from finedefics.evaluation.items import evaluate_samples
from finedefics.evaluation.rotations import rotation_figures
from finedefics.evaluation.rows import Questions
from finedefics.evaluation.schema import ITEMS
from finedefics.evaluation.selective import POINTS, risk_coverage, selective
from finedefics.evaluation.statistics import interval
from finedefics.records import Category, Sample
from finedefics.scoring import Recogniser, Unknown, normalised

IDS = ["wren", "tern", "gull", "crow"]
ASKED = Questions(
    ["p0", "p1", "p2"], ["wren", "gull", "crow"], [[0, 1, 2, 3], [2, 0], [3, 1, 0, 2]], IDS, {"wren"}
)


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, ITEMS)


def by_position(positions: dict[int, list[int | None]]) -> pa.Table:
    """Items of a model that chooses the option at a position, by rotation and picture; None: unparsed."""
    rows = []
    for rotation, chosen in positions.items():
        scores = torch.full((3, 4), -torch.inf)
        plain = ASKED.rows("letters", scores, among_all=False, rotation=rotation)
        shown = {row["sample_id"]: row["options"] for row in plain}
        for row, (sample_id, position) in enumerate(zip(ASKED.sample_ids, chosen, strict=True)):
            if sample_id in shown and position is not None:
                scores[row, IDS.index(shown[sample_id][position])] = 0.0
        rows += ASKED.rows("letters", scores, among_all=False, graded=False, rotation=rotation)
    return table(rows)


def test_a_row_says_what_was_shown_and_where_the_truth_stood() -> None:
    orders = []
    for rotation in range(4):
        rows = ASKED.rows("letters", torch.zeros(3, 4), among_all=False, rotation=rotation)
        # a question of two options has two orders
        assert [row["sample_id"] for row in rows] == (["p0", "p1", "p2"] if rotation < 2 else ["p0", "p2"])
        for row in rows:
            assert row["options"][row["position"]] == row["category_id"]
            assert row["rotation"] == rotation
        orders.append(rows[0]["options"])
    assert sorted(orders[0]) == sorted(IDS)
    assert [orders[0][k:] + orders[0][:k] for k in range(4)] == orders
    wide, among = ASKED.rows("names", torch.tensor([[0.1, 0.3, 0.2, 0.0]] * 3))[::3]
    assert (wide["scope"], wide["options"], wide["position"]) == ("all", None, None)
    assert (wide["predicted"], wide["score"]) == ("tern", pytest.approx(0.3))
    assert (among["scope"], among["options"]) == ("options", orders[0])
    (unread, *_) = ASKED.rows("letters", torch.full((3, 4), -torch.inf), graded=False, texts=["?", "", "B"])
    assert (unread["predicted"], unread["score"], unread["reply"]) == (None, None, "?")


def test_a_model_that_always_says_a_leans_wholly_and_is_never_consistent() -> None:
    told = rotation_figures(by_position({k: [0, 0, 0] for k in range(4)}))["letters"]
    assert (told["orders"], told["questions"]) == (4, 3)
    # over all orders each position holds the truth once, so who looks at the place alone is at chance
    assert told["accuracy"] == pytest.approx((0.25 + 0.5 + 0.25) / 3)
    assert told["consistency"] == 0
    assert [one["chosen"] for one in told["positions"]] == [10, 0, 0, 0]
    assert [one["truth"] for one in told["positions"]] == [3, 3, 2, 2]
    expected = (10 - 3) ** 2 / 3 + 3 + 2 + 2
    assert told["chi_square"]["statistic"] == pytest.approx(expected)
    assert told["chi_square"]["p"] == pytest.approx(chi2.sf(expected, 3))
    assert [one["n"] for one in told["by_rotation"]] == [3, 3, 2, 2]


def test_replies_that_name_nothing_are_consistent_in_nothing() -> None:
    told = rotation_figures(by_position({k: [None, None, 0] for k in range(2)}))["letters"]
    assert told["consistency"] == 0
    assert told["unparsed"] == pytest.approx(4 / 6)
    assert sum(one["chosen"] for one in told["positions"]) == 2


def test_a_model_that_knows_is_consistent_and_leans_nowhere() -> None:
    rows = []
    for rotation in range(4):
        scores = torch.full((3, 4), -torch.inf)
        scores[0, 0] = scores[1, 0] = scores[2, 3] = 0.0  # the second is consistently wrong
        if rotation == 3:
            scores[2] = -torch.inf  # unparsed once: not the same in every order
        rows += ASKED.rows("letters", scores, among_all=False, graded=False, rotation=rotation)
    told = rotation_figures(table(rows))["letters"]
    assert told["consistency"] == pytest.approx(2 / 3)
    assert told["accuracy"] == pytest.approx((1 + 0 + 0.75) / 3)
    assert told["unparsed"] == pytest.approx(1 / 10)
    assert told["chi_square"]["p"] > 0.9
    ordinary = table([row for row in rows if row["rotation"] == 0])
    assert rotation_figures(ordinary) == {}, "what was asked in one order shows nothing"


def test_all_orders_are_asked_and_count_once(lettered: Backbone, birds: list[bytes]) -> None:
    names = ["red wing", "black", "white tail wing", "crown"]
    model = Recogniser(lettered, [Category(i, n) for i, n in zip(IDS, names, strict=True)], seed=2)
    samples = [Sample(f"b{i}", bird, IDS[i % 4]) for i, bird in enumerate(birds[:3])]
    answers = ["letters_likelihood", "letters", "letters_foci", "alignment"]
    turned = evaluate_samples(model, samples, answers, labelled=(), rotations=4)
    plain = evaluate_samples(model, samples, answers, labelled=())
    assert [row for row in turned.rows if row["rotation"] == 0] == plain.rows
    assert turned.tokens == plain.tokens
    asked = {(row["answer"], row["rotation"]) for row in turned.rows}
    assert asked == {(a, k) for a in answers[:3] for k in range(4)} | {("alignment", 0)}
    for sample in samples:
        shown = {
            row["rotation"]: row["options"]
            for row in turned.rows
            if (row["answer"], row["sample_id"]) == ("letters_likelihood", sample.sample_id)
        }
        assert [shown[k] for k in range(4)] == [shown[0][k:] + shown[0][:k] for k in range(4)]
    # the same options in the order of `choose_options`
    again = model.answer([birds[0]], "letters_likelihood", sample_ids=["b0"], options=[[0, 3, 2, 1]])
    first = next(row for row in turned.rows if row["answer"] == "letters_likelihood")
    assert first["score"] == pytest.approx(again.scores.max().item(), abs=1e-4)
    others = {
        row["score"]
        for row in turned.rows
        if (row["answer"], row["sample_id"]) == ("letters_likelihood", "b0")
    }
    assert len(others) == 4, "another order is another question"


@pytest.mark.parametrize(
    ("name", "reply"),
    [
        ("House Finch", "the house_finches."),
        ("Cassin's Sparrow", "Cassins sparrow"),
        ("Black-footed Albatross", "A black footed albatross"),
        ("Red-winged Fly", "red winged flies"),
        ("Boeing 737-800", "boeing 737_800"),
        ("Mallard", "An  MALLARD!"),
        ("Albatross", "albatrosses"),
    ],
)
def test_spelling_does_not_count_in_the_open_set(name: str, reply: str) -> None:
    assert normalised(reply) == normalised(name)


def test_other_names_stay_others() -> None:
    for one, other in (("Glass", "Gla"), ("Cactus", "Cactu"), ("The", "A"), ("House Finch", "Finch")):
        assert normalised(one) != normalised(other)
    assert normalised("?!") == ""


def test_free_replies_are_judged_by_both_rules() -> None:
    names = {"a": "House Finch", "b": "Tern", "c": "tern's", "d": "Crow"}
    said = [("a", " House Finch"), ("a", "a house finch"), ("d", "crow"), ("b", "tern"), ("d", None)]
    rows = [
        {"sample_id": f"p{i}", "category_id": truth, "answer": "names_free", "scope": "all", "reply": reply}
        for i, (truth, reply) in enumerate(said)
    ]
    found = open_set(table(rows), names)["names_free"]
    assert (found["exact"]["accuracy"], found["exact"]["n"]) == (1 / 5, 5)
    # "tern" is of two names in normal form, so it is neither
    assert found["normalised"]["accuracy"] == 3 / 5
    assert found["normalised"]["low"] == pytest.approx(interval([1, 1, 1, 0, 0]).low)


def test_risk_by_coverage_is_the_mean_risk_of_the_surest() -> None:
    scores = np.random.default_rng(0).permutation(200).astype(np.float32)
    correct = np.random.default_rng(1).random(200) < 0.2 + 0.004 * scores
    aurc, curve = risk_coverage(correct, scores)
    order = np.argsort(-scores)
    naive = [float((~correct[order[:k]]).mean()) for k in range(1, 201)]
    assert aurc == pytest.approx(np.mean(naive))
    assert len(curve) == POINTS
    for coverage, risk in curve:
        assert risk == pytest.approx(naive[round(coverage * 200) - 1])
    assert curve[-1] == (1.0, pytest.approx((~correct).mean()))
    assert aurc < (~correct).mean(), "a score that knows something refuses what is wrong"


def test_equal_scores_are_one_threshold_and_their_order_decides_nothing() -> None:
    correct = np.array([True, False, False, True])
    aurc, curve = risk_coverage(correct, np.zeros(4, np.float32))
    assert curve == [(1.0, 0.5)]
    assert aurc == pytest.approx(0.5)
    assert risk_coverage(correct[::-1], np.zeros(4, np.float32))[0] == aurc


def test_a_threshold_of_other_pictures_says_what_it_does_here() -> None:
    rows = ASKED.rows("alignment", torch.tensor([[0.9, 0, 0, 0], [0.8, 0, 0, 0], [0, 0, 0, 0.1]]))
    rows += ASKED.rows("letters", torch.zeros(3, 4), among_all=False, graded=False)
    unknown = Unknown.choose({"alignment": np.array([0.5, 0.7])}, dataset="d", split="val")
    found = selective(table(rows), unknown)
    assert set(found) == {"alignment"}, "letters say nothing of how sure they are"
    told = found["alignment"]
    assert (told["threshold"], told["coverage"], told["risk"]) == (0.5, 2 / 3, 0.5)
    assert (told["chosen_on"]["split"], told["chosen_on"]["pictures"]) == ("val", 2)
    bare = selective(table(rows))["alignment"]
    assert (bare["threshold"], bare["chosen_on"], bare["aurc"]) == (None, None, told["aurc"])


def test_categories_and_what_they_are_taken_for() -> None:
    truth = ["wren"] * 4 + ["gull"] * 2
    said = ["tern", "tern", "wren", None, "gull", "gull"]
    rows = [
        {"sample_id": f"p{i}", "category_id": t, "group": "new", "answer": "letters", "scope": "options"}
        | {"predicted": s, "correct": t == s}
        for i, (t, s) in enumerate(zip(truth, said, strict=True))
    ]
    items = table(rows)
    assert scopes_of(items) == {"letters": "options"}
    hard, easy = by_category(items, "letters", "options")
    assert (hard["category_id"], hard["accuracy"], hard["n"], hard["unparsed"]) == ("wren", 0.25, 4, 1)
    assert hard["high"] == pytest.approx(interval([True, False, False, False]).high)
    assert (easy["category_id"], easy["accuracy"]) == ("gull", 1.0)
    assert confused(items, "letters", "options") == [
        {"truth": "wren", "predicted": "tern", "count": 2, "of": 4}
    ]
