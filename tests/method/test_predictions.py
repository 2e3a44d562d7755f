"""Replies that others wrote: both parses, the published file, what is malformed, comparisons, item tables."""

import json
from pathlib import Path
from typing import Any

import pytest
from statsmodels.stats.multitest import multipletests

from finedefics.errors import FinedeficsError
from finedefics.evaluation import clustered_interval, interval, mcnemar, paired_difference
from finedefics.evaluation.across import compare, seeds_of, with_holm
from finedefics.evaluation.predictions import PredictionFile, read_predictions
from finedefics.evaluation.scored import PARSES, items_table, score, warnings
from finedefics.evaluation.tables import accuracy_table

REFERENCE = Path(__file__).parents[3] / "shared" / "reference"
CAR = REFERENCE / "foci" / "predictions-car-196.json"
published = pytest.mark.skipif(not CAR.is_file(), reason="the published predictions are not here")

NAMES = ["Wren", "Lark", "Crow", "Tern"]


def row(number: int, reply: str | None, truth: str = "Lark", **more: Any) -> dict[str, Any]:
    image = f"images/{number:03}.jpg"
    return {"image": image, "options": NAMES, "correct": truth, "predicted_raw": reply, **more}


def write(place: Path, rows: list[Any], **more: Any) -> Path:
    place.write_text(json.dumps({"predictions": rows, **more}))
    return place


@pytest.fixture
def hand(tmp_path: Path) -> PredictionFile:
    replies = ["Answer: B", "b)", "The answer is C", "", "AB", None]
    return read_predictions(write(tmp_path / "hand.json", [row(n, r) for n, r in enumerate(replies)]))


@published
@pytest.mark.parametrize("parse", PARSES)
def test_the_published_cars_are_below_chance_and_it_is_said(parse: str) -> None:
    found = score(read_predictions(CAR), parse)
    told = found.told()
    assert told["accuracy"] == 0.23865190896654645
    assert (told["n"], told["unparsed"], told["near_chance"], told["categories"]) == (8041, 0, True, 196)
    assert told["reported"] == told["accuracy"]
    assert told["letters"] == {"A": 2277, "B": 1429, "C": 1095, "D": 3240}
    assert told["ci95"] == pytest.approx([0.22946, 0.24809], abs=1e-5)
    (said,) = warnings(found)
    assert "near chance: 23.87 % [22.95, 24.81] of 8041 is below guessing (25.00 %): were pictures" in said


def test_a_hand_made_file_is_read_as_documented(hand: PredictionFile) -> None:
    strict, foci = score(hand), score(hand, "foci")
    assert strict.chosen.tolist() == [1, 1, 2, -1, -1, -1]
    assert foci.chosen.tolist() == [0, 1, -1, -1, 0, -1]
    assert (strict.told()["accuracy"], strict.unparsed) == (2 / 6, 3)
    assert (foci.told()["accuracy"], foci.unparsed) == (1 / 6, 3)
    assert strict.told()["ci95"] == [interval(strict.correct).low, interval(strict.correct).high]
    with pytest.raises(FinedeficsError, match=r"no such parse; choose one of: strict, foci") as caught:
        score(hand, "loose")
    assert caught.value.exit_code == 2


def test_intervals_are_clustered_by_truth(tmp_path: Path) -> None:
    rows = [row(n, "B" if n < 20 else "A", truth=NAMES[n // 10]) for n in range(40)]
    found = score(read_predictions(write(tmp_path / "p.json", rows)))
    wide = clustered_interval(found.correct, [item["correct"] for item in rows])
    assert found.told()["ci95_clustered"] == [wide.low, wide.high]
    assert found.told()["categories"] == 4


def test_json_lines_and_other_names_of_the_keys(tmp_path: Path) -> None:
    rows = [
        {"image_path": "1.jpg", "options": NAMES, "ground_truth": "Crow", "response": "C"},
        {"image_path": "2.jpg", "options": NAMES[:2], "groundtruth": "Lark", "reply": "A"},
        {"image_path": "2.jpg", "options": NAMES[:3], "groundtruth": "Lark", "predicted": "Lark"},
        {"image_path": "3.jpg", "options": NAMES[:3], "groundtruth": "Lark", "predicted": None},
    ]
    file = tmp_path / "lines.jsonl"
    file.write_text("\ufeff" + "\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    read = read_predictions(file)
    assert (read.data, read.letters, read.reported) == ("lines", "ABCD", None)
    for parse in PARSES:
        found = score(read, parse)
        assert found.correct.tolist() == [True, False, True, False]
        assert found.unparsed == 1
    assert found.chance == pytest.approx((1 / 4 + 1 / 2 + 1 / 3 + 1 / 3) / 4)
    file.write_text(json.dumps(rows[0]))
    assert len(read_predictions(file).items) == 1
    file.write_text(json.dumps(rows))
    assert read_predictions(file).items == read.items


def test_letters_and_data_are_those_of_the_file(tmp_path: Path) -> None:
    config = {"dataset": "birds", "choice_enumeration": "abcd"}
    read = read_predictions(write(tmp_path / "p.json", [row(1, "B")], config=config))
    assert (read.data, read.letters) == ("birds", "ABCD")
    config["choice_enumeration"] = "WXYZ"
    read = read_predictions(write(tmp_path / "p.json", [row(1, "X"), row(2, "B")], config=config))
    assert score(read).correct.tolist() == [True, False]


def test_other_figures_in_the_file_and_options_that_nobody_shuffled_are_said(tmp_path: Path) -> None:
    rows = [row(n, "B" if n % 4 else "A") for n in range(40)]
    read = read_predictions(write(tmp_path / "p.json", rows, metrics={"accuracy": 0.8}))
    told, shuffle = warnings(score(read))
    assert told == "p.json: the file says 80.00 %, and its replies give 75.00 % by the strict parse"
    assert "the right option is B in all 40 questions" in shuffle
    rows = [row(n, "B", truth=NAMES[1 if n % 4 else 0]) for n in range(40)]
    assert warnings(score(read_predictions(write(tmp_path / "p.json", rows)))) == []


QUESTIONS = {"Wren": [{"image": "1.jpg", "options": NAMES, "groundtruth": "Wren"}]}
DEEP = "[" * 100_000
MALFORMED: list[tuple[Any, str]] = [
    ("", r"p.json, line 1: not valid JSON; give FOCI predictions"),
    ("{\n broken", r"p.json, line 2: not valid JSON"),
    (DEEP, r"p.json(, line 1)?: (nested too deeply|not valid JSON)"),
    ("7", r"p.json: no `predictions` in this file; give FOCI predictions"),
    ({"results": 3}, r"no `predictions` in this file"),
    ({"predictions": {"a": 1}}, r"`predictions` is no list"),
    ({"predictions": []}, r"there is no prediction in this file"),
    (QUESTIONS, r"a file of questions: there are no replies in it; ask a model with `finedefics evaluate"),
    ([row(1, "A"), "b"], r"p.json, prediction 2: not a prediction"),
    ([row(1, "A", image="")], r"prediction 1: no `image`"),
    ([row(1, "A", options="ABCD")], r"`options` is no list of names"),
    ([row(1, "A", options=["Lark", 3])], r"`options` is no list of names"),
    ([row(1, "A", options=["Lark"])], r"1 options, and letters tell 2 to 26 apart"),
    ([row(1, "A", options=["Lark", *map(str, range(26))])], r"27 options"),
    ([row(1, "A", options=["Lark", "Lark"])], r"the option 'Lark' stands there twice"),
    ([row(1, "A", truth="Gull")], r"the truth 'Gull' is none of the options; write the right option"),
    ([row(1, "A", correct=None)], r"no `correct`; write the right option as `correct`"),
    ([row(1, "A", predicted_raw=3)], r"`predicted_raw` is no text"),
    ([row(1, "A"), row(2, "A"), row(1, "B")], r"prediction 3: the question on images/001.jpg is answered"),
    ([{k: v for k, v in row(1, "A").items() if k != "predicted_raw"}], r"no reply \(a file of questions\?\)"),
    ([{**row(1, "A"), "predicted": "Gull", "predicted_raw": 1}], r"`predicted_raw` is no text"),
    (
        [{"image": "1", "options": NAMES, "correct": "Lark", "predicted": "B"}],
        r"`predicted` is 'B', which is none of the options; add `predicted_raw`",
    ),
    (
        {"predictions": [row(1, "A")], "config": {"choice_enumeration": "1234"}},
        r"p.json, config: `choice_enumeration` is '1234', which gives 4 options no letter each; write",
    ),
    (json.dumps(row(1, "A")) + '\n{"image": ', r"p.json, line 2: not valid JSON"),
]


@pytest.mark.parametrize(("content", "message"), MALFORMED)
def test_what_is_malformed_is_named_with_its_place_and_cure(
    tmp_path: Path, content: Any, message: str
) -> None:
    file = tmp_path / "p.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(FinedeficsError, match=message) as caught:
        read_predictions(file)
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith(str(file))
    assert "; " in str(caught.value)


def test_what_is_no_file_is_wrong_use(tmp_path: Path) -> None:
    for place in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(FinedeficsError, match="give the path of a predictions file") as caught:
            read_predictions(place)
        assert caught.value.exit_code == 2
    (tmp_path / "latin.json").write_bytes(b'{"predictions": [{"image": "M\xfcnchen"}]}')
    with pytest.raises(FinedeficsError, match="the file is not UTF-8"):
        read_predictions(tmp_path / "latin.json")


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the published questions are not here")
@pytest.mark.parametrize("name", ["fine-r1/pet_seen.jsonl", "foci/options-pet-37.json"])
def test_published_questions_are_no_replies(name: str) -> None:
    with pytest.raises(FinedeficsError, match="a file of questions"):
        read_predictions(REFERENCE / name)


def test_two_files_are_compared_on_the_questions_of_both(tmp_path: Path) -> None:
    """Whatever the order of questions and options, and whichever folder the pictures are in."""
    ours = [row(n, "B" if n < 25 else "A", truth=NAMES[1 - (n % 3 == 2)]) for n in range(30)]
    theirs = [
        {**one, "options": NAMES[::-1], "image": f"birds/{one['image']}", "predicted_raw": "C"}
        for one in [row(99, "A"), *ours[:3:-1]]
    ]
    first = score(read_predictions(write(tmp_path / "ours.json", ours)))
    second = score(read_predictions(write(tmp_path / "theirs.json", theirs)))
    found = compare(first, second)
    a, b = first.correct[4:], [one["correct"] == "Lark" for one in ours[4:]]
    expected, test = paired_difference(a, b), mcnemar(a, b)
    assert found.difference == expected
    assert (found.gained, found.lost, found.p) == (test.gained, test.lost, test.p)
    assert (found.only_first, found.only_second, found.first.n) == (4, 1, 26)
    assert found.told()["left_out"] == [4, 1]
    assert compare(second, first).difference.mean == -expected.mean


def test_files_of_other_questions_are_not_compared(tmp_path: Path) -> None:
    first = score(read_predictions(write(tmp_path / "a.json", [row(1, "A")])))
    fewer = [{**row(1, "A"), "options": NAMES[:3]}]
    second = score(read_predictions(write(tmp_path / "b.json", fewer)))
    with pytest.raises(FinedeficsError, match=r"a.json against b.json: no question in common \(1 pictures"):
        compare(first, second)


def test_holm_is_over_the_data_sets_that_have_a_p() -> None:
    rows = [{"p": 0.04, "q": None}, {"p": 0.01, "q": 0.5}, {"p": 0.03, "q": None}]
    found = with_holm(rows, "p", "q")
    assert [one["p_holm"] for one in found] == pytest.approx(
        multipletests([0.04, 0.01, 0.03], method="holm")[1]
    )
    assert [one.get("q_holm") for one in found] == [None, 0.5, None]


def test_files_on_the_same_questions_are_seeds(tmp_path: Path) -> None:
    scored = []
    for seed, right in enumerate((5, 7, 6)):
        rows = [row(n, "B" if n < right else "A") for n in range(10)]
        scored.append(
            score(read_predictions(write(tmp_path / f"seed-{seed}.json", rows, config={"dataset": "x"})))
        )
    other = score(read_predictions(write(tmp_path / "y.json", [row(1, "B")], config={"dataset": "y"})))
    (found,) = seeds_of([*scored, other]).items()
    assert (found[0], found[1].n, found[1].mean) == ("x", 3, pytest.approx(0.6))
    assert found[1].low is not None
    assert found[1].low < 0.5 < 0.6


def test_the_item_table_gives_the_same_figures(hand: PredictionFile) -> None:
    strict = score(hand)
    table = items_table(strict)
    assert table["reply"].to_pylist() == ["Answer: B", "b)", "The answer is C", "", "AB", ""]
    assert table["predicted"].to_pylist() == ["Lark", "Lark", "Crow", None, None, None]
    assert table["position"].to_pylist() == [1] * 6
    cell = accuracy_table({"theirs": table}, {}, "options")["theirs"]["letters"]["labelled"]
    assert (cell["accuracy"], cell["n"]) == (2 / 6, 6)
    assert set(items_table(score(hand, "foci"))["answer"].to_pylist()) == {"letters_foci"}
    assert items_table(strict, ["a", "b", "c", "d", "e", "f"])["sample_id"].to_pylist() == list("abcdef")
