"""The training loop of one worker process: every stage of an experiment, in order, on one group of workers.

It starts on every rank with the process group ready. All ranks make the same calls in the same
order; only rank 0 speaks.
"""

import logging
import random
import socket
from collections.abc import Iterable
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from finedefics.adapters import adapted, apply, merge
from finedefics.backbones import Backbone
from finedefics.batch import Batch
from finedefics.collation import Collator
from finedefics.errors import FinedeficsError
from finedefics.flops import StepFlops
from finedefics.objective import Objective, ObjectiveOutput
from finedefics.readout import DEFAULT, Readout
from finedefics.terms import ObjectiveSettings, TermSettings
from finedefics_platform.base.events import EventWriter
from finedefics_platform.config.experiment import Experiment
from finedefics_platform.config.stage import Stage
from finedefics_platform.data.store import open_version
from finedefics_platform.training.assignment import Assignment, Rank, Validate
from finedefics_platform.training.checkpoints import (
    load_shards,
    resume_point,
    save_and_report,
    save_model,
)
from finedefics_platform.training.collating import STEPS_AHEAD, collated, prepare, processes_of
from finedefics_platform.training.computing import kept, stage_objective
from finedefics_platform.training.identity import base_folder
from finedefics_platform.training.late import LateFigures
from finedefics_platform.training.loading import keep_adapters, load_model, merge_kept
from finedefics_platform.training.loop import Loop
from finedefics_platform.training.memory import named_when_exhausted
from finedefics_platform.training.meter import Meter
from finedefics_platform.training.refresh import mine_with_model, stage_dataset
from finedefics_platform.training.reports import report_configuration, report_layout
from finedefics_platform.training.sharding import backward_and_step, start_engine, whole
from finedefics_platform.training.stopping import StopWatch, request_of
from finedefics_platform.training.stream import Ahead, FeedRows, SampleIndex, TrainingStream, ahead
from finedefics_platform.training.trained import STOPPED, TOKEN


def run_worker(task: Assignment, rank: Rank) -> None:
    """Train every stage from the last checkpoint on, then write the model."""
    check_storage(task)
    events = EventWriter(task.events, task.attempt) if rank.number == 0 else None
    try:
        with StopWatch(request_of(task.run, task.attempt), rank.number, saves=rank.saves) as stop:
            _train(_start(task, rank, events, stop))
    finally:
        if events is not None:
            events.close()


def _train(loop: Loop) -> None:
    task = loop.task
    stages = task.experiment.stages
    start = resume_point(loop.position(0, 0)) if loop.saves else None
    first, done = (start.stage, start.step) if start else (0, 0)
    report_configuration(loop, first, done)
    if start is not None:
        loop.say("resumed", **loop.at(first, done))
    prepare(processes_of(task.experiment.resources, loop.device))
    rows = _rows(loop, first, done)  # reading starts in the background while the model is loaded
    model = task.experiment.model
    adapters = task.experiment.adapters.as_settings()
    merges = adapters.kind in ("lora", "dora")  # after each stage; see `Adapters`
    backbone = load_model(task.experiment, base_folder(task.workspace, model), loop.device, loop.world_size)
    if merges:
        for stage in stages[:first]:
            merge_kept(backbone, loop.adapters(stage))
    engine = None
    for number in range(first, len(stages)):
        if engine is not None:
            engine.destroy()
            rows, done = _rows(loop, number, 0), 0
        resumed = start is not None and number == first
        if not adapted(backbone):
            apply(backbone, adapters, seed=stage_seed(task.experiment, number), gather=whole)
        engine = _run_stage(loop, backbone, number, rows, done, resumed)
        last = number == len(stages) - 1
        if merges and loop.saves and not last:
            keep_adapters(backbone, loop.adapters(stages[number]), loop.rank)
        if merges or last:
            merge(backbone, gather=partial(whole, written=True))
    templates = task.experiment.data.templates.as_templates()
    save_model(backbone, task.model, loop.rank, templates, model.object_readout)
    loop.say("model", path=task.workspace.name_of(task.model))
    if engine is not None:  # the process may train another run after this one
        engine.destroy()
    dist.barrier()  # nobody leaves the group while rank 0 still writes


def check_storage(task: Assignment) -> None:
    """FinedeficsError where this node does not see what the driver wrote: its disk is another one."""
    try:
        seen = (task.run / TOKEN).read_text()
    except FileNotFoundError:
        seen = ""
    if seen != task.token:
        raise FinedeficsError(
            f"the node {socket.gethostname()} does not see the workspace",
            place=str(task.workspace.root),
            cure="set FINEDEFICS_HOME to a folder that every node mounts, or to an object store (s3://…)",
        )


def _start(task: Assignment, rank: Rank, events: EventWriter | None, stop: StopWatch) -> Loop:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.set_num_threads(task.experiment.resources.threads_per_worker)
    _seed(task.experiment.seed, rank.number)
    dataset = open_version(task.dataset)
    data = task.experiment.data
    index = SampleIndex.of(dataset, data.sampler, data.inferred_probability)
    return Loop(task, rank.number, rank.of, rank.device, rank.saves, dataset, index, events, stop)


def _rows(loop: Loop, number: int, done: int) -> Ahead[tuple[int, FeedRows]] | None:
    """This rank's rows of a stage after ``done`` steps, read ahead; None where negatives are mined first."""
    experiment = loop.task.experiment
    stage, data, seed = experiment.stages[number], experiment.data, stage_seed(experiment, number)
    dataset = stage_dataset(loop.dataset, stage, loop.task.run)
    if dataset is None:
        return None
    index = loop.index
    if dataset is not loop.dataset:
        index = SampleIndex.of(dataset, data.sampler, data.inferred_probability)
    stream = TrainingStream(
        dataset, stage, seed, loop.rank, loop.world_size, done, index, sampler=data.sampler
    )
    return ahead(stream, STEPS_AHEAD)


def _run_stage(
    loop: Loop,
    backbone: Backbone,
    number: int,
    rows: Ahead[tuple[int, FeedRows]] | None,
    first: int,
    resumed: bool,
) -> Any:
    """Train one stage and leave its weights in the backbone; returns the engine."""
    experiment = loop.task.experiment
    stage = experiment.stages[number]
    settings = objective_settings(stage, experiment.model.object_readout)
    compute = experiment.compute
    objective = stage_objective(backbone, settings, compute, loop.task.workspace, loop.device)
    engine = start_engine(objective, experiment, stage, loop.world_size)
    if resumed:
        load_shards(engine, loop.rank)
    loop.say("stage", **loop.at(number, first), number=number, steps=stage.steps)
    if rows is None:
        _mine(loop, engine, number, first)
        rows = _rows(loop, number, first)
    data = stage_dataset(loop.dataset, stage, loop.task.run)
    assert rows is not None
    assert data is not None
    collate = Collator(
        backbone.processor,
        loop.dataset.categories(),
        settings,
        negatives=experiment.data.negatives,
        templates=experiment.data.templates.as_templates(),
        seed=stage_seed(experiment, number),
        attributes=loop.dataset.attribute_names(),
        similar=data.neighbours(),
        micro_tokens=compute.micro_tokens,
        features=objective.features,
    )
    made = collated(rows, collate, processes_of(experiment.resources, loop.device), loop.device)
    with kept(objective.features) as figures, closing(made) as batches:
        _steps(loop, engine, number, first, batches)
    loop.say("stage_done", **loop.at(number, stage.steps), **figures)
    return engine


def _steps(loop: Loop, engine: Any, number: int, first: int, batches: Iterable[tuple[int, Batch]]) -> None:
    """Train a stage from step ``first`` on, with the batches of its steps."""
    experiment = loop.task.experiment
    stage, log_every = experiment.stages[number], experiment.tracking.log_every
    objective: Objective = engine.module
    objective.train()
    meter = Meter(StepFlops(objective.backbone), sum(stage.feeds.values()), loop.device)

    def tell(done: int, metrics: dict[str, float]) -> None:
        loop.say("step", **loop.at(number, done), metrics=metrics)

    late = LateFigures(stage.name, tell)
    place, image_token = f"stage {stage.name}, rank {loop.rank}", objective.backbone.image_token_id
    for step, batch in batches:
        meter.data_arrived(batch)
        with late.earlier_first(), named_when_exhausted(batch, place, experiment.compute, image_token):
            output: ObjectiveOutput = engine(batch.to(loop.device))
            rate = engine.get_lr()[0]
            norm = backward_and_step(engine, output.loss)
        meter.step_done()
        if step == first:
            report_layout(loop, engine, loop.at(number, first))
        done = step + 1
        logged = done % log_every == 0 or done == stage.steps
        metrics = _metrics(objective, output, rate, norm, meter) if logged else None
        late.add(done, output.terms, metrics)
        ends = loop.stop.ends_after(loop.at(number, done)["total_step"])
        if ends or _validates(loop, stage, done) or _saves(loop, stage, done):
            late.settle()
            _check_and_save(loop, engine, number, stage, done, ends=ends)
        meter.resume()
    late.settle()


def _metrics(
    objective: Objective, output: ObjectiveOutput, rate: float, norm: Tensor | float, meter: Meter
) -> dict[str, Tensor | float]:
    """What is recorded of a step. All ranks call it; nothing in it waits for the device."""
    terms = objective.settings.terms
    return {
        "loss": torch.stack([terms[name].weight * value for name, value in output.terms.items()]).sum(),
        **{f"loss_{name}": value for name, value in output.terms.items()},
        **{f"left_out_{name}": count for name, count in output.left_out.items()},
        **{f"coverage_{name}": share for name, share in output.coverage.items()},
        **_temperatures(objective),
        "learning_rate": rate,
        "gradient_norm": norm,
        **meter.rates(),
    }


def _validates(loop: Loop, stage: Stage, done: int) -> bool:
    every = loop.task.experiment.evaluation.every
    if loop.task.validate is None or every is None:
        return False
    return done % every == 0 or done == stage.steps


def _saves(loop: Loop, stage: Stage, done: int) -> bool:
    every = loop.task.experiment.tracking.checkpoint_every
    return loop.saves and (done == stage.steps or (every is not None and done % every == 0))


def _check_and_save(loop: Loop, engine: Any, number: int, stage: Stage, done: int, *, ends: bool) -> None:
    """Validation and checkpoints where they are due; ``ends``: the run was asked to end here."""
    if loop.task.validate is not None and _validates(loop, stage, done):
        loop.say("validation", **loop.at(number, done), metrics=_validated(loop, engine, loop.task.validate))
    if ends or _saves(loop, stage, done):
        if loop.events is not None:
            loop.events.flush()  # what led to a checkpoint is as durable as it
        save_and_report(engine, loop.position(number, done), loop.rank)
        loop.say("checkpoint", **loop.at(number, done))
    if ends:
        loop.say(STOPPED, **loop.at(number, done))
        if loop.events is not None:
            loop.events.flush()
        loop.stop.wait_for_the_end()


def _mine(loop: Loop, engine: Any, number: int, done: int) -> None:
    """A stage's negatives by the model as it stands, before the stage's first step."""
    experiment = loop.task.experiment
    stage = experiment.stages[number]
    if done:  # with these weights they would be others than those that the stage began with
        raise FinedeficsError(
            "the negatives that the model mined are missing",
            place=f"{loop.task.run / 'negatives' / stage.name}",
            cure="start the run over with --force",
        )
    loop.say("mining", **loop.at(number, 0))
    engine.eval()
    with torch.no_grad():
        mine_with_model(
            engine.module.backbone, loop.dataset, experiment, stage, loop.task.run, loop.rank, loop.world_size
        )
    engine.train()


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
        learn_prompt=stage.learn_prompt,
    )


def stage_seed(experiment: Experiment, number: int) -> int:
    """Seed of a stage's order, so that a second stage does not repeat the order of the first."""
    return int(np.random.SeedSequence([experiment.seed, number]).generate_state(1)[0])


def _temperatures(objective: Objective) -> dict[str, Tensor]:
    with whole([objective.log_temperatures]):
        return objective.temperatures()


def _seed(seed: int, rank: int) -> None:
    # Ranks differ where randomness is of a row (dropout); weights made new are broadcast by DeepSpeed.
    random.seed(seed + rank)
    np.random.seed((seed + rank) % 2**32)
    torch.manual_seed(seed + rank)
