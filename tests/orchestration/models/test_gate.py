"""The promotion rule, case by case."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finedefics_platform.models.gate import Decision, Figures, GatePolicy, Slice, decide

POLICY = GatePolicy(minimum_accuracy=0.5, minimum_n=20, max_drop=0.05)


def figures(accuracy: float, n: int = 100, name: str = "alignment/new") -> Figures:
    return Figures({name: Slice(accuracy, n)})


def answered(correct: int, wrong: int, name: str = "alignment/new", first_wrong: int = 0) -> Figures:
    """Items 0… in order; ``first_wrong`` of the wrong ones come first, so that two models can disagree."""
    answers = [False] * first_wrong + [True] * correct + [False] * (wrong - first_wrong)
    items = {f"picture-{number}": answer for number, answer in enumerate(answers)}
    return Figures({name: Slice(correct / len(answers), len(answers), items)})


@pytest.mark.parametrize(
    ("candidate", "champion", "allowed", "words"),
    [
        pytest.param(figures(0.8), None, True, ("0.800", "no champion"), id="first"),
        pytest.param(figures(0.49), None, False, ("0.490", "0.500"), id="below the minimum"),
        pytest.param(figures(0.5), None, True, ("0.500",), id="at the minimum"),
        pytest.param(figures(0.9, n=19), None, False, ("19", "20"), id="too few pictures"),
        pytest.param(figures(math.nan), None, False, ("nan", "0.500"), id="not a number"),
        pytest.param(figures(80.0), None, False, ("80.000",), id="per cent for a share"),
        pytest.param(Figures({}), None, False, ("no accuracy",), id="not evaluated"),
        pytest.param(
            figures(0.85), figures(0.90), True, ("0.850", "0.900", "unpaired"), id="drop at the limit"
        ),
        pytest.param(figures(0.84), figures(0.90), False, ("0.840", "0.900", "-0.060", "0.050"), id="drop"),
        pytest.param(figures(0.95), figures(0.90), True, ("0.950", "0.900"), id="better"),
        pytest.param(
            figures(0.9, name="alignment/labelled"),
            figures(0.7),
            False,
            ("alignment/new", "0.700"),
            id="a slice lost",
        ),
        pytest.param(
            answered(800, 200), answered(800, 200), True, ("+0.000", "paired", "1000"), id="same answers"
        ),
        pytest.param(
            answered(800, 200),
            answered(810, 190),
            True,
            ("0.800", "0.810", "-0.010"),
            id="a small drop, surely small",
        ),
        pytest.param(
            answered(24, 6, first_wrong=6),
            answered(24, 6),
            False,
            ("0.800", "+0.000", "30 pictures"),
            id="equal, but too few pictures to show it",
        ),
        pytest.param(
            answered(700, 300), answered(800, 200), False, ("0.700", "0.800", "-0.100"), id="surely worse"
        ),
        pytest.param(
            answered(16, 3), answered(16, 3, name="alignment/new"), False, ("19", "20"), id="too few items"
        ),
    ],
)
def test_cases(candidate: Figures, champion: Figures | None, allowed: bool, words: tuple[str, ...]) -> None:
    decision = decide(candidate, champion, POLICY)
    assert decision.allowed is allowed, decision.reasons
    text = " ".join(decision.reasons)
    assert [word for word in words if word not in text] == []
    assert all(reason.endswith(".") for reason in decision.reasons)


def test_every_slice_must_pass() -> None:
    champion = Figures({"alignment/new": Slice(0.6, 100), "alignment/labelled": Slice(0.9, 100)})
    candidate = Figures({"alignment/new": Slice(0.9, 100), "alignment/labelled": Slice(0.7, 100)})
    decision = decide(candidate, champion, POLICY)
    assert not decision.allowed
    assert len(decision.reasons) == 1
    assert decision.reasons[0].startswith("alignment/labelled")


def test_only_the_slices_of_the_policy_decide() -> None:
    champion = Figures({"alignment/new": Slice(0.6, 100), "names/new": Slice(0.9, 100)})
    candidate = Figures({"alignment/new": Slice(0.7, 100), "names/new": Slice(0.1, 5)})
    assert not decide(candidate, champion, POLICY).allowed
    assert decide(candidate, champion, POLICY.model_copy(update={"slices": ("alignment",)})).allowed
    assert not decide(candidate, champion, POLICY.model_copy(update={"slices": ("names/new",)})).allowed
    unknown = decide(candidate, champion, POLICY.model_copy(update={"slices": ("align",)}))
    assert unknown.reasons == ("The candidate has no accuracy for align.",)


def test_figures_are_found_wherever_they_stand() -> None:
    evaluation = {
        "alignment": {
            "labelled": {"accuracy": 0.9, "low": 0.8, "high": 1.0, "n": 40},
            "new": {"accuracy": 0.7, "n": 30},
            "pictures_per_second": 5.0,
        },
        "names": {"new": {"accuracy": 0.6, "n": 30}},
    }
    found = Figures.from_evaluation(evaluation, {"names/new": {"a": True}}).slices
    assert {name: (part.accuracy, part.n) for name, part in found.items()} == {
        "alignment/labelled": (0.9, 40),
        "alignment/new": (0.7, 30),
        "names/new": (0.6, 30),
    }
    assert found["names/new"].items == {"a": True}
    assert Figures.from_evaluation({"accuracy": 0.5, "n": 3}).slices == {"all": Slice(0.5, 3)}
    assert Figures.from_evaluation({}).slices == {}


ITEMS = st.dictionaries(st.integers(0, 60).map(str), st.booleans(), min_size=1, max_size=60)


@given(ITEMS, ITEMS)
def test_any_two_item_tables_are_compared(one: dict[str, bool], other: dict[str, bool]) -> None:
    candidate, champion = (
        Figures({"all": Slice(sum(items.values()) / len(items), len(items), items)}) for items in (one, other)
    )
    decision = decide(candidate, champion, GatePolicy(minimum_n=1, max_drop=1))
    assert decision.allowed, "a drop of 1 is never exceeded"
    assert ("unpaired" in decision.reasons[0]) is not bool(one.keys() & other.keys())


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.integers(1, 500))
def test_a_better_candidate_is_never_judged_worse(low: float, high: float, champion: float, n: int) -> None:
    low, high = sorted((low, high))
    held = figures(champion)

    def judged(accuracy: float) -> Decision:
        return decide(figures(accuracy, n), held, POLICY)

    assert judged(high).allowed or not judged(low).allowed


def test_unknown_policy_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="max_dorp"):
        GatePolicy.model_validate({"max_dorp": 0.1})
