"""What a frozen encoder answers, on embeddings whose structure is known, and what it may not look at."""

import dataclasses

import numpy as np
import pytest
import torch

from finedefics.embedders import normalised
from finedefics.errors import FinedeficsError
from finedefics.probes import ENCODER_ANSWERS, Known, check_encoder_answers

CATEGORIES, EACH, DIM = 5, 8, 12


def clusters(seed: int, spread: float = 0.3, only: int = CATEGORIES) -> tuple[np.ndarray, np.ndarray]:
    """Pictures around one direction a category; every category has the same middle for any seed."""
    middles = np.random.default_rng(99).standard_normal((CATEGORIES, DIM))
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(only), EACH)
    rows = middles[labels] + spread * rng.standard_normal((len(labels), DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


def known(**changes: object) -> Known:
    train, labels = clusters(1)
    val, val_labels = clusters(2)
    return dataclasses.replace(Known(CATEGORIES, train, labels, val, val_labels), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", ["knn", "linear_probe"])
def test_planted_structure_is_found(answer: str) -> None:
    test, labels = clusters(3)
    answerer = ENCODER_ANSWERS[answer](known())
    assert (answerer.score(test).argmax(1).numpy() == labels).mean() > 0.95
    assert answerer.chosen["chosen_on"] == "val"


@pytest.mark.parametrize("answer", ["knn", "linear_probe"])
def test_a_category_without_a_labelled_picture_is_never_named(answer: str) -> None:
    train, labels = clusters(1, only=3)
    val, val_labels = clusters(2, only=3)
    answerer = ENCODER_ANSWERS[answer](Known(CATEGORIES, train, labels, val, val_labels))
    scores = answerer.score(clusters(3)[0])
    assert scores.shape == (CATEGORIES * EACH, CATEGORIES)
    assert (scores[:, 3:] == -torch.inf).all()
    assert scores[:, :3].isfinite().all()


def test_k_is_the_one_that_names_most_validation_pictures() -> None:
    """One mislabelled twin beside every picture: the nearest one is wrong, the nearest three are right."""
    train, labels = clusters(1)
    aside = 0.02 * np.random.default_rng(5).standard_normal(train.shape).astype(np.float32)
    rows = normalised(np.concatenate([train, train + aside, train - aside]))
    own = np.concatenate([(labels + 1) % CATEGORIES, labels, labels])
    val = (train, labels)
    chosen = ENCODER_ANSWERS["knn"](Known(CATEGORIES, rows, own, *val)).chosen
    assert chosen["k"] >= 3
    assert ENCODER_ANSWERS["knn"](Known(CATEGORIES, train, labels, *val)).chosen["k"] == 1


def test_without_validation_pictures_the_choice_is_said() -> None:
    empty = (np.zeros((0, DIM), np.float32), np.zeros(0, np.intp))
    given = known(val=empty[0], val_labels=empty[1])
    assert ENCODER_ANSWERS["knn"](given).chosen == {"k": 5, "chosen_on": None}
    chosen = ENCODER_ANSWERS["linear_probe"](given).chosen
    assert (chosen["chosen_on"], chosen["pictures"]) == ("a fifth of train", 2 * CATEGORIES)


def test_validation_pictures_of_categories_that_were_not_learnt_choose_nothing() -> None:
    """All of them are named wrongly by every k and every strength."""
    train, labels = clusters(1, only=3)
    val, val_labels = clusters(2)
    others = val_labels >= 3
    empty = Known(CATEGORIES, train, labels, val[:0], val_labels[:0])
    strange = dataclasses.replace(empty, val=val[others], val_labels=val_labels[others])
    some = dataclasses.replace(empty, val=val, val_labels=val_labels)
    for answer in ("knn", "linear_probe"):
        assert ENCODER_ANSWERS[answer](strange).chosen == ENCODER_ANSWERS[answer](empty).chosen
        chosen = ENCODER_ANSWERS[answer](some).chosen
        assert (chosen["chosen_on"], chosen["pictures"]) == ("val", 3 * EACH)
        assert chosen["accuracy"] > 0.9


def test_a_single_picture_a_category_is_enough() -> None:
    train, labels = clusters(1)
    few = known(train=train[::EACH], train_labels=labels[::EACH], val=train[:0], val_labels=labels[:0])
    test, truth = clusters(3)
    for answer in ("knn", "linear_probe"):
        assert (ENCODER_ANSWERS[answer](few).score(test).argmax(1).numpy() == truth).mean() > 0.8


def test_the_probe_equals_scikit_learns() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    train, labels = clusters(1, spread=0.9)
    test, _ = clusters(3, spread=0.9)
    answerer = ENCODER_ANSWERS["linear_probe"](known(train=train, train_labels=labels))
    mean, scale = train.mean(0, dtype=np.float64), train.std(0, dtype=np.float64)
    strength = 1 / (2 * answerer.chosen["l2"] * len(train))
    peer = linear_model.LogisticRegression(C=strength, max_iter=10_000, tol=1e-10)
    peer.fit((train - mean) / scale, labels)
    theirs = peer.predict_proba((test - mean) / scale)
    assert np.allclose(answerer.score(test).softmax(1).numpy(), theirs, atol=1e-3)


def test_zero_shot_is_the_nearest_name() -> None:
    names = clusters(1)[0][::EACH]
    test, labels = clusters(3)
    scores = ENCODER_ANSWERS["zero_shot"](known(names=names)).score(test)
    assert np.allclose(scores.numpy(), test @ names.T, atol=1e-6)
    assert (scores.argmax(1).numpy() == labels).mean() > 0.8


def test_what_cannot_be_answered_is_refused() -> None:
    with pytest.raises(FinedeficsError, match="embeds no texts"):
        ENCODER_ANSWERS["zero_shot"](known())
    nothing = np.zeros((0, DIM), np.float32)
    with pytest.raises(FinedeficsError, match="no picture of the split train has a label"):
        ENCODER_ANSWERS["knn"](known(train=nothing, train_labels=np.zeros(0, np.intp)))
    with pytest.raises(FinedeficsError, match="choose one of: knn, linear_probe, zero_shot"):
        check_encoder_answers(["knn", "names"])
