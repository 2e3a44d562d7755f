"""What would fail in every worker, or fail late, found by the driver before anything starts."""

import os
from typing import TYPE_CHECKING

from finedefics.errors import FinedeficsError, wrong_use
from finedefics.terms import CONTRASTIVE_TERMS
from finedefics_platform.base.storage import Location
from finedefics_platform.config.experiment import Experiment
from finedefics_platform.config.stage import Stage
from finedefics_platform.data.store import Dataset

if TYPE_CHECKING:
    from finedefics_platform.training.checkpoints import Position
    from finedefics_platform.training.stream import SampleIndex

# A row may stand in a step a few times, in small data; beyond that a step is costly and learns no more.
MOST_REPEATED = 8


def check(experiment: Experiment, dataset: Dataset, *, validating: bool = False) -> None:
    """Refuse an experiment that does not fit its data.

    Args:
        validating: something is called every ``evaluation.every`` steps, so there must be pictures for it.

    Raises:
        FinedeficsError: a feed is empty (of inferred labels: none is sure enough, or there is no table of
            them), has far fewer rows than are asked for in a step, or cannot be shared equally, hard
            negatives were never mined or are fewer than asked for, no picture of a term that learns
            descriptions has one, there is nothing to validate on, DeepSpeed cannot do what is asked or knows
            no such option, or what the adapters or the attention need is not installed.
    """
    from finedefics.adapters import quantization
    from finedefics.backbones.attention import check_installed
    from finedefics_platform.training.options import check_options
    from finedefics_platform.training.refresh import stage_dataset
    from finedefics_platform.training.sharding import deepspeed_settings
    from finedefics_platform.training.stream import SampleIndex, check_divides

    quantization(experiment.adapters.as_settings(), experiment.model.dtype)
    check_installed(experiment.model.attention)
    for stage in experiment.stages:
        seen = stage_dataset(dataset, stage) or dataset
        index = SampleIndex.of(seen, least=experiment.data.inferred_probability)
        check_divides(stage, experiment.resources.processes)
        for feed, rows in stage.feeds.items():
            _check_rows(stage, feed, rows, len(index.require(feed)), seen)
        _check_descriptions(stage, index)
        settings = deepspeed_settings(experiment, stage, experiment.resources.processes)
        check_options(settings, experiment.deepspeed.options)
        if _needs_mined_negatives(experiment, stage):
            _check_negatives(experiment.data.negatives, stage, dataset)
    if validating and experiment.evaluation.every is not None:
        _check_validation(dataset)


def _check_rows(stage: Stage, feed: str, rows: int, there: int, dataset: Dataset) -> None:
    if rows > MOST_REPEATED * there:
        raise wrong_use(
            f"{rows:,} rows a step are asked for, and {dataset.reference} has {there:,}",
            place=f"stages: {stage.name}: feeds.{feed}",
            cure=f"ask for at most {there:,}",
        )


def check_resources(experiment: Experiment) -> None:
    """Refuse what a cluster of this machine will never have; another cluster may still grow."""
    import ray

    if os.environ.get("RAY_ADDRESS"):
        return
    wanted, there = experiment.resources, ray.cluster_resources()
    for kind, each in (("CPU", wanted.cpus_per_worker), ("GPU", wanted.gpus_per_worker)):
        if wanted.processes * each > there.get(kind, 0):
            raise wrong_use(
                f"{wanted.processes} workers ask for {wanted.processes * each:g} {kind}s, "
                f"this machine has {there.get(kind, 0):g}",
                place=f"resources.{kind.lower()}s_per_worker",
                cure="lower resources.workers, or set RAY_ADDRESS to a larger cluster",
            )


def check_layout(experiment: Experiment, saved: "Position | None", run: Location) -> None:
    """Refuse to go on from shards of another layout than the run's, which could not be loaded.

    Raises:
        FinedeficsError: another number of workers or another ZeRO stage saved them.
    """
    workers, zero_stage = experiment.resources.workers, experiment.deepspeed.zero_stage
    if saved is None or (saved.world_size, saved.zero_stage) == (workers, zero_stage):
        return
    raise FinedeficsError(
        f"its checkpoint was saved by {saved.world_size} workers at ZeRO stage {saved.zero_stage}, "
        f"and cannot be loaded by {workers} at stage {zero_stage}",
        place=f"run {run.name}",
        cure=f"go on with --set resources.workers={saved.world_size} "
        f"--set deepspeed.zero_stage={saved.zero_stage}, or start over with --force",
    )


def _check_descriptions(stage: Stage, index: "SampleIndex") -> None:
    for name in ("caption", "object_attribute", "attribute_category"):
        asked = name in stage.terms and stage.terms[name].weight > 0
        if not asked or set(stage.term_feeds(name)) & set(stage.feeds) != {"labelled"}:
            continue  # the other feeds have descriptions by their definition
        if not index.labelled_described:
            raise FinedeficsError(
                f"term {name} learns from descriptions, and no labelled training picture has one",
                place=f"dataset {index.dataset}",
                cure="run `finedefics data describe`, or leave the term out",
            )


def _needs_mined_negatives(experiment: Experiment, stage: Stage) -> bool:
    contrasted = {
        feed
        for name, setting in stage.terms.items()
        if name in CONTRASTIVE_TERMS and setting.weight > 0
        for feed in stage.term_feeds(name)
        if feed in stage.feeds
    }
    return experiment.data.negatives > 0 and bool(contrasted & {"labelled", "captioned"})


def _check_negatives(asked: int, stage: Stage, dataset: Dataset) -> None:
    from finedefics.mining import KEEP
    from finedefics_platform.training.refresh import stage_dataset

    seen = stage_dataset(dataset, stage)
    if seen is None:  # the model mines them itself
        mined = min(KEEP, len(dataset.categories()) - 1)
    else:
        seen.files("negatives")
        mined = seen.mined_negatives()
    if asked > mined:
        # They would be made up to the number with empty rows, and a search would see a plateau.
        raise wrong_use(
            f"{asked} hard negatives are asked for, and {mined} were mined",
            place=f"data.negatives, dataset {dataset.reference}",
            cure=f"ask for at most {mined}, or mine more with `finedefics data mine`",
        )


def _check_validation(dataset: Dataset) -> None:
    labelled = {category: count for category, count in _counts(dataset, "val").items() if category}
    if not sum(labelled.values()):
        raise FinedeficsError(
            "no labelled picture in the split val, so nothing can be checked during training",
            place=f"dataset {dataset.reference}",
            cure="leave out evaluation.every, or add a val split",
        )


def _counts(dataset: Dataset, split: str) -> dict[str, int]:
    return dict(dataset.manifest["counts"].get(split, {}))
