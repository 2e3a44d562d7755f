"""Evaluation as a table: one row for each picture, answer and scope, from which every figure is computed."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from finedefics.evaluation.choices import choose_options
from finedefics.evaluation.rows import ALL, LABELLED, NEW, OPTIONS, Questions
from finedefics.records import Sample
from finedefics.scoring import ANSWERS, Answered, Pictures, Recogniser, is_graded
from finedefics.scoring.recogniser import BATCH

__all__ = [
    "ALL",
    "LABELLED",
    "NEW",
    "OPTIONS",
    "Items",
    "Questions",
    "check_answers",
    "embeddings_and_scores",
    "evaluate_samples",
    "object_embeddings",
    "retrieved",
    "unparseable",
]


@dataclass
class Items:
    """What a model answered.

    Attributes:
        rows: dictionaries with ``sample_id, category_id, group, answer, scope, predicted, correct``,
            ``description`` and ``reply`` (the model's own words; None where the answer writes none),
            ``options`` (ids of categories in the order shown) and ``position`` (of the truth among them; both
            None where every category competes), ``score`` (the answer's own of what it chose; None where it
            is not graded) and ``rotation`` (how far the order of the options was turned). ``predicted`` is
            None where the model's words name no category, or no option.
        seconds: time each answer takes alone over all pictures: decoding, vision tower and whatever else
            several answers share were done once, and count for each of them (`Answered.seconds`).
        tokens: ``{answer: (forwarded, generated)}`` language-model tokens over all pictures.
        objects: [pictures, dim] object embeddings, in the order of ``sample_ids``.
    """

    sample_ids: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, tuple[int, int]] = field(default_factory=dict)
    objects: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))


@torch.no_grad()
def evaluate_samples(
    model: Recogniser,
    samples: Sequence[Sample],
    answers: Sequence[str],
    *,
    labelled: Collection[str],
    options: int = 4,
    choices: Sequence[Sequence[str]] | None = None,
    rotations: int = 1,
    warm: bool = False,
) -> Items:
    """Ask a model for the category of every picture, by every answer, on all categories and on hard options.

    A picture is decoded and encoded once, whatever is asked; `BATCH` of them are in hand at a time.

    Args:
        model: the model and the categories that compete.
        samples: labelled pictures with their mined negatives.
        answers: names of `finedefics.scoring.ANSWERS`.
        labelled: ids of categories that had a labelled picture in training; the others are the group "new".
        options: size of the multiple choice: the truth and the most similar wrong categories.
        choices: for each picture the ids of its options, the truth among them; default: `choose_options` by
            the model's seed.
        rotations: orders in which the options of a multiple choice are shown, each turned by one; a question
            with fewer options is asked in as many orders as it has. What is asked again costs what it costs,
            and counts in neither ``seconds`` nor ``tokens``.
        warm: whether the model gave these answers before. The first call of a kind allocates, which is not
            the answer's cost: a cold model is asked of the first picture once more, untimed.

    Raises:
        FinedeficsError: a picture has no label, is damaged or cannot be answered.
    """
    items = Items([sample.sample_id for sample in samples])
    place = {category.category_id: i for i, category in enumerate(model.categories)}
    if choices is None:
        choices = [c.options for c in choose_options(samples, [*place], options, seed=model.seed)]
    positions = [[place[category] for category in choice] for choice in choices]
    turned = [answer for answer in answers if ANSWERS[answer].asks_options]
    asked = [(answer, 0) for answer in answers]
    asked += [(answer, turn) for turn in range(1, rotations) for answer in turned]
    found: dict[tuple[str, int], list[Answered]] = {one: [] for one in asked}
    objects = []
    for start in range(0, len(samples), BATCH):
        pictures = _show(model, samples[start : start + BATCH], positions[start : start + BATCH])
        if not warm:
            model.ask(pictures.first(), answers)
            warm = True
        for turn in range(rotations if turned else 1):
            again = replace(pictures, rotation=turn) if turn else pictures
            for answer, answered in model.ask(again, turned if turn else answers).items():
                found[answer, turn].append(answered)
        objects.append(model.embed_objects(pictures, pictures.sample_ids)[0].cpu().numpy())
    truth = [sample.category_id for sample in samples]
    questions = Questions(items.sample_ids, truth, positions, [*place], labelled, model.seed)
    for (answer, turn), parts in found.items():
        if not turn:
            items.seconds[answer] = sum(part.seconds for part in parts)
            items.tokens[answer] = (
                sum(part.forwarded_tokens for part in parts),
                sum(part.generated_tokens for part in parts),
            )
        items.rows += questions.rows(
            answer,
            torch.cat([part.scores for part in parts]),
            among_all=not ANSWERS[answer].asks_options,
            graded=is_graded(answer),
            texts=[text for part in parts for text in part.texts],
            rotation=turn,
        )
    items.objects = np.concatenate(objects)
    return items


def _show(
    model: Recogniser, samples: Sequence[Sample], choices: Sequence[Sequence[int]] | None = None
) -> Pictures:
    images, ids = [sample.image for sample in samples], [sample.sample_id for sample in samples]
    return model.show(images, options=choices, sample_ids=ids)


def object_embeddings(model: Recogniser, samples: Sequence[Sample]) -> np.ndarray:
    """Object embedding of every picture, [pictures, dim], normalised."""
    return embeddings_and_scores(model, samples)[0]


@torch.no_grad()
def embeddings_and_scores(
    model: Recogniser, samples: Sequence[Sample], answers: Sequence[str] = ()
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Object embeddings [pictures, dim] and, by answer, scores [pictures, categories]; at least one picture.

    Raises:
        FinedeficsError: a picture is damaged or cannot be answered.
    """
    objects: list[np.ndarray] = []
    scores: dict[str, list[np.ndarray]] = {answer: [] for answer in answers}
    for start in range(0, len(samples), BATCH):
        pictures = _show(model, samples[start : start + BATCH])
        for answer, answered in model.ask(pictures, answers).items():
            scores[answer].append(answered.scores.numpy())
        objects.append(model.embed_objects(pictures, pictures.sample_ids)[0].cpu().numpy())
    return np.concatenate(objects), {answer: np.concatenate(each) for answer, each in scores.items()}


def unparseable(items: pa.Table) -> dict[str, float]:
    """Share of pictures, by answer, to which the model's own words named no category, or no option.

    Args:
        items: columns ``answer``, ``scope`` and ``predicted``.
    """
    shares = {}
    for answer in pc.unique(items["answer"]).to_pylist():
        # a name that is none of the options was understood all the same: only the wider scope counts
        scope = OPTIONS if ANSWERS[answer].asks_options else ALL
        own = items.filter((pc.field("answer") == answer) & (pc.field("scope") == scope))
        shares[answer] = own["predicted"].null_count / len(own)
    return shares


def retrieved(objects: np.ndarray, texts: np.ndarray, truth: np.ndarray) -> int:
    """How many objects have the text of their own category as the nearest one (cosine)."""
    return int(((objects @ texts.T).argmax(1) == truth).sum())


def check_answers(answers: Sequence[str]) -> None:
    """FinedeficsError (exit code 2) for the first unknown answer, before any model is loaded."""
    for answer in answers:
        ANSWERS[answer]
