"""The training loop of one worker process: every stage of an experiment, in order, on one group of workers.

Ray Train starts it on every rank with the process group ready. All ranks make the same calls in the same
order; only rank 0 speaks.
"""

import logging
import os
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from finedefics.adapters import adapted, apply, merge, quantization
from finedefics.backbones import Backbone, load_backbone
from finedefics.batch import Batch, Collator
from finedefics.errors import FinedeficsError
from finedefics.objective import Objective, ObjectiveOutput
from finedefics.readout import DEFAULT, Readout
from finedefics.terms import ObjectiveSettings, TermSettings
from finedefics_platform.base.digest import digest_of
from finedefics_platform.base.events import EventChannel
from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.experiment import Experiment
from finedefics_platform.config.stage import Stage
from finedefics_platform.data.store import Dataset, open_version
from finedefics_platform.training.checkpoints import (
    Position,
    load_shards,
    resume_point,
    save_and_report,
    save_model,
)
from finedefics_platform.training.meter import Meter
from finedefics_platform.training.sharding import backward_and_step, optimizer_elements, start_engine, whole
from finedefics_platform.training.stream import FeedRows, SampleIndex, TrainingStream, ahead

Validate = Callable[[Backbone, Dataset, Experiment, int, int], dict[str, float]]
STEPS_AHEAD = 2


@dataclass(frozen=True)
class Assignment:
    """What the driver hands to every worker."""

    experiment: Experiment
    workspace: Workspace
    dataset: Location  # of the dataset version
    model: Path  # where the finished model goes
    channel: EventChannel
    validate: Validate | None = None


@dataclass
class Loop:
    """One worker's state."""

    task: Assignment
    rank: int
    world_size: int
    device: torch.device
    dataset: Dataset
    index: SampleIndex
    last_metrics: dict[str, float] = field(default_factory=dict)

    def say(self, name: str, **fields: Any) -> None:
        """An event, from rank 0 only."""
        if self.rank == 0:
            self.task.channel.send(name, **fields)

    def position(self, stage: int, step: int) -> Position:
        """A place in this run."""
        experiment = self.task.experiment
        return Position(stage, step, self.world_size, experiment.deepspeed.zero_stage, experiment.digest())


def run_worker(task: Assignment) -> None:
    """Train every stage from the last checkpoint on, then write the model."""
    loop = _start(task)
    stages = task.experiment.stages
    start = resume_point(loop.position(0, 0))
    if start is not None:
        loop.say("resumed", stage=stages[start.stage].name, step=start.step)
    first, done = (start.stage, start.step) if start else (0, 0)
    rows = _rows(loop, first, done)  # reading starts in the background while the model is loaded
    model = task.experiment.model
    adapters = task.experiment.adapters.as_settings()
    backbone = load_backbone(
        model.path, dtype=model.dtype, train=model.train, quantization=quantization(adapters, model.dtype)
    ).to(loop.device)
    engine = None
    for number in range(first, len(stages)):
        if engine is not None:
            engine.destroy()
            rows, done = _rows(loop, number, 0), 0
        resumed = start is not None and number == first
        if not adapted(backbone):
            apply(backbone, adapters, seed=stage_seed(task.experiment, number), gather=whole)
        engine = _run_stage(loop, backbone, number, rows, done, resumed)
        if adapters.kind != "qlora" or number == len(stages) - 1:
            merge(backbone, gather=partial(whole, written=True))
    templates = task.experiment.data.templates.as_templates()
    save_model(backbone, task.model, loop.rank, templates, model.object_readout)
    loop.say("model", path=str(task.model))
    dist.barrier()  # nobody leaves the group while rank 0 still writes


def _start(task: Assignment) -> Loop:
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.set_num_threads(task.experiment.resources.threads_per_worker)
    _seed(task.experiment.seed, rank)
    _report_configuration(task, rank)
    dataset = open_version(task.dataset)
    return Loop(task, rank, world_size, ray.train.torch.get_device(), dataset, SampleIndex.of(dataset))


def _rows(loop: Loop, number: int, done: int) -> Iterator[tuple[int, FeedRows]]:
    """This rank's rows of a stage after ``done`` steps, read ahead."""
    experiment = loop.task.experiment
    stage, seed = experiment.stages[number], stage_seed(experiment, number)
    stream = TrainingStream(
        loop.dataset,
        stage,
        seed,
        loop.rank,
        loop.world_size,
        done,
        loop.index,
        experiment.data.sampler,
    )
    return ahead(stream, STEPS_AHEAD)


def _run_stage(
    loop: Loop,
    backbone: Backbone,
    number: int,
    rows: Iterator[tuple[int, FeedRows]],
    first: int,
    resumed: bool,
) -> Any:
    """Train one stage and leave its weights in the backbone; returns the engine."""
    experiment = loop.task.experiment
    stage = experiment.stages[number]
    settings = objective_settings(stage, experiment.model.object_readout)
    micro_batch = experiment.deepspeed.micro_batch
    objective = Objective(backbone, settings, micro_batch=micro_batch).to(loop.device)
    engine = start_engine(objective, experiment, stage, loop.world_size)
    if resumed:
        load_shards(engine, loop.rank)
    loop.say("stage", stage=stage.name, number=number, step=first, steps=stage.steps)
    collate = Collator(
        backbone.processor,
        loop.dataset.categories(),
        settings,
        negatives=experiment.data.negatives,
        templates=experiment.data.templates.as_templates(),
        seed=stage_seed(experiment, number),
        attributes=loop.index.attributes,
    )
    objective.train()
    meter = Meter()
    for step, batch in ahead(_collated(rows, collate), STEPS_AHEAD):
        meter.data_arrived()
        output: ObjectiveOutput = engine(batch.to(loop.device))
        terms = _finite_terms(output, stage, step)
        rate = engine.get_lr()[0]
        norm = backward_and_step(engine, output.loss)
        meter.step_done(output)
        if step == first:
            _report_layout(loop, engine, stage)
        done = step + 1
        if done % experiment.tracking.log_every == 0 or done == stage.steps:
            total = sum(settings.terms[name].weight * value for name, value in terms.items())
            loop.last_metrics = {
                "loss": total,
                **{f"loss_{name}": value for name, value in terms.items()},
                **{f"left_out_{name}": float(count) for name, count in output.left_out.items()},
                **_temperatures(objective),
                "learning_rate": rate,
                "gradient_norm": norm,
                **meter.rates(sum(stage.feeds.values()), loop.device),
            }
            loop.say("step", stage=stage.name, step=done, metrics=loop.last_metrics)
        _check_and_save(loop, engine, number, stage, done)
        meter.resume()
    loop.say("stage_done", stage=stage.name, step=stage.steps)
    return engine


def _check_and_save(loop: Loop, engine: Any, number: int, stage: Stage, done: int) -> None:
    """Validation and checkpoints where they are due; each costs a report that all ranks make."""
    import ray.train

    experiment = loop.task.experiment
    every, saving = experiment.evaluation.every, experiment.tracking.checkpoint_every
    last = done == stage.steps
    checked: dict[str, float] = {}
    if loop.task.validate is not None and every is not None and (done % every == 0 or last):
        checked = _validated(loop, engine, loop.task.validate)
        loop.say("validation", stage=stage.name, step=done, metrics=checked)
    reported = {**loop.last_metrics, **checked, "stage": float(number), "step": float(done)}
    if last or (saving is not None and done % saving == 0):
        save_and_report(engine, loop.position(number, done), reported, loop.rank)
        loop.say("checkpoint", stage=stage.name, step=done)
    elif checked:
        ray.train.report(reported)


def _validated(loop: Loop, engine: Any, validate: Validate) -> dict[str, float]:
    engine.eval()
    with torch.no_grad():
        figures = validate(
            engine.module.backbone, loop.dataset, loop.task.experiment, loop.rank, loop.world_size
        )
    engine.train()
    return {name: float(value) for name, value in figures.items()}


def objective_settings(stage: Stage, object_readout: Readout = DEFAULT) -> ObjectiveSettings:
    """The method's settings of a stage; terms of weight 0 and feeds the stage lacks are left out."""
    return ObjectiveSettings(
        terms={
            name: TermSettings(
                setting.weight, tuple(feed for feed in stage.term_feeds(name) if feed in stage.feeds)
            )
            for name, setting in stage.terms.items()
            if setting.weight > 0
        },
        object_attribute_temperature=stage.temperatures.object_attribute,
        attribute_category_temperature=stage.temperatures.attribute_category,
        learnable_temperatures=stage.temperatures.learnable,
        object_readout=object_readout,
    )


def stage_seed(experiment: Experiment, number: int) -> int:
    """Seed of a stage's order, so that a second stage does not repeat the order of the first."""
    return int(np.random.SeedSequence([experiment.seed, number]).generate_state(1)[0])


def _collated(rows_of: Iterable[tuple[int, FeedRows]], collate: Collator) -> Iterator[tuple[int, Batch]]:
    return ((step, collate(rows, step=step)) for step, rows in rows_of)


def _finite_terms(output: ObjectiveOutput, stage: Stage, step: int) -> dict[str, float]:
    """The terms as numbers; every rank sees the same ones, so every rank stops where one is not finite."""
    values = torch.stack([value.float() for value in output.terms.values()]).tolist()
    terms = dict(zip(output.terms, values, strict=True))
    for name, value in terms.items():
        if not np.isfinite(value):
            raise FinedeficsError(
                f"term {name} is {value} at step {step + 1}",
                place=f"stage {stage.name}",
                cure="lower its learning_rate or gradient_clip, or look at `finedefics data inspect`",
            )
    return terms


def _temperatures(objective: Objective) -> dict[str, float]:
    with whole([objective.log_temperatures]):
        return objective.temperatures()


def _seed(seed: int, rank: int) -> None:
    # Ranks differ where randomness is of a row (dropout); weights made new are broadcast by DeepSpeed.
    random.seed(seed + rank)
    np.random.seed((seed + rank) % 2**32)
    torch.manual_seed(seed + rank)


def _report_configuration(task: Assignment, rank: int) -> None:
    """Log the configuration as each worker has it; ranks that differ would train nonsense in silence."""
    own = digest_of(task.experiment.model_dump(mode="json"))
    digests: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(digests, own)
    if len(set(digests)) > 1:
        raise FinedeficsError(
            f"workers have different configurations ({', '.join(digests)})",
            place="effective configuration",
            cure="use one version of the platform on every node",
        )
    if rank == 0:
        configuration = task.experiment.model_dump(mode="json")
        task.channel.send(
            "configuration", digest=task.experiment.digest(), digests=digests, configuration=configuration
        )


def _report_layout(loop: Loop, engine: Any, stage: Stage) -> None:
    """Who trains, and how much optimizer state each holds: ZeRO's partition as a fact, not as a setting."""
    import ray

    own = {
        "rank": loop.rank,
        "pid": os.getpid(),
        "node": ray.get_runtime_context().get_node_id(),
        "device": str(loop.device),
        "optimizer_elements": optimizer_elements(engine),
    }
    workers: list[Any] = [None] * loop.world_size
    dist.all_gather_object(workers, own)
    loop.say(
        "facts",
        stage=stage.name,
        world_size=loop.world_size,
        zero_stage=engine.zero_optimization_stage(),
        workers=workers,
    )
