"""The model within a task: fetched to the task's own node, asked as it was trained to be asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finedefics.records import Sample
from finedefics_platform.base.actors import reserved_device
from finedefics_platform.base.content import model_folder
from finedefics_platform.base.storage import Location
from finedefics_platform.config.experiment import Evaluation as Settings
from finedefics_platform.data.store import open_version
from finedefics_platform.evaluation.validation import validation_samples

if TYPE_CHECKING:
    import numpy as np

    from finedefics.evaluation.items import Items
    from finedefics.scoring import Calibration, CategoryIndex, EnsembleWeight, Recogniser


@dataclass(frozen=True)
class Question:
    """What every task is told: where the model and the data are, and how to ask."""

    model: Location
    dataset: Location  # of the dataset version
    settings: Settings
    labelled: frozenset[str]
    calibration: "Calibration | None" = None
    weight: "EnsembleWeight | None" = None


def answer_share(
    question: Question, samples: Sequence[Sample], choices: Sequence[Sequence[str]]
) -> "tuple[Items, CategoryIndex]":
    """One process's share of the pictures, each with the ids of its options (a Ray task)."""
    from finedefics.evaluation.items import evaluate_samples

    recogniser = _recogniser(question)
    items = evaluate_samples(
        recogniser,
        samples,
        question.settings.answers,
        labelled=question.labelled,
        choices=choices,
    )
    return items, recogniser.index


def embed_share(
    question: Question, fitting: Sequence[Sample], deciding: Sequence[Sample]
) -> "tuple[np.ndarray, np.ndarray, CategoryIndex]":
    """Object embeddings [pictures, dim] of one process's share of two sets of pictures (a Ray task)."""
    import numpy as np

    from finedefics.evaluation.items import object_embeddings

    recogniser = _recogniser(question)
    none = np.zeros((0, recogniser.index.names.shape[1]), np.float32)
    fitted, decided = (
        object_embeddings(recogniser, samples) if samples else none for samples in (fitting, deciding)
    )
    return fitted, decided, recogniser.index


def ensemble_weight(question: Question) -> "EnsembleWeight":
    """Choose the ensemble's weight on the validation split (a Ray task)."""
    import torch

    from finedefics.evaluation.items import BATCH
    from finedefics.scoring import choose_weight
    from finedefics.scoring.ensemble import PARTS

    dataset = open_version(question.dataset)
    samples = validation_samples(dataset, question.settings.limit, cure="leave the answer `ensemble` out")
    recogniser = _recogniser(question)
    batches = [[s.image for s in samples[i : i + BATCH]] for i in range(0, len(samples), BATCH)]
    names, alignment = (
        torch.cat([recogniser.answer(batch, part).scores for batch in batches]) for part in PARTS
    )
    place = {category.category_id: i for i, category in enumerate(recogniser.categories)}
    truth = [place[sample.category_id or ""] for sample in samples]
    return choose_weight(
        names, alignment, truth, dataset=dataset.digest, split="val", slope=recogniser.index.slope
    )


def _recogniser(question: Question) -> "Recogniser":
    import torch

    from finedefics.backbones import load_backbone
    from finedefics.conversation import Templates
    from finedefics.readout import load_readout
    from finedefics.scoring import Recogniser

    device = reserved_device()
    if device == "cpu":
        torch.set_num_threads(1)  # processes share the cores; a speed is that of one of them
    folder = model_folder(question.model)
    return Recogniser(
        load_backbone(folder).to(device),
        open_version(question.dataset).categories(),
        templates=Templates.load(folder),
        object_readout=load_readout(folder),
        ensemble=question.weight,
        calibration=question.calibration,
        seed=question.settings.seed,
    )
