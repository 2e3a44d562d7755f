"""Labellers: what a model reads or sees, as probabilities over all categories; and how far to believe it."""

import json
import pickle
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from finedefics.backbones import Backbone
from finedefics.conversation import Templates
from finedefics.embedders import Settings
from finedefics.errors import FinedeficsError
from finedefics.evaluation.confidence import FEWEST, calibration_error, judge
from finedefics.labellers import LABELLERS, Given, Inferred, Unnamed
from finedefics.labellers.agreement import agreed
from finedefics.records import Category
from finedefics.scoring import Recogniser
from finedefics.scoring.weighing import TEMPERATURE

NAMES = ("alba tern", "corva", "brown wren wing")
CATEGORIES = [Category(f"c{i}", name, description=f"a {name} bird") for i, name in enumerate(NAMES)]
TEXTS = ["white crown and long bill", "red wing", "white crown and long bill", "brown wing and short bill"]


@pytest.fixture(scope="module")
def folder(lettered: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("labeller") / "model"
    lettered.save_pretrained(place)
    return place


def made(name: str, argument: str | None, batch_size: int = 2) -> Any:
    return LABELLERS[name](Given(argument, CATEGORIES, Settings(batch_size=batch_size)))


def told(texts: list[str], images: list[bytes] | None = None) -> list[Unnamed]:
    pictures = images or [None] * len(texts)
    return [
        Unnamed(f"s{i}", text, image) for i, (text, image) in enumerate(zip(texts, pictures, strict=False))
    ]


def test_nothing_that_names_the_category_can_be_shown() -> None:
    assert {field.name for field in fields(Unnamed)} == {"sample_id", "description", "image"}


def test_reading_is_the_likelihood_of_each_name_after_the_description(
    folder: Path, lettered: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Recogniser(lettered, CATEGORIES)
    labeller = made("reading", str(folder))
    read: list[int] = []
    scores_of = type(labeller)._scores
    monkeypatch.setattr(
        type(labeller), "_scores", lambda self, texts: read.append(len(texts)) or scores_of(self, texts)
    )
    found = labeller(told(TEXTS))
    assert read == [2, 1], "equal descriptions are read once"
    for row, text in enumerate(TEXTS):
        prefix = model.render.opened(model.render.templates.naming_prefix(text))
        shares = model.name_scores([prefix], model.completed_names)[0].softmax(0)
        best = shares.topk(2).values.tolist()
        assert found.positions[row] == int(shares.argmax())
        assert found.probability[row] == pytest.approx(best[0], abs=1e-5)
        assert found.margin[row] == pytest.approx(best[0] - best[1], abs=1e-5)


def test_a_tuned_model_reads_in_its_own_words_and_is_scored_on_val_alone(
    folder: Path, tmp_path: Path
) -> None:
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    for file in folder.iterdir():
        (tuned / file.name).write_bytes(file.read_bytes())
    Templates(statements=("{name} : {description}", "{description} : {name}")).save(tuned)
    one, other = made("reading", str(folder)), made("reading", str(tuned))
    assert (one.splits, other.splits) == (("train", "val"), ("val",))
    assert one.labeller_id != other.labeller_id
    assert not np.allclose(one(told(TEXTS)).probability, other(told(TEXTS)).probability)


def test_alignment_is_the_models_own_answer(folder: Path, lettered: Backbone, birds: list[bytes]) -> None:
    labeller = made("alignment", str(folder))
    assert labeller.reads == ("image",)
    found = labeller([Unnamed(f"s{i}", None, bird) for i, bird in enumerate(birds[:3])])
    scores = Recogniser(lettered, CATEGORIES).answer(birds[:3], "alignment").scores
    shares = (scores / TEMPERATURE).softmax(1)
    assert found.positions.tolist() == shares.argmax(1).tolist()
    torch.testing.assert_close(torch.from_numpy(found.probability), shares.amax(1), atol=1e-4, rtol=0)


def test_agreement_is_what_both_say(folder: Path, birds: list[bytes]) -> None:
    labeller = made("agreement", f"{folder},{folder}")
    pictures = told(TEXTS, birds[:4])
    found, parts = labeller(pictures), (labeller.sees(pictures), labeller.reader(pictures))
    assert found.positions.tolist() == agreed(*parts).positions.tolist()
    one = Inferred(
        np.array([0, 1], np.int32), np.array([0.9, 0.8], np.float32), np.array([0.5, 0.4], np.float32)
    )
    other = Inferred(
        np.array([0, 2], np.int32), np.array([0.7, 0.9], np.float32), np.array([0.6, 0.4], np.float32)
    )
    both = agreed(one, other)
    assert both.positions.tolist() == [0, -1]
    assert both.probability.tolist() == pytest.approx([0.7, 0])
    assert both.margin.tolist() == pytest.approx([0.5, 0])
    with pytest.raises(FinedeficsError, match="does not say which models; write agreement:TUNED,BASE"):
        made("agreement", str(folder))


def test_weights_do_not_travel(folder: Path) -> None:
    labeller = made("agreement", f"{folder},{folder}")
    labeller.reader(told(TEXTS))
    assert len(pickle.dumps(labeller)) < 10_000


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_table_says_ids_or_names(tmp_path: Path, kind: str) -> None:
    rows = [
        {"sample_id": "s1", "category": "Corva", "probability": 0.25},
        {"sample_id": "s0", "category": "c2", "probability": None},
        {"sample_id": "s3", "category": None, "probability": None},
    ]
    file = tmp_path / f"labels.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif kind == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = [",".join("" if value is None else str(value) for value in row.values()) for row in rows]
        file.write_text("sample_id,category,probability\n" + "\n".join(lines) + "\n")
    found = made("file", str(file))(told(TEXTS))
    assert found.positions.tolist() == [2, 1, -1, -1]
    assert found.probability.tolist() == [1.0, 0.25, 0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sample_id,category\ns1,dodo\n", "line 2: there is no category 'dodo'"),
        ("sample_id,category\ns1,c1\ns1,c2\n", "1 pictures are labelled twice, s1 first"),
        ("sample_id,category,probability\ns1,c1,1.5\n", "the probability '1.5' is none"),
        ("name,category\ns1,c1\n", "this row names no picture"),
        ("sample_id,label\ns1,c1\n", "there is no category; name a column"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(text)
    with pytest.raises(FinedeficsError, match=words):
        made("file", str(file))


def test_scores_become_probabilities_with_their_margin() -> None:
    logits = np.array([[2.0, 1.0, 0.0], [-np.inf, 0.0, 0.0]])
    found = Inferred.of_scores(logits)
    shares = np.exp([2, 1, 0]) / np.exp([2, 1, 0]).sum()
    assert found.positions.tolist() == [0, 1]
    assert found.probability.tolist() == pytest.approx([shares[0], 0.5])
    assert found.margin.tolist() == pytest.approx([shares[0] - shares[1], 0.0])
    assert Inferred.of_scores(np.zeros((2, 1))).margin.tolist() == [1.0, 1.0]


def test_the_threshold_is_the_lowest_that_reaches_the_precision_on_enough_pictures() -> None:
    probability = np.linspace(0.99, 0.01, 99).astype(np.float32)
    correct = np.arange(99) < 50
    correct[3] = False
    found = judge(correct, probability, wanted=0.9)
    chosen = found.chosen
    assert chosen is not None
    # of the 54 surest 49 are right, 90.7 %; of 55, 89.1 %
    assert (chosen.pictures, chosen.precision) == (54, pytest.approx(49 / 54))
    assert chosen.threshold == float(probability[53])
    assert chosen.coverage == pytest.approx(54 / 99)
    assert chosen.low < chosen.precision < chosen.high
    assert len(found.curve) <= 20
    assert found.curve[0].pictures == 99
    few = judge(correct[: FEWEST - 1], probability[: FEWEST - 1], wanted=0.9)
    assert few.chosen is None, "18 of 19 are right, and that is too few to tell"


def test_what_was_not_answered_counts_in_coverage_and_accuracy_alone() -> None:
    correct = np.array([True] * 20 + [False] * 20)
    probability = np.array([0.8] * 20 + [-1] * 20, np.float32)
    found = judge(correct, probability, wanted=1.0)
    assert (found.accuracy, found.answered, found.pictures) == (0.5, 20, 40)
    assert found.chosen is not None
    assert (found.chosen.precision, found.chosen.coverage) == (1.0, 0.5)
    assert found.ece == pytest.approx(0.2)
    assert judge(np.zeros(3, bool), np.full(3, -1, np.float32), wanted=0.9).ece is None


def test_calibration_by_hand() -> None:
    correct = np.array([True, False, True, True])
    probability = np.array([0.55, 0.55, 0.95, 1.0], np.float32)
    assert calibration_error(correct, probability) == pytest.approx(0.5 * 0.05 + 0.5 * 0.025)
