"""Evaluation spread over the cluster: a model's answers to every picture, kept as one item table."""

import os
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from finedefics.errors import FinedeficsError
from finedefics.records import Sample
from finedefics_platform.base.cluster_session import ensure_ray
from finedefics_platform.base.content import model_digest, model_folder
from finedefics_platform.base.digest import digest_of
from finedefics_platform.base.progress import SILENT, Progress
from finedefics_platform.base.storage import Location, commit, committed, lease
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.experiment import Evaluation as Settings
from finedefics_platform.data.store import Dataset, open_dataset
from finedefics_platform.evaluation.asked import Asked, Published, ask, effective, published
from finedefics_platform.evaluation.calibrating import calibrate
from finedefics_platform.evaluation.calibrating import told as told_calibration
from finedefics_platform.evaluation.checks import Planned, check_evaluable, planned
from finedefics_platform.evaluation.items import Evaluated, open_evaluation, write_evaluation
from finedefics_platform.evaluation.recogniser import Question, answer_share, embed_share, ensemble_weight

if TYPE_CHECKING:
    from torch import Tensor

    from finedefics.evaluation.items import Items
    from finedefics.scoring import Calibration, CategoryIndex


def evaluate(
    workspace: Workspace,
    model: Location | str | os.PathLike[str],
    dataset_reference: str,
    settings: Settings,
    *,
    labelled: Collection[str] | None = None,
    options: str | os.PathLike[str] | None = None,
    shards: int = 2,
    progress: Progress = SILENT,
) -> Evaluated:
    """Evaluate a model folder; an equal evaluation that is finished is returned at once.

    One that another process is making is waited for.

    Args:
        model: Hugging Face folder, or where one was committed.
        dataset_reference: the dataset whose split, categories and negatives are used.
        settings: split, answers, options and limit.
        labelled: ids of the categories that had labels in the model's own training (`TrainedRun.labelled`);
            default: those that have labels in the dataset.
        options: a published file of questions (`finedefics.evaluation.options`): its pictures and options are
            asked, and no others.
        shards: processes that share the pictures; on GPUs, of which each takes one, at most as many.

    Raises:
        FinedeficsError: an answer is unknown, the split has no labelled picture, there is one category only,
            alignment is to be calibrated and cannot, the options are of other pictures, or there is no model.
    """
    dataset = open_dataset(workspace, dataset_reference)
    categories = check_evaluable(dataset, settings)
    file = None if options is None else published(options, dataset, settings.split, categories)
    settings = effective(settings, categories, file)
    known = frozenset(dataset.labelled_category_ids() if labelled is None else labelled)
    question = Question(Location.of(model), dataset.root, settings, known)
    about = _about(question, dataset, file)
    place = workspace.evaluations / digest_of({key: about[key] for key in about if key != "dataset"})
    if committed(place) is None:
        claims = workspace.evaluations / ".lease" / place.name
        with lease(claims, f"evaluation {place.name}", progress=progress) as held:
            if committed(place) is None:
                with commit(place) as draft:
                    asked = ask(dataset, settings, categories, file)
                    plan = planned(dataset, settings)
                    index, parts = _answers(question, dataset, plan, asked, shards, progress)
                    told = asked.told(len(categories)) | _told(file)
                    told["calibration"] = told_calibration(plan, index.calibration)
                    about |= {**told, "finished": time.time()}
                    write_evaluation(draft, parts, index, asked.samples, about)
                    held.check()
    return open_evaluation(place)


def _about(question: Question, dataset: Dataset, file: Published | None) -> dict[str, Any]:
    """What the figures are measured on and how; with the name left out, what determines them.

    Random options need no word of their own here: data, options and seed determine them.
    """
    settings = question.settings
    protocol = settings.model_dump(mode="json", exclude={"split", "limit", "every"})
    return {
        "dataset": dataset.reference,
        "dataset_digest": dataset.digest,
        "split": settings.split,
        "limit": settings.limit,
        "protocol": protocol if file is None else {**protocol, "options_of": file.digest},
        "model_digest": model_digest(model_folder(question.model)),
        "labelled_digest": digest_of(sorted(question.labelled)),
    }


def _told(file: Published | None) -> dict[str, Any]:
    return {} if file is None else {"options_file": {"name": file.reference, **file.matched.told()}}


def _answers(
    question: Question,
    dataset: Dataset,
    plan: Planned | None,
    asked: Asked,
    shards: int,
    progress: Progress,
) -> "tuple[CategoryIndex, list[Items]]":
    """Ask in Ray tasks, which read model and data on their own nodes; pictures and answers travel."""
    ensure_ray(progress=progress)
    import ray

    gpus, shards = _placed(ray.cluster_resources().get("GPU", 0), shards)
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=2)
    if plan is not None:
        fitted = _calibration(question, dataset, plan, task(embed_share), shards, progress)
        question = replace(question, calibration=fitted)
    if "ensemble" in question.settings.answers:
        question = replace(question, weight=_result(task(ensemble_weight).remote(question)))
    remote = task(answer_share)
    shares = asked.shares(min(shards, len(asked.samples)))
    answers = [remote.remote(question, *share) for share in shares]
    waiting = list(answers)
    with progress.progress("evaluating", len(asked.samples)) as advance:
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1)
            advance(len(_result(done[0])[0].sample_ids))
    answered = [_result(reference) for reference in answers]
    return answered[0][1], [items for items, _ in answered]


def _calibration(
    question: Question, dataset: Dataset, plan: Planned, remote: Any, shards: int, progress: Progress
) -> "Calibration | None":
    """Have the pictures embedded by tasks ``remote``, which load the model once for both kinds."""
    import torch

    def embed(
        fitting: Sequence[Sample], deciding: Sequence[Sample]
    ) -> "tuple[Tensor, Tensor, CategoryIndex]":
        count = min(shards, max(len(fitting), len(deciding)))
        tasks = [
            remote.remote(question, fitting[part::count], deciding[part::count]) for part in range(count)
        ]
        found = []
        with progress.progress("calibrating", len(fitting) + len(deciding)) as advance:
            for reference in tasks:
                found.append(_result(reference))
                advance(len(found[-1][0]) + len(found[-1][1]))
        wholes = []
        for which, samples in enumerate((fitting, deciding)):
            whole = torch.empty(len(samples), found[0][which].shape[1])
            for part, share in enumerate(found):
                whole[part::count] = torch.from_numpy(share[which].copy())  # Ray's own cannot be written to
            wholes.append(whole)
        return wholes[0], wholes[1], found[0][2]

    return calibrate(plan, dataset, question.settings, embed)


def _placed(gpus: float, shards: int) -> tuple[int, int]:
    """GPUs a task, and how many tasks: of a cluster's GPUs a task takes a whole one."""
    return (1, min(shards, int(gpus))) if gpus >= 1 else (0, shards)


def _result(reference: Any) -> Any:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.as_instanceof_cause()
        raise (error.cause if isinstance(error.cause, FinedeficsError) else cause) from None
