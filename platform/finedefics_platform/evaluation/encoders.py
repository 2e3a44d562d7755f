"""Frozen encoders on the same pictures, categories and options as the multimodal arms: what to beat.

An encoder's evaluation is a folder like any other (`finedefics_platform.evaluation.items`), without a
category index; its ``model_digest`` is the embedder's identity, which no model folder has.
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from finedefics.errors import FinedeficsError, wrong_use
from finedefics.evaluation.schema import ITEMS
from finedefics.records import Category
from finedefics_platform.base.digest import digest_of
from finedefics_platform.base.progress import SILENT, Progress, say_reused
from finedefics_platform.base.storage import commit, committed, lease
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.experiment import Evaluation
from finedefics_platform.data.embeddings import Array, Embeddings, embed, named_embedder, text_rows
from finedefics_platform.data.store import Dataset, open_dataset
from finedefics_platform.evaluation.asked import Asked, ask, asked_places, effective, published
from finedefics_platform.evaluation.checks import check_categories
from finedefics_platform.evaluation.items import FORMAT, Evaluated, open_evaluation
from finedefics_platform.evaluation.leaking import leaked

if TYPE_CHECKING:
    from finedefics.embedders import Settings

TEXTS = ("names", "descriptions", "sum")
ANSWERS = ("zero_shot", "knn", "linear_probe")


@dataclass(frozen=True)
class Answers:
    """What an encoder said.

    Attributes:
        rows: as in `finedefics.evaluation.items.Items`.
        seconds: of each answer, over all pictures; their embedding left out.
        chosen: of each answer, what was set and on which pictures.
        able: of each answer, the categories it can name.
    """

    rows: list[dict[str, Any]]
    seconds: dict[str, float]
    chosen: dict[str, dict[str, Any]]
    able: dict[str, int]


def evaluate_encoder(
    workspace: Workspace,
    encoder: str,
    dataset_reference: str,
    settings: Evaluation,
    *,
    options: str | os.PathLike[str] | None = None,
    embedding: "Settings | None" = None,
    gpus_per_worker: float | None = None,
    progress: Progress = SILENT,
) -> Evaluated:
    """Evaluate a frozen encoder; an equal evaluation that is finished is returned at once.

    ``knn`` and ``linear_probe`` learn from the labelled pictures of the split train, and what they choose
    they choose on val (on part of train where val itself is evaluated, or has no labels). They can never
    name a category without a labelled training picture; the summary's ``able`` says how many they can.

    Args:
        encoder: an embedder of pictures (`finedefics.embedders`).
        settings: split, answers (`finedefics.probes`), options, seed and limit.
        options: a published file of questions.
        embedding, gpus_per_worker: how the embedder runs.

    Raises:
        FinedeficsError: there is no such encoder, it embeds no pictures, an answer is unknown or cannot be
            given by it, or the split has no labelled picture.
    """
    from finedefics.embedders import mode_of
    from finedefics.probes import check_encoder_answers

    check_encoder_answers(settings.answers)
    dataset = open_dataset(workspace, dataset_reference)
    categories = check_categories(dataset, settings.split)
    file = None if options is None else published(options, dataset, settings.split, categories)
    settings = effective(settings, categories, file)
    named = named_embedder(workspace, encoder, categories, embedding, gpus_per_worker)
    embedder = named.open()
    mode = mode_of(embedder)
    if mode == "descriptions":
        raise wrong_use(
            "it embeds no pictures, and a text may say whose picture it is of",
            place=f"encoder {encoder}",
            cure="take an embedder of pictures: clip:MODEL, vision:MODEL, or a .py file",
        )
    _check_texts(settings.answers, mode, encoder)
    _check_learns(settings.answers, dataset)
    about = _about(dataset, settings, named.identity(embedder), file)
    place = workspace.evaluations / digest_of({key: about[key] for key in about if key != "dataset"})
    if committed(place) is None:
        claims = workspace.evaluations / ".lease" / place.name
        with lease(claims, f"evaluation {place.name}", progress=progress) as held:
            if committed(place) is None:
                embeddings = embed(workspace, dataset, named, progress)
                wanted = TEXTS if mode == "texts" else ()
                texts = text_rows(embeddings, dataset, named, wanted, progress)
                asked = ask(dataset, settings, categories, file)
                with commit(place) as draft:
                    work = _Work(dataset, embeddings, settings, texts)
                    with progress.progress("answering", len(asked.samples)) as advance:
                        found = work(asked)
                        advance(len(asked.samples))
                    told = asked.told(len(categories))
                    if file is not None:
                        told["options_file"] = {"name": file.reference, **file.matched.told()}
                    told["leaks"] = leaked(dataset, asked_places(dataset, settings, file))
                    about |= {**told, "finished": time.time()}
                    _write(draft, found, work, asked, categories, about)
                    held.check()
    else:
        say_reused(progress, "evaluation", place.name)
    return open_evaluation(place)


def _check_texts(answers: Sequence[str], mode: str, encoder: str) -> None:
    wanting = [answer for answer in answers if not _learns(answer)]
    if wanting and mode != "texts":
        raise wrong_use(
            f"the answer {wanting[0]} compares pictures with texts, and this encoder embeds none",
            place=f"encoder {encoder}",
            cure="ask for knn or linear_probe, or take an encoder of pictures and texts (clip:MODEL)",
        )


def _learns(answer: str) -> bool:
    return not answer.startswith("zero_shot")


def _check_learns(answers: Sequence[str], dataset: Dataset) -> None:
    """Before anything is embedded, which may take hours."""
    wanting = [answer for answer in answers if _learns(answer)]
    if wanting and not dataset.labelled_category_ids():
        raise FinedeficsError(
            "no picture of the split train has a label to learn from",
            place=f"{dataset.reference}, answer `{wanting[0]}`",
            cure="ingest labelled pictures, or ask for zero_shot",
        )


def _about(dataset: Dataset, settings: Evaluation, identity: str, file: Any) -> dict[str, Any]:
    """What the figures are measured on and how; with the name left out, what determines them."""
    others = {"split", "limit", "every", "calibration", "dtype", "micro_tokens", "rotations", "unknown"}
    protocol = settings.model_dump(mode="json", exclude=others)
    return {
        "dataset": dataset.reference,
        "dataset_digest": dataset.digest,
        "split": settings.split,
        "limit": settings.limit,
        "protocol": protocol if file is None else {**protocol, "options_of": file.digest},
        "model_digest": identity,
        "encoder": True,
        "format": FORMAT,
        "labelled_digest": digest_of(sorted(dataset.labelled_category_ids())),
    }


class _Work:
    """Answers from embeddings that are there: beside making them it takes little, so it is done here."""

    def __init__(
        self, dataset: Dataset, embeddings: Embeddings, settings: Evaluation, texts: dict[str, Array]
    ) -> None:
        self.dataset, self.embeddings, self.settings, self.texts = dataset, embeddings, settings, texts

    def __call__(self, asked: Asked) -> tuple[Answers, Array]:
        """Answers to all pictures, and their embeddings."""
        from finedefics.evaluation.rows import Questions
        from finedefics.probes import ENCODER_ANSWERS, Known

        ids = [sample.sample_id for sample in asked.samples]
        truth = [sample.category_id for sample in asked.samples]
        categories = self.dataset.categories()
        train, train_labels, _ = self.labelled("train")
        # what is chosen on the pictures that are judged would flatter
        split = "val" if self.settings.split != "val" else None
        val, val_labels, _ = self.labelled(split) if split else (train[:0], train_labels[:0], [])
        known = Known(
            len(categories),
            train,
            train_labels,
            val,
            val_labels,
            self.texts.get("names"),
            self.texts.get("sum"),
            self.settings.seed,
        )
        rows, _, there = self.labelled(self.settings.split)
        place = {sample_id: row for row, sample_id in enumerate(there)}
        pictures = rows[[place[sample_id] for sample_id in ids]]
        position = {category.category_id: i for i, category in enumerate(categories)}
        offered = [[position[option] for option in choice] for choice in asked.choices]
        labelled = self.dataset.labelled_category_ids()
        questions = Questions(ids, truth, offered, [*position], labelled, self.settings.seed)
        answers = Answers([], {}, {}, {})
        for name in self.settings.answers:
            answerer = ENCODER_ANSWERS[name](known)
            started = time.perf_counter()
            scores = answerer.score(pictures)
            answers.seconds[name] = time.perf_counter() - started
            answers.chosen[name] = answerer.chosen
            answers.able[name] = int((scores > -np.inf).any(0).sum()) if len(scores) else 0
            answers.rows.extend(questions.rows(name, scores))
        return answers, pictures

    def labelled(self, split: str) -> tuple[Array, npt.NDArray[np.intp], list[str]]:
        """Embeddings, category positions and ids of a split's labelled pictures, in file order."""
        labels = self.dataset.table("row_groups", ["categories"])["categories"].to_pylist()
        rows, own, ids = [np.zeros((0, self.embeddings.dim), np.float32)], [], []
        for number, groups in enumerate(self.dataset.groups_of_file()):
            wanted = [group.labelled and group.split == split for group in groups]
            if not any(wanted):
                continue
            part, start = self.embeddings.part(number), 0
            for group, counts in zip(groups, wanted, strict=True):
                if counts:
                    rows.append(part[start : start + group.rows])
                    own += labels[group.number]
                    ids += self.dataset.read(group, {"samples": ["sample_id"]})["sample_id"].to_pylist()
                start += group.rows
        return np.concatenate(rows), np.array(own, np.intp), ids


def _write(
    folder: Path,
    found: tuple[Answers, Array],
    work: _Work,
    asked: Asked,
    categories: Sequence[Category],
    about: dict[str, Any],
) -> None:
    from finedefics.evaluation.chance import near_chance
    from finedefics.evaluation.selective import selective

    answers, pictures = found
    rows = sorted(answers.rows, key=lambda row: (row["answer"], row["scope"]))
    table = pa.Table.from_pylist(rows, ITEMS)
    pq.write_table(table, folder / "items.parquet")
    texts = {"name": work.texts.get("names"), "description": work.texts.get("descriptions")}
    np.savez(
        folder / "embeddings.npz",
        objects=pictures,
        sample_ids=np.array([sample.sample_id for sample in asked.samples]),
        category_ids=np.array([category.category_id for category in categories]),
        **{name: array for name, array in texts.items() if array is not None},  # type: ignore[arg-type]
    )
    count, embedding = len(asked.samples), work.embeddings.pictures_per_second
    # an answer costs its picture's embedding as well; where that was not timed, nothing is said
    speeds = {a: 1 / (s / count + 1 / embedding) for a, s in answers.seconds.items() if embedding}
    answered = list(answers.seconds)
    summary = {
        **about,
        "near_chance": near_chance(table, about["chance"]),
        "pictures": count,
        "pictures_per_second": speeds,
        "tokens_per_picture": {answer: {"forwarded": 0.0, "generated": 0.0} for answer in answered},
        "unparseable": dict.fromkeys(answered, 0.0),
        "unknown": selective(table),
        "rotations": {},
        "open_set": {},
        "ensemble": None,
        "able": answers.able,
        "chosen": answers.chosen,
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1))


def default_answers(workspace: Workspace, encoder: str, dataset_reference: str) -> tuple[str, ...]:
    """All that this encoder can give on this dataset; where that is nothing, what it could with labels."""
    from finedefics.embedders import mode_of

    mode = mode_of(named_embedder(workspace, encoder, ()).open())
    possible = ANSWERS if mode == "texts" else ANSWERS[1:]
    if open_dataset(workspace, dataset_reference).labelled_category_ids():
        return possible
    return tuple(answer for answer in possible if not _learns(answer)) or possible
