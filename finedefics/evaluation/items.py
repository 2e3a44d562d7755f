"""Evaluation as a table: one row for each picture, answer and scope, from which every figure is computed."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finedefics.evaluation.choices import choose_options
from finedefics.pictures import decode_image
from finedefics.records import Sample
from finedefics.scoring import ANSWERS, Answered, Recogniser, best_category, multiple_choice

BATCH = 32
LABELLED, NEW = "labelled", "new"
ALL, OPTIONS = "all", "options"


@dataclass
class Items:
    """What a model answered.

    Attributes:
        rows: dictionaries with ``sample_id, category_id, group, answer, scope, predicted, correct`` and
            ``description`` (the model's own words; None where the answer writes none). ``predicted`` is None
            where those words name no category, or no option.
        seconds: time each answer took over all pictures, decoding and vision tower included.
        tokens: ``{answer: (forwarded, generated)}`` language-model tokens over all pictures.
        objects: [pictures, dim] object embeddings, in the order of ``sample_ids``.
    """

    sample_ids: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, tuple[int, int]] = field(default_factory=dict)
    objects: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))


def evaluate_samples(
    model: Recogniser,
    samples: Sequence[Sample],
    answers: Sequence[str],
    *,
    labelled: Collection[str],
    options: int = 4,
    choices: Sequence[Sequence[str]] | None = None,
    tick: Callable[[int], None] = lambda count: None,
) -> Items:
    """Ask a model for the category of every picture, by every answer, on all categories and on hard options.

    Args:
        model: the model and the categories that compete.
        samples: labelled pictures with their mined negatives.
        answers: names of `finedefics.scoring.ANSWERS`.
        labelled: ids of categories that had a labelled picture in training; the others are the group "new".
        options: size of the multiple choice: the truth and the most similar wrong categories.
        choices: for each picture the ids of its options, the truth among them; default: `choose_options` by
            the model's seed.
        tick: told the number of pictures answered, once an answer.

    Raises:
        FinedeficsError: a picture has no label.
    """
    items = Items([sample.sample_id for sample in samples])
    place = {category.category_id: i for i, category in enumerate(model.categories)}
    if choices is None:
        choices = [c.options for c in choose_options(samples, [*place], options, seed=model.seed)]
    positions = [[place[category] for category in choice] for choice in choices]
    for answer in answers:
        # the first call of a kind allocates; it is not the answer's cost
        _ask(model, answer, samples[:1], positions[:1])
        scores: list[Tensor] = []
        texts: list[str] = []
        forwarded = generated = 0
        started = time.perf_counter()
        for start in range(0, len(samples), BATCH):
            part = samples[start : start + BATCH]
            answered = _ask(model, answer, part, positions[start : start + BATCH])
            scores.append(answered.scores)
            texts += answered.texts
            forwarded += answered.forwarded_tokens
            generated += answered.generated_tokens
            tick(len(part))
        items.seconds[answer] = time.perf_counter() - started
        items.tokens[answer] = (forwarded, generated)
        items.rows += _rows(model, samples, answer, torch.cat(scores), positions, texts, labelled)
    items.objects = object_embeddings(model, samples)
    return items


def _ask(
    model: Recogniser, answer: str, samples: Sequence[Sample], choices: Sequence[Sequence[int]]
) -> Answered:
    images, ids = [sample.image for sample in samples], [sample.sample_id for sample in samples]
    return model.answer(images, answer, options=choices, sample_ids=ids)


def _rows(
    model: Recogniser,
    samples: Sequence[Sample],
    answer: str,
    scores: Tensor,
    choices: list[list[int]],
    texts: Sequence[str],
    labelled: Collection[str],
) -> list[dict[str, Any]]:
    predictions = {OPTIONS: multiple_choice(scores, choices)}
    if not ANSWERS[answer].asks_options:
        predictions = {ALL: best_category(scores), **predictions}
    ids: dict[int | None, str] = {i: category.category_id for i, category in enumerate(model.categories)}
    return [
        {
            "sample_id": sample.sample_id,
            "category_id": sample.category_id,
            "group": LABELLED if sample.category_id in labelled else NEW,
            "answer": answer,
            "scope": scope,
            "predicted": (predicted := ids.get(best[row])),
            "correct": predicted == sample.category_id,
            "description": texts[row] if texts else None,
        }
        for scope, best in predictions.items()
        for row, sample in enumerate(samples)
    ]


@torch.no_grad()
def object_embeddings(model: Recogniser, samples: Sequence[Sample]) -> np.ndarray:
    """Object embedding of every picture, [pictures, dim], normalised."""
    parts = []
    for start in range(0, len(samples), BATCH):
        pictures = [decode_image(s.image, s.sample_id) for s in samples[start : start + BATCH]]
        parts.append(model.embed_objects(model.encode(pictures))[0].cpu().numpy())
    return np.concatenate(parts)


def text_embeddings(model: Recogniser) -> dict[str, np.ndarray]:
    """Embeddings of all names and of all descriptions, each [categories, dim], normalised."""
    return {"name": model.index.names.numpy(), "description": model.index.descriptions.numpy()}


def unparseable(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Share of pictures, by answer, to which the model's own words named no category, or no option."""
    asked: dict[str, list[bool]] = {}
    for row in rows:
        # a name that is none of the options was understood all the same: only the wider scope counts
        if row["scope"] == (OPTIONS if ANSWERS[row["answer"]].asks_options else ALL):
            asked.setdefault(row["answer"], []).append(row["predicted"] is None)
    return {answer: sum(missing) / len(missing) for answer, missing in asked.items()}


def retrieval(objects: np.ndarray, texts: np.ndarray, truth: Sequence[int]) -> float:
    """Share of objects whose nearest text (cosine) is that of their own category."""
    return float(((objects @ texts.T).argmax(1) == np.asarray(truth)).mean())


def check_answers(answers: Sequence[str]) -> None:
    """FinedeficsError (exit code 2) for the first unknown answer, before any model is loaded."""
    for answer in answers:
        ANSWERS[answer]
