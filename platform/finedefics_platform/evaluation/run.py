"""Evaluation spread over the cluster: a model's answers to every picture, kept as one item table.

The driver plans and gathers; pictures are read, and answers written, by the processes that hold the model
(`finedefics_platform.evaluation.parts`).
"""

import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from finedefics_platform.base.actors import run_in_shares
from finedefics_platform.base.content import model_digest, model_folder
from finedefics_platform.base.digest import digest_of
from finedefics_platform.base.progress import SILENT, Progress, say_reused
from finedefics_platform.base.storage import Location, commit, committed, fetch, lease
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.experiment import Evaluation as Settings
from finedefics_platform.data.store import Dataset, Place, open_dataset
from finedefics_platform.evaluation.asked import Published, asked_places, effective, published
from finedefics_platform.evaluation.calibrating import calibrate, ensemble_weight, fitting_places
from finedefics_platform.evaluation.calibrating import told as told_calibration
from finedefics_platform.evaluation.checks import Planned, check_evaluable, check_weights, planned
from finedefics_platform.evaluation.foreign import thresholds, with_thresholds
from finedefics_platform.evaluation.items import FORMAT, Evaluated, open_evaluation, write_evaluation
from finedefics_platform.evaluation.leaking import leaked, with_training
from finedefics_platform.evaluation.parts import (
    ASKED,
    DECIDING,
    DRAWN_PART,
    FITTING,
    PART,
    PLACED,
    Part,
    begin,
    in_parts,
    missing,
    read_arrays,
)
from finedefics_platform.evaluation.recogniser import Answering, Embedding, Question
from finedefics_platform.evaluation.validation import validation_places

if TYPE_CHECKING:
    from torch import Tensor

    from finedefics.scoring import CategoryIndex, Unknown

# Has missing parts made by processes that open their work with the question.
Make = Callable[[Callable[[Question], Callable[[Part], None]], Question, Sequence[Part], str], None]


def evaluate(
    workspace: Workspace,
    model: Location | str | os.PathLike[str],
    dataset_reference: str,
    settings: Settings,
    *,
    labelled: Collection[str] | None = None,
    options: str | os.PathLike[str] | None = None,
    trained_on: str | None = None,
    called: str | None = None,
    shards: int | None = None,
    gpus_per_worker: float | None = None,
    progress: Progress = SILENT,
) -> Evaluated:
    """Evaluate a model folder; an equal evaluation that is finished is returned at once.

    One that another process is making is waited for; one that was cut off goes on with what is missing.

    Args:
        model: Hugging Face folder, or where one was committed.
        dataset_reference: the dataset whose split, categories and negatives are used.
        settings: split, answers, options and limit, and the dtype where it is not the model's own.
        labelled: ids of the categories that had labels in the model's own training (`TrainedRun.labelled`);
            default: those that have labels in the dataset.
        options: a published file of questions (`finedefics.evaluation.options`): its pictures and options are
            asked, and no others.
        trained_on: the dataset that the model was trained on, where it may be another one: its training
            pictures are looked for among those that are asked as well (``leaks`` of the summary).
        called: what the model is called wherever it lies: a run, a version, or a hub name at a commit.
        shards: processes that share the pictures; default: as many as the GPUs have room for, two without.
        gpus_per_worker: of each process; default: 1 where the cluster has a GPU, else 0.

    Raises:
        FinedeficsError: an answer is unknown, the split has no labelled picture, there is one category only,
            alignment is to be calibrated and cannot, the options are of other pictures, there is no model,
            its weights cannot be read, or its dtype is none that it can be asked in.
    """
    from finedefics.backbones import stored_dtype

    dataset = open_dataset(workspace, dataset_reference)
    categories = check_evaluable(dataset, settings)
    file = None if options is None else published(options, dataset, settings.split, categories)
    settings = effective(settings, categories, file)
    known = frozenset(dataset.labelled_category_ids() if labelled is None else labelled)
    folder = model_folder(Location.of(model))
    question = Question(
        Location.of(model),
        model_digest(folder),
        settings.dtype or stored_dtype(folder),
        dataset.root,
        settings,
        known,
        workspace.evaluation_parts,
    )
    check_weights(folder)
    about = {"model": called, **_about(question, dataset, file)}
    place = workspace.evaluations / _address(about)
    if committed(place) is None:
        claims = workspace.evaluation_lease(place.name)
        with lease(claims, f"evaluation {place.name}", progress=progress) as held:
            if committed(place) is None:
                question = replace(question, parts=question.parts / place.name)
                begin(question.parts, {**about, "model": workspace.name_of(question.model)})
                make = partial(_make, shards=shards, gpus_per_worker=gpus_per_worker, progress=progress)
                plan = planned(dataset, settings)
                question = _decided(question, dataset, plan, make)
                own = None if file is None else file.matched.options
                places = asked_places(dataset, settings, file)
                asked = in_parts(ASKED, places, PART, own)
                make(Answering, question, asked, "evaluating")
                index = _index(question)
                about |= _told(file) | {"calibration": told_calibration(plan, index.calibration)}
                about |= {"placed": (question.parts / PLACED).read_json(), "leaks": leaked(dataset, places)}
                with commit(place) as draft:
                    about["finished"] = time.time()
                    write_evaluation(draft, question.parts, asked, index, _unknown(question), about)
                    held.check()
                question.parts.delete()
    else:
        say_reused(progress, "evaluation", place.name)
    done = open_evaluation(place)
    if trained_on is None:
        return done
    # of the model's own training, which does not determine the figures: looked at anew, whoever asks
    places = asked_places(dataset, settings, file)
    found = with_training(workspace, done.summary.get("leaks", {}), dataset, places, trained_on)
    return replace(done, summary={**done.summary, "leaks": found})


def _about(question: Question, dataset: Dataset, file: Published | None) -> dict[str, Any]:
    """What the figures are measured on and how.

    Random options need no word of their own here: data, options and seed determine them.
    """
    settings = question.settings
    protocol = settings.model_dump(mode="json", exclude={"split", "limit", "every", "dtype", "micro_tokens"})
    return {
        "format": FORMAT,
        "dataset": dataset.reference,
        "dataset_digest": dataset.digest,
        "split": settings.split,
        "limit": settings.limit,
        "protocol": protocol if file is None else {**protocol, "options_of": file.digest},
        "model_digest": question.model_digest,
        "labelled_digest": digest_of(sorted(question.labelled)),
        "dtype": question.dtype,
    }


def _address(about: dict[str, Any]) -> str:
    """Digest of what determines the figures: not of the dataset's name, nor of the dtype that is usual."""
    usual = about["dtype"] == "float32"
    named = ("dataset", "model")
    return digest_of({k: v for k, v in about.items() if k not in named and not (usual and k == "dtype")})


def _told(file: Published | None) -> dict[str, Any]:
    return {} if file is None else {"options_file": {"name": file.reference, **file.matched.told()}}


def _decided(question: Question, dataset: Dataset, plan: Planned | None, make: Make) -> Question:
    """The question with the index that holds the calibration, weight and thresholds that it asks for."""
    settings = question.settings
    fits, weighs = plan is not None and plan.fits, "ensemble" in settings.answers
    foreign = with_thresholds(dataset, settings)
    decides = bool(weighs or foreign or (plan is not None and plan.decides))
    if not fits and not decides:
        return question
    decided = replace(question, decided=True)
    if committed(decided.index) is None:
        fitting = fitting_places(dataset, settings.seed) if fits else []
        deciding = validation_places(dataset, settings.limit, "leave it out") if decides else []
        parts = {
            FITTING: in_parts(FITTING, fitting, DRAWN_PART),
            DECIDING: in_parts(DECIDING, deciding, PART),
        }
        label = "calibrating" if fits else "weighing the ensemble" if weighs else "choosing thresholds"
        make(Embedding, question, [*parts[FITTING], *parts[DECIDING]], label)
        index, truth = _index(question), _truth(dataset, deciding)
        fitted, judged = (_stacked(question, parts[kind], "objects") for kind in (FITTING, DECIDING))
        found = calibrate(plan, index, fitted, judged, truth, dataset.digest)
        index = replace(index, calibration=found)
        names = _stacked(question, parts[DECIDING] if weighs else [], "names")
        if weighs:
            weight = ensemble_weight(index, names, judged, truth, dataset.digest)
            index = replace(index, ensemble=weight)

        def best(answer: str) -> "Tensor":
            return _stacked(question, parts[DECIDING], f"best_{answer}")

        with commit(decided.index) as draft:
            index.save(draft)
            if foreign:
                thresholds(foreign, index, judged, names, best, dataset.digest).save(draft)
    return decided


def _make(
    work: Callable[[Question], Callable[[Part], None]],
    question: Question,
    parts: Sequence[Part],
    label: str,
    *,
    shards: int | None,
    gpus_per_worker: float | None,
    progress: Progress,
) -> None:
    """A `Make`, by the cluster: only where pictures lie travels there, and nothing comes back."""
    left = missing(question.parts, parts)
    run_in_shares(
        left,
        partial(work, question),
        label=label,
        progress=progress,
        gpus_per_worker=gpus_per_worker,
        most=shards,
        sizes=[len(part.places) for part in left],
    )


def _index(question: Question) -> "CategoryIndex":
    from finedefics.scoring import CategoryIndex

    return CategoryIndex.load(fetch(question.index))


def _unknown(question: Question) -> "Unknown | None":
    from finedefics.scoring import Unknown

    return Unknown.find(fetch(question.index))


def _truth(dataset: Dataset, places: Sequence[Place]) -> list[int]:
    """Positions of the categories of labelled pictures."""
    labels = dataset.table("row_groups", ["categories"])["categories"].to_pylist()
    return [labels[place.group.number][place.row] for place in places]


def _stacked(question: Question, parts: Sequence[Part], name: str) -> "Tensor":
    """An array of parts as one, empty where there is none."""
    import torch

    found = [torch.from_numpy(one[name]) for one in read_arrays(question.parts, parts)]
    return torch.cat(found) if found else torch.empty(0, 0)
