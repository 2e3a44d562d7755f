"""The model in a process of the cluster: fetched to its own node, asked as it was trained to be asked."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from finedefics.evaluation.schema import ITEMS
from finedefics_platform.base.actors import reserved_device
from finedefics_platform.base.content import model_folder
from finedefics_platform.base.storage import Location, commit, committed, fetch
from finedefics_platform.config.experiment import Evaluation as Settings
from finedefics_platform.data.store import open_version
from finedefics_platform.evaluation.asked import choose
from finedefics_platform.evaluation.foreign import asked_for_thresholds
from finedefics_platform.evaluation.parts import DECIDING, PLACED, Part, write_arrays, write_rows

if TYPE_CHECKING:
    from finedefics.placing import Placed
    from finedefics.scoring import Recogniser

# The model that this process loaded last: it is asked of many parts, and a warm process goes on with it. The
# key holds its content, so that another model in the same folder is loaded.
_LOADED: dict[tuple[str, str, str, int | None], "Placed"] = {}
_BYTES_ONLY = {"samples": ("sample_id", "image")}  # what a calibration may know


@dataclass(frozen=True)
class Question:
    """What every process is told: where the model and the data are, and how to ask.

    Attributes:
        model, model_digest: the model's folder, and its content.
        dtype: of weights and activations.
        dataset: of the dataset version.
        labelled: categories that had labels in the model's training.
        parts: where what is finished is kept.
        decided: whether the index in ``parts`` is used that holds a calibration or the ensemble's weight.
    """

    model: Location
    model_digest: str
    dtype: str
    dataset: Location
    settings: Settings
    labelled: frozenset[str]
    parts: Location
    decided: bool = False

    @property
    def index(self) -> Location:
        """The category index that answers are given with."""
        return self.parts / ("index" if self.decided else "plain")


class Embedding:
    """Embeds the pictures of parts, to calibrate, weigh and choose thresholds; lives in a process.

    A part's arrays: ``objects`` [pictures, dim], and of those to decide on the scores [pictures, categories]
    of the answer ``names`` where the ensemble is asked for, and by ``best_<answer>`` the best score
    [pictures] of each of `asked_for_thresholds`.
    """

    def __init__(self, question: Question) -> None:
        self.question, self.dataset = question, open_version(question.dataset)
        self.model = open_recogniser(question)

    def __call__(self, part: Part) -> None:
        """Write what a part gives."""
        from finedefics.evaluation.items import embeddings_and_scores

        settings = self.question.settings
        deciding = part.kind == DECIDING
        whole = ["names"] if deciding and "ensemble" in settings.answers else []
        best = asked_for_thresholds(settings) if deciding else []
        samples = self.dataset.samples_at(part.places, _BYTES_ONLY)
        objects, scores = embeddings_and_scores(self.model, samples, list(dict.fromkeys([*whole, *best])))
        arrays = {name: scores[name] for name in whole}
        arrays |= {f"best_{name}": scores[name].max(1) for name in best}
        write_arrays(self.question.parts / part.name, objects=objects, **arrays)


class Answering:
    """Answers the pictures of parts; lives in a process.

    A part's arrays: ``objects`` [pictures, dim], ``sample_ids`` and ``truth`` (position of the category) of
    its pictures, by answer ``seconds`` and ``tokens`` (forwarded, generated), by number of options how many
    pictures were asked on so many (``sizes``), and on how many of them random ones were shown (``drawn``).
    """

    def __init__(self, question: Question) -> None:
        self.question, self.dataset = question, open_version(question.dataset)
        self.model = open_recogniser(question)
        self.warm = False

    def __call__(self, part: Part) -> None:
        """Write the answers to a part."""
        from finedefics.evaluation.items import evaluate_samples

        question, answers = self.question, self.question.settings.answers
        samples = self.dataset.samples_at(part.places)
        if part.options is None:
            choices, drawn = choose(samples, question.settings, self.model.categories)
        else:
            choices, drawn = [part.options[sample.sample_id] for sample in samples], 0
        items = evaluate_samples(
            self.model,
            samples,
            answers,
            labelled=question.labelled,
            choices=choices,
            rotations=_orders(question.settings),
            warm=self.warm,
        )
        self.warm = True
        place = {category.category_id: i for i, category in enumerate(self.model.categories)}
        write_rows(question.parts / part.items, pa.Table.from_pylist(items.rows, ITEMS))
        write_arrays(
            question.parts / part.name,
            objects=items.objects,
            sample_ids=items.sample_ids,
            truth=[place[sample.category_id or ""] for sample in samples],
            seconds=[items.seconds[answer] for answer in answers],
            tokens=[items.tokens[answer] for answer in answers],
            sizes=sorted(Counter(map(len, choices)).items()),
            drawn=drawn,
        )


def _orders(settings: Settings) -> int:
    """In how many orders options are shown (`finedefics_platform.evaluation.asked.effective`)."""
    assert settings.rotations != "all", "settled before anything is asked"
    return settings.rotations or 1


def open_recogniser(question: Question) -> "Recogniser":
    """The model on this process's device, with the one index that all processes answer with.

    Where there is none yet it is built; of several processes that build it, the first one's counts.

    Raises:
        FinedeficsError: the model cannot be loaded or does not fit, or the device lacks its dtype.
    """
    import torch

    from finedefics.conversation import Templates
    from finedefics.readout import load_readout
    from finedefics.scoring import CategoryIndex, Recogniser

    device = reserved_device()
    if device == "cpu":
        torch.set_num_threads(1)  # processes share the cores; a speed is that of one of them
    folder, seed = model_folder(question.model), question.settings.seed
    backbone, budget = _placed(question, device)
    stands = {parameter.device for parameter in backbone.parameters()}
    told = {"device": device.partition(":")[0], "cards": sum(place.type == "cuda" for place in stands)}
    (question.parts / PLACED).write_json({**told, "micro_tokens": budget})
    categories = open_version(question.dataset).categories()
    if committed(question.index) is None:
        built = Recogniser(
            backbone,
            categories,
            templates=Templates.load(folder),
            object_readout=load_readout(folder),
            micro_tokens=budget,
        )
        with commit(question.index) as draft:
            built.index.save(draft)
    index = CategoryIndex.load(fetch(question.index))
    return Recogniser(backbone, categories, index=index, seed=seed, micro_tokens=budget)


def _placed(question: Question, device: str) -> "Placed":
    from finedefics.placing import load_placed

    budget = question.settings.micro_tokens
    key = (question.model_digest, question.dtype, device, budget)
    if key not in _LOADED:
        _LOADED.clear()
        folder = model_folder(question.model)
        _LOADED[key] = load_placed(folder, device, question.dtype, micro_tokens=budget)
    return _LOADED[key]
