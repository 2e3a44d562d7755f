"""A real step of the largest batch, forward and backward, in a process of its own: what it takes at its peak.

On a CPU the peak is read from ``/proc`` (Linux). The batch is that of one rank, its loss without the others.
"""

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from finedefics_platform.base.resident import can_be_told, forget_peak, peak, resident
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.experiment import Experiment
from finedefics_platform.training.forecast.forecast import BATCHES, Forecast
from finedefics_platform.training.forecast.source import batches, dataset_of, source_of

LARGEST = 2 * 2**30  # bytes that a forecast may have, for its step to be run on the side
# What a rank holds in a forward and backward pass, weights and gradients included.
PARTS = ("weights", "gradients", "pictures", "activations", "logits", "gathered embeddings")
# else glibc keeps freed megabytes as chance has it, and a peak is another in every run
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 16), "MALLOC_TRIM_THRESHOLD_": str(1 << 16)}


@dataclass(frozen=True)
class Measured:
    """Peak bytes of a step that was run, and what was foretold of the same parts."""

    stage: str
    bytes: int
    foretold: int


def measured(workspace: Workspace, experiment: Experiment, told: Forecast) -> Measured | None:
    """Run the largest stage's batch once; None where model or data are not at hand, or too large for it."""
    stage = told.largest
    foretold = sum(portion.bytes for portion in stage.memory if portion.part in PARTS)
    if foretold > LARGEST or not can_be_told():
        return None
    source, dataset = source_of(workspace, experiment), dataset_of(workspace, experiment)
    if source.processor is None or dataset is None or experiment.adapters.kind == "qlora":
        return None
    number = told.stages.index(stage)
    with _environment(_ALLOCATOR):
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as process:
            taken = process.submit(_step, workspace, experiment, number).result()
    return Measured(stage.name, taken, foretold)


def _step(workspace: Workspace, experiment: Experiment, number: int) -> int:
    """Bytes that weights, a batch and one step of it take in this process at their peak."""
    import torch

    from finedefics.adapters import apply
    from finedefics.backbones import load_backbone
    from finedefics.objective import Objective
    from finedefics_platform.training.identity import base_folder
    from finedefics_platform.training.worker import objective_settings

    torch.set_num_threads(1)
    torch.manual_seed(0)
    stage, model = experiment.stages[number], experiment.model
    source, dataset = source_of(workspace, experiment), dataset_of(workspace, experiment)
    assert dataset is not None, "it was there a moment ago"
    backbone = load_backbone(
        base_folder(workspace, model), dtype=model.dtype, train=model.train, processor=model.processor
    )
    apply(backbone, experiment.adapters.as_settings())
    backbone.model.to(backbone.dtype)
    objective = Objective(backbone, objective_settings(stage, model.object_readout)).train()
    # a small step first: what libraries set aside once is not the batch's doing
    few = stage.model_copy(update={"feeds": dict.fromkeys(stage.feeds, 2 * experiment.resources.processes)})
    objective(batches(source, experiment, few, dataset, 1)[0]).loss.backward()
    objective.zero_grad(set_to_none=True)
    before = resident()
    made = batches(source, experiment, stage, dataset, BATCHES)
    batch = max(made, key=lambda each: each.sequences.ids.numel() + each.embedded.ids.numel())
    del made
    forget_peak()
    objective(batch).loss.backward()
    weights = sum(parameter.nbytes for parameter in backbone.parameters())
    return weights + peak() - before


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Variables that processes started inside begin with."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
