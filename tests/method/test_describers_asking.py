"""Questions, how their answers are read, names that are kept out, and the three steps with a model."""

import json
from collections.abc import Iterable

import pytest

from finedefics.describers import AskingDescriber, Description, Given, Subject
from finedefics.describers.hidden_names import HiddenNames
from finedefics.describers.models import Answer, Failure, Keep
from finedefics.describers.prompts import VALUES, prompt
from finedefics.describers.questions import (
    Question,
    Unreadable,
    ask_category,
    ask_description,
    ask_names,
    ask_values,
)
from finedefics.errors import FinedeficsError
from finedefics.records import Category

BIRDS = [
    Category("black-tern", "Black Tern", "bird"),
    Category("auk", "Auk", "bird"),
]


@pytest.mark.parametrize(
    "answer",
    [
        '{"crown": "red", "wing bars": "not visible"}',
        'Sure!\n```json\n{"Crown": "red", "wing_bars": null}\n```\nAnything else?',
        '{"x": {broken} {"crown": ["red"], "tail": "long", "wing-bars": ""}',
        json.dumps({"crown": "red", "wing bars": "two " * 40}),
        json.dumps({"crown": "red", "wing bars": {"a": 1}}),
    ],
)
def test_values_are_read_whatever_stands_around_them(answer: str) -> None:
    assert ask_values("bird", ["crown", "wing bars"], "hash").read(answer) == {"crown": "red"}


def test_values_of_other_types() -> None:
    question = ask_values("bird", ["crest", "bars", "colours"], "hash")
    said = question.read('{"crest": true, "bars": 2, "colours": ["red", "blue"]}')
    assert said == {"crest": "yes", "bars": "2", "colours": "red and blue"}
    assert question.read('{"crest": "unknown"}') == {}, "an answer that sees nothing is one"


def test_what_no_file_can_hold_is_no_part_of_an_answer() -> None:
    half = r"\ud83d"  # JSON may say half a character
    for read in (
        ask_values("bird", ["crown"], "hash").read(f'{{"crown": "red {half}"}}')["crown"],
        " ".join(ask_names("bird", ["tern"], 3).read(f'["crown {half}"]')),
        ask_description("bird", {"crown": "red"}).read("a red \ud83d crown"),
    ):
        assert read.encode().decode() == read


@pytest.mark.parametrize(
    "answer", ["", "I cannot see it.", '["crown"]', '{"colour": "red"}', "{{{{{", '{"crown": ']
)
def test_garbage_is_told_from_an_answer(answer: str) -> None:
    with pytest.raises(Unreadable):
        ask_values("bird", ["crown"], "hash").read(answer)


def test_attribute_names_are_read() -> None:
    question = ask_names("bird", ["tern", "auk"], 3)
    assert question.read('Here: ["Crown colour", "crown-colour", 7, "tail"]') == ["crown colour", "tail"]
    assert question.read('{"attributes": ["bill shape"]}') == ["bill shape"]
    for garbage in ("[]", "none", "[1, 2]"):
        with pytest.raises(Unreadable):
            question.read(garbage)


def test_a_question_is_known_by_what_determines_its_answer() -> None:
    question = ask_values("bird", ["crown"], "hash")
    assert question.key == ask_values("bird", ["crown"], "hash").key
    others = [
        ask_values("bird", ["crown"], "other"),
        ask_values("bird", ["crown", "tail"], "hash"),
        ask_values("fish", ["crown"], "hash"),
        question.again("it holds no JSON object"),
        question.again("it holds no JSON object").again("it holds no JSON object"),
        ask_category("bird", ["crown"], "tern"),
    ]
    assert len({question.key, *(other.key for other in others)}) == 1 + len(others)
    again = question.again("first").again("second")
    assert again.text.startswith(question.text)
    assert ("first" in again.text, "second" in again.text) == (False, True)
    assert prompt(VALUES).identity in question.prompts


def test_equal_attributes_give_an_equal_question() -> None:
    left, right = ({"crown": "red", "tail": "long"}, {"tail": "long", "crown": "red"})
    assert ask_description("bird", left).key == ask_description("bird", right).key


def test_names_are_taken_out_whatever_their_case_and_plural() -> None:
    names = HiddenNames(["Black Tern", "Black", "Auk", "Crème brûlée"])
    assert names.without("like a black-tern, grey") == "like a , grey"
    assert names.without("BLACK TERNS") == ""
    assert names.without("pale creme brulee tone") == "pale tone"
    assert names.without("blackish-white") == "white", (
        "the name of a category is a name, also where it is a colour"
    )
    assert names.without("tern-like") == "tern-like", "half a name is none"
    assert (names.within("two auks fly"), names.within("awkward")) == (True, False)
    assert HiddenNames([]).without("black tern") == "black tern"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Daisy", "two daisies"),
        ("canary", "Canaries"),
        ("magpie", "magpies"),
        ("blackberry", "blackberries"),
        ("wolf", "wolves"),
        ("dove", "doves"),
        ("knife", "knives"),
        ("Gray Owl", "a grey owl"),
        ("Grey Owl", "gray owls"),
        ("鷦鷯", "茶色の鷦鷯の羽"),
        ("นกยูง", "ขนนกยูงสีเขียว"),
        ("참새", "참새는 갈색"),
    ],
)
def test_names_are_found_in_their_plurals_spellings_and_scripts(name: str, said: str) -> None:
    names = HiddenNames([name])
    assert names.within(said)
    assert not names.within(names.without(said))
    assert names.without("greyish wings") == "greyish wings"


class Told:
    """A model that answers from a function; no test of a model itself."""

    model_id = "told"

    def __init__(self, says: object) -> None:
        self.says, self.asked = says, []

    def answer_all(self, questions: Iterable[Question], keep: Keep) -> None:
        for question in questions:
            self.asked.append(question)
            said = self.says(question)  # type: ignore[operator]
            keep(question, said if isinstance(said, Failure) else Answer(said))


def test_three_steps_in_one_process() -> None:
    def says(question: Question) -> str | Failure:
        if question.picture is None:
            return '["crown colour", "black tern feature", "tail"]'
        if question.picture == "h3":
            return Failure("away")
        return '{"crown colour": "a red auk", "tail": "Black Tern"}' if question.picture == "h1" else "?"

    model = Told(says)
    describer = AskingDescriber("told", model, Given(categories=BIRDS))
    subjects = [Subject(f"s{i}", b"jpeg", category_id="auk", content_hash=f"h{i}") for i in (1, 2, 3)]
    assert describer(subjects) == [Description("", {"crown colour": "a red"}), None, None]
    assert describer.names == {"bird": ("crown colour", "tail")}
    assert "- Auk\n- Black Tern" in model.asked[0].text
    assert all(question.image == b"jpeg" for question in model.asked[1:])


def test_known_attribute_names_are_not_asked_for() -> None:
    known = [
        Category("a", "a", "bird", attributes={"tail": "x"}),
        Category("b", "b", "car"),
        Category("c", "c", "car"),
    ]
    describer = AskingDescriber("told", Told(lambda q: ""), Given(categories=known))
    assert list(describer.naming()) == ["car"]
    assert describer.names == {"bird": ("tail",)}
    given = AskingDescriber(
        "told", Told(lambda q: ""), Given(categories=known, options={"attributes": ("hue",)})
    )
    assert given.naming() == {}
    describer.learn("car", ["grille"])
    assert describer.values(Subject("s", category_id="b", content_hash="h")).names == ("grille",)
    unlabelled = describer.values(Subject("s", content_hash="h"))
    assert unlabelled.names == ("grille", "tail"), "of a picture that may be anything, everything is asked"


def test_the_order_of_attribute_names_makes_no_other_question() -> None:
    """A model names them in its order; categories that it filled in have them in another one."""
    filled = [Category("a", "a", "bird", attributes={"belly": "x", "crown": "y"})]
    asked = AskingDescriber("told", Told(lambda q: ""), Given(categories=[Category("a", "a", "bird")]))
    asked.learn("bird", ["crown", "belly"])
    own = AskingDescriber("told", Told(lambda q: ""), Given(categories=filled))
    own.naming()
    subject = Subject("s", category_id="a", content_hash="h")
    assert asked.values(subject).key == own.values(subject).key
    assert asked.of_category(filled[0]).key == own.of_category(filled[0]).key
    assert asked.describer_id == own.describer_id


def test_what_is_in_the_pictures_may_be_said() -> None:
    bare = [Category("a", "a"), Category("b", "b", "car")]
    describer = AskingDescriber("told", Told(lambda q: ""), Given(categories=bare, options={"kind": "bird"}))
    assert list(describer.naming()) == ["bird", "car"]
    describer.learn("bird", ["crown"])
    assert "Look at the bird in this picture" in describer.values(Subject("s", category_id="a")).text


def test_the_id_follows_what_determines_the_descriptions() -> None:
    def of(**options: object) -> str:
        describer = AskingDescriber("told", Told(lambda q: ""), Given(categories=BIRDS, options=options))
        describer.naming()
        return describer.describer_id

    ids = [
        of(),
        of(attributes=("a",)),
        of(attributes=("b",)),
        of(hide_names=False),
        of(wording="model"),
        of(edge=99),
    ]
    assert len(set(ids)) == len(ids)
    assert of() != of(kind="auk")
    assert of() == of(concurrency=3, deadline=1.0), "how it is asked is no part of it"
    with pytest.raises(FinedeficsError, match="unknown wording"):
        of(wording="verse")
