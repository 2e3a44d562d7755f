"""Sentences follow the intervals in every direction, the losing one included."""

from typing import Any

import pytest

from finedefics.evaluation import NOT_SHOWN, verdict

LIMITS = 3  # sentences about the limits that stand under every comparison


def cell(accuracy: float) -> dict[str, float]:
    return {"accuracy": accuracy, "low": accuracy - 0.05, "high": accuracy + 0.05, "n": 96}


def made_up_table(joint_new: float, names_new: float = 0.01) -> dict[str, Any]:
    def arm(alignment_new: float, names: float) -> dict[str, Any]:
        return {
            "names": {"labelled": cell(0.84), "new": cell(names), "pictures_per_second": 90.0},
            "alignment": {"labelled": cell(0.22), "new": cell(alignment_new), "pictures_per_second": 330.0},
            "describe": {"labelled": cell(0.8), "new": cell(0.9), "pictures_per_second": 30.0},
        }

    return {"instruction": arm(0.07, 0.0), "control": arm(0.17, 0.0), "joint": arm(joint_new, names_new)}


def row(comparison: str, low: float, high: float, **fields: str) -> dict[str, Any]:
    usual = {"arm": "joint", "answer": "alignment", "against": "control", "group": "new"}
    against_answer = "describe" if comparison == "one_pass_to_describe" else fields.get("answer", "alignment")
    return {
        **usual,
        "against_answer": against_answer,
        "comparison": comparison,
        "mean": (low + high) / 2,
        "low": low,
        "high": high,
        "n": 96,
        "confidence": 0.95,
        **fields,
    }


def said(sentences: list[str]) -> str:
    return "\n".join(one for one in sentences if not one.startswith(NOT_SHOWN))


def test_a_gain_on_new_categories_is_said_with_its_interval() -> None:
    text = said(verdict(made_up_table(0.92), [row("one_pass", 0.64, 0.86)], categories={"new": 6}))
    assert text == (
        "In one pass (alignment), joint names categories it never had a label for with 92.0 % [87.0, 97.0] "
        "(pictures of 6 categories in one world): 75.0 points [64.0, 86.0] more than the best one-pass "
        "answer of any control (control, alignment: 17.0 %)."
    )


def test_every_interval_on_new_categories_says_what_it_covers() -> None:
    rows = [
        row("one_pass", 0.64, 0.86),
        row("one_pass_to_describe", -0.04, 0.08),
        row("same_answer", -0.02, 0.04, answer="names"),
    ]
    sentences = said(verdict(made_up_table(0.92), rows, categories={"new": 6, "labelled": 18})).splitlines()
    assert len(sentences) == 3
    for sentence in sentences:
        assert "(pictures of 6 categories in one world)" in sentence
    labelled = row("one_pass", 0.1, 0.2, group="labelled", answer="names")
    assert "6 categories" not in said(verdict(made_up_table(0.92), [labelled], categories={"new": 6}))


def test_only_what_was_picked_is_called_the_strongest() -> None:
    usual = row("same_answer", 0.3, 0.5, answer="names")
    assert "strongest" not in said(verdict(made_up_table(0.92), [usual]))
    picked = row("strongest", -0.2, 0.1, answer="names", against="instruction")
    text = said(verdict(made_up_table(0.92), [usual, picked]))
    assert "against control (0.0 %) (pictures" in text
    assert "joint gains (1.0 %" in text
    assert "against instruction (0.0 %), the strongest control in it (pictures" in text
    assert "joint shows no difference" in text


def test_a_loss_is_said_as_plainly_as_a_gain() -> None:
    text = said(verdict(made_up_table(0.05), [row("one_pass", -0.2, -0.04)]))
    assert "12.0 points [4.0, 20.0] less than the best one-pass answer of any control" in text
    assert "more than" not in text


def test_an_interval_that_holds_zero_claims_nothing() -> None:
    sentences = verdict(made_up_table(0.2), [row("one_pass", -0.02, 0.08)])
    assert "no difference to the best one-pass answer of any control (control" in said(sentences)
    assert "is shown: +3.0 points [-2.0, +8.0]" in said(sentences)
    assert not any(word in said(sentences) for word in ("more than", "less than", "equal", "as good"))
    assert any("1 of the 1 comparisons" in one and "no proof of equality" in one for one in sentences)


@pytest.mark.parametrize("bounds", [(0.0, 0.1), (-0.1, 0.0)])
def test_an_interval_that_touches_zero_claims_nothing(bounds: tuple[float, float]) -> None:
    assert "no difference" in said(verdict(made_up_table(0.2), [row("one_pass", *bounds)]))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (
            -0.04,
            0.08,
            "no difference between joint in one pass (alignment) and the best describe-then-name of any "
            "control",
        ),
        (
            0.01,
            0.09,
            "is 5.0 points [1.0, 9.0] (pictures of 6 categories in one world) above the best "
            "describe-then-name of any control (control: 90.0 %)",
        ),
        (
            -0.3,
            -0.1,
            "is 20.0 points [10.0, 30.0] (pictures of 6 categories in one world) below the best "
            "describe-then-name of any control (control: 90.0 %)",
        ),
    ],
)
def test_describing_is_compared_with_its_price(low: float, high: float, expected: str) -> None:
    rows = [row("one_pass_to_describe", low, high)]
    text = said(verdict(made_up_table(0.92), rows, categories={"new": 6}))
    assert expected in text
    assert "at 11 times its pictures per second (330 against 30)" in text


def test_an_answer_that_was_not_timed_has_no_price() -> None:
    table = made_up_table(0.92)
    del table["control"]["describe"]["pictures_per_second"]
    assert "pictures per second" not in said(verdict(table, [row("one_pass_to_describe", -0.04, 0.08)]))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(-0.02, 0.04, "shows no difference"), (0.01, 0.05, "gains"), (-0.05, -0.01, "loses")],
)
def test_the_likelihood_of_names_is_told_apart(low: float, high: float, expected: str) -> None:
    text = said(verdict(made_up_table(0.92), [row("same_answer", low, high, answer="names")]))
    assert "By the likelihood of the name on new categories" in text
    assert f"joint {expected} (1.0 %" in text


def test_a_price_on_labelled_categories_is_said() -> None:
    rows = [row("one_pass", 0.64, 0.86), row("one_pass", -0.09, -0.01, group="labelled", answer="names")]
    assert "categories it had labels for with 84.0 % [79.0, 89.0]: 5.0 points [1.0, 9.0] less" in said(
        verdict(made_up_table(0.92), rows)
    )


def test_a_control_never_speaks_as_a_method() -> None:
    rows = [row("one_pass", 0.02, 0.08, arm=arm) for arm in ("instruction", "object_category")]
    assert said(verdict(made_up_table(0.92), rows)) == ""


def test_the_arm_with_the_largest_gain_speaks_first() -> None:
    table = {**made_up_table(0.92), "two_stage": made_up_table(0.5)["joint"]}
    table = {arm: table[arm] for arm in ("control", "two_stage", "joint")}
    rows = [row("one_pass", 0.2, 0.4, arm="two_stage"), row("one_pass", 0.64, 0.86)]
    sentences = verdict(table, rows)
    assert "joint names categories" in sentences[0]
    assert "two_stage names categories" in sentences[1]


def test_the_limits_come_last_and_always() -> None:
    sentences = verdict(made_up_table(0.92), [row("one_pass", 0.64, 0.86)])
    assert [one.startswith(NOT_SHOWN) for one in sentences] == [False] + [True] * LIMITS
    assert "one world and one seed" in sentences[-2]
    assert "drawn by a program" in sentences[-1]
    study = verdict(made_up_table(0.92), [], worlds=6, seeds=3, generated=False)
    assert "6 worlds and 3 seeds" in study[-1]
