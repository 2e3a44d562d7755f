"""The promotion rule on figures alone: what is compared with what, and what decides."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finedefics_platform.models.gate import Decision, GatePolicy, Ground, Measured, Missing, Slice, decide

POLICY = GatePolicy(minimum_accuracy=0.5, minimum_n=20, max_drop=0.05)
HOME = Ground("birds@d1", "d1", "test", 4, 0)
AWAY = Ground("parts@d2", "d2", "test", 4, 0)


def figures(accuracy: float, n: int = 100, name: str = "alignment/new", ground: Ground = HOME) -> Measured:
    """A figure whose items were not kept."""
    return Measured(ground, {name: Slice(accuracy, n)})


def answered(
    correct: int,
    wrong: int,
    name: str = "alignment/new",
    first_wrong: int = 0,
    ground: Ground = HOME,
    limit: int | None = None,
) -> Measured:
    """Items 0… in order; ``first_wrong`` of the wrong ones come first, so that two models can disagree."""
    answers = [False] * first_wrong + [True] * correct + [False] * (wrong - first_wrong)
    items = {f"picture-{number}": answer for number, answer in enumerate(answers)}
    return Measured(ground, {name: Slice(correct / len(answers), len(answers), items)}, limit)


@pytest.mark.parametrize(
    ("candidate", "champion", "allowed", "words"),
    [
        pytest.param(figures(0.8), None, True, ("0.800", "no champion"), id="first"),
        pytest.param(figures(0.49), None, False, ("0.490", "0.500"), id="below the minimum"),
        pytest.param(figures(0.5), None, True, ("0.500",), id="at the minimum"),
        pytest.param(figures(0.9, n=19), None, False, ("19", "20"), id="too few pictures"),
        pytest.param(figures(math.nan), None, False, ("nan", "0.500"), id="not a number"),
        pytest.param(figures(80.0), None, False, ("80.000",), id="per cent for a share"),
        pytest.param(Measured(HOME, {}), None, False, ("no accuracy",), id="not evaluated"),
        pytest.param(
            figures(0.95),
            figures(0.90),
            False,
            ("0 pictures that both", "nothing was compared"),
            id="no items",
        ),
        pytest.param(
            answered(90, 10, name="alignment/labelled"),
            answered(70, 30, name="names/new"),
            False,
            ("names/new", "0.700", "the candidate was not evaluated"),
            id="an answer lost",
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
        pytest.param(answered(16, 3), answered(16, 3), False, ("19", "20"), id="too few items"),
    ],
)
def test_cases(candidate: Measured, champion: Measured | None, allowed: bool, words: tuple[str, ...]) -> None:
    decision = decide([candidate], [champion] if champion else None, POLICY)
    assert decision.allowed is allowed, decision.reasons
    text = " ".join(decision.reasons)
    assert [word for word in words if word not in text] == []
    assert all(reason.endswith(".") for reason in decision.reasons)


def test_a_few_foreign_pictures_do_not_beat_many_of_the_champion() -> None:
    decision = decide([answered(27, 3, ground=AWAY)], [answered(1800, 1200)], POLICY)
    assert not decision.allowed
    (reason,) = decision.reasons
    assert "0.600 on 3000 pictures of birds@d1" in reason
    assert "0.900 on 30 pictures of parts@d2" in reason
    assert decision.missing == (Missing("champion", AWAY, ("alignment",)),)


@pytest.mark.parametrize(
    "other",
    [
        Ground("birds@d2", "d2", "test", 4, 0),
        Ground("birds@d1", "d1", "val", 4, 0),
        Ground("birds@d1", "d1", "test", 8, 0),
        Ground("birds@d1", "d1", "test", 4, 1),
        Ground("birds@d1", "d1", "test", 4, 0, "options.json@f1"),
    ],
)
def test_only_what_was_asked_alike_is_compared(other: Ground) -> None:
    candidate = answered(990, 10, ground=other)
    assert not decide([candidate], [answered(700, 300)], POLICY).allowed
    evaluated_too = [answered(700, 300), answered(700, 300, ground=other)]
    assert decide([candidate], evaluated_too, POLICY).allowed


def test_the_name_of_a_dataset_decides_nothing() -> None:
    renamed = Ground("copy@d1", "d1", "test", 4, 0)
    assert decide([answered(800, 200, ground=renamed)], [answered(800, 200)], POLICY).allowed


def test_the_name_of_a_file_of_options_decides_nothing() -> None:
    one, other = (Ground("birds@d1", "d1", "test", 4, 0, f"{name}@f1") for name in ("a.json", "b.json"))
    assert decide([answered(800, 200, ground=one)], [answered(800, 200, ground=other)], POLICY).allowed


def test_of_two_limits_the_common_pictures_decide() -> None:
    champion = answered(800, 200)
    first = answered(100, 0, limit=100)  # of these 100 the champion had all right as well
    decision = decide([first], [champion], POLICY)
    assert decision.allowed
    assert "candidate 1.000, champion 1.000" in decision.reasons[0]
    assert "over 100 pictures" in decision.reasons[0]
    few = decide([answered(10, 0, limit=10)], [champion], POLICY.model_copy(update={"minimum_n": 11}))
    assert few.missing == (Missing("champion", HOME, ("alignment",), 10),)


def test_further_evidence_counts_with_what_there_is() -> None:
    """A smaller evaluation stands for no larger one, and every common ground must hold."""
    large, small = answered(800, 200), answered(3, 9, limit=12)
    assert decide([large, small], None, POLICY).allowed
    champion = [answered(800, 200), answered(300, 100, ground=AWAY)]
    assert decide([large], champion, POLICY).allowed, "one ground in common"
    decision = decide([large, answered(200, 200, ground=AWAY)], champion, POLICY)
    assert [reason.split(":")[0] for reason in decision.reasons] == [f"alignment/new on {AWAY}"]


def test_a_picture_counts_in_the_group_it_has_for_the_champion() -> None:
    """What was new to the champion may be labelled for the candidate: still the same pictures."""
    candidate = answered(95, 5, name="alignment/labelled")
    decision = decide([candidate], [answered(70, 30)], POLICY)
    assert decision.allowed
    assert "alignment/new" in decision.reasons[0]
    assert "over 100 pictures" in decision.reasons[0]


def test_what_is_missing_is_asked_for_once() -> None:
    both = {"alignment/new": Slice(0.9, 50), "names/new": Slice(0.9, 50)}
    decision = decide([Measured(AWAY, both)], [Measured(HOME, both)], POLICY)
    assert decision.missing == (Missing("champion", AWAY, ("alignment", "names")),)
    unasked = decide([answered(70, 30)], [answered(70, 30), answered(70, 30, name="names/new")], POLICY)
    assert unasked.missing == (Missing("candidate", HOME, ("names",)),)


def test_every_slice_must_pass() -> None:
    better = answered(900, 100).slices["alignment/new"]
    items = {f"other-{number}": number < 700 for number in range(1000)}
    held = {f"other-{number}": number < 900 for number in range(1000)}
    champion = [
        Measured(
            HOME,
            {
                "alignment/new": answered(600, 400).slices["alignment/new"],
                "alignment/labelled": Slice(0.9, 1000, held),
            },
        )
    ]
    candidate = [Measured(HOME, {"alignment/new": better, "alignment/labelled": Slice(0.7, 1000, items)})]
    decision = decide(candidate, champion, POLICY)
    assert not decision.allowed
    assert [reason.split(" on ")[0] for reason in decision.reasons] == ["alignment/labelled"]


def test_only_the_slices_of_the_policy_decide() -> None:
    champion = [answered(60, 40), answered(90, 10, name="names/new")]
    candidate = [answered(70, 30), answered(1, 4, name="names/new")]
    assert not decide(candidate, champion, POLICY).allowed
    assert decide(candidate, champion, POLICY.model_copy(update={"slices": ("alignment",)})).allowed
    assert not decide(candidate, champion, POLICY.model_copy(update={"slices": ("names/new",)})).allowed
    unknown = decide(candidate, champion, POLICY.model_copy(update={"slices": ("align",)}))
    assert unknown.reasons == ("The candidate has no accuracy for align.",)


ITEMS = st.dictionaries(st.integers(0, 60).map(str), st.booleans(), min_size=1, max_size=60)


@given(ITEMS, ITEMS)
def test_any_two_item_tables_are_compared_or_asked_for(one: dict[str, bool], other: dict[str, bool]) -> None:
    candidate, champion = (
        [Measured(HOME, {"all": Slice(sum(items.values()) / len(items), len(items), items)})]
        for items in (one, other)
    )
    decision = decide(candidate, champion, GatePolicy(minimum_n=1, max_drop=1))
    assert decision.allowed is bool(one.keys() & other.keys()), "a drop of 1 is never exceeded"
    assert bool(decision.missing) is not decision.allowed


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 200))
def test_a_better_candidate_is_never_judged_worse(low: int, high: int, champion: int) -> None:
    low, high = sorted((low, high))

    def judged(right: int) -> Decision:
        return decide([answered(right, 200 - right)], [answered(champion, 200 - champion)], POLICY)

    assert judged(high).allowed or not judged(low).allowed


def test_unknown_policy_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="max_dorp"):
        GatePolicy.model_validate({"max_dorp": 0.1})
