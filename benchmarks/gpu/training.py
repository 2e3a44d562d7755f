"""A Stage I step (forward, backward, AdamW) of a cell: seconds, tokens, utilisation, memory."""

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.gpu.cells import Cell, NotMeasured
from benchmarks.gpu.shapes import SHAPES, TINY, Shape, prepared, untrained
from benchmarks.released_schedule import ReleasedSchedule
from benchmarks.samples import NEGATIVES, Data, make_data
from benchmarks.stage_one import STAGE_ONE
from finedefics.backbones import Backbone
from finedefics.batch import Batch
from finedefics.collation import Collator
from finedefics.flops import StepFlops
from finedefics.objective import Objective

WARM = 2  # steps before those that are timed: allocator, autotuning, compilation
PEAKLESS = "the card's peak is not known: give --peak-tflops"

Step = Callable[[], Tensor]
Loss = Callable[[Any], Tensor]  # of the module, or of the engine around it
Contestants = dict[str, tuple[nn.Module, Loss]]


def shape_of(cell: Cell, tiny: bool) -> Shape:
    """Sizes of the cell's model."""
    return (TINY if tiny else SHAPES)[cell.model]


def check_attention(attention: str, device: str) -> None:
    """NotMeasured where an implementation cannot run here."""
    from transformers.utils import is_flash_attn_2_available

    if attention == "flash_attention_2" and not is_flash_attn_2_available():
        raise NotMeasured("kernel not installed: flash-attn")
    if attention == "flex_attention" and device == "cpu":
        raise NotMeasured("flex_attention has no backward pass on a CPU")


def measure_step(
    cell: Cell, *, data: Data, tiny: bool, rows: int, steps: int, micro: int | None, peak: float | None
) -> dict[str, Any]:
    """Figures of a training cell.

    Args:
        rows: samples a step.
        steps: that are timed.
        micro: rows whose activations are held at a time; None holds all.
        peak: the card's dense TFLOP/s; None where it is not known.

    Raises:
        NotMeasured: the cell cannot be taken here, or its loss is not finite.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # processors emulate bfloat16, many times slower than float32
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    check_attention(cell.attention, device)
    if cell.schedule == "released" and cell.zero:
        raise NotMeasured("the released schedule is measured without shards")
    shape = shape_of(cell, tiny)
    torch.manual_seed(0)
    backbone = untrained(cell.model, shape, cell.edge, device, dtype, cell.attention)
    parameters = sum(p.numel() for p in backbone.parameters())
    prepared(backbone, cell.tuning).train()
    trained = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
    samples = data.random_batch(rows)
    batch = collated(backbone, data, samples, dtype)
    flops = StepFlops(backbone).of(batch)
    useful = batch.sequences.useful + batch.embedded.useful
    if cell.schedule == "packed":
        checkpointing = cell.checkpointing
        objective = Objective(backbone, STAGE_ONE, micro_tokens=micro, checkpointing=checkpointing).to(device)
        module, loss = objective, _ours(batch)
    else:
        backbone.checkpoint_layers(cell.checkpointing)
        released = ReleasedSchedule(backbone, data.categories, NEGATIVES)
        separate = in_dtype(released.collate(samples), dtype)
        module, loss = released, _theirs(separate)
    with stepping(module, loss, cell.zero, dtype, rows) as step:
        seconds, memory = timed(step, steps, device)
    return {
        "seconds": seconds,
        "samples_per_second": rows / seconds,
        "needed_tokens": useful,
        "needed_tokens_per_second": useful / seconds,
        "model_tflops_a_step": flops / 1e12,
        "mfu": flops / seconds / (peak * 1e12) if peak else PEAKLESS,
        "peak_memory_gib": memory,
        "parameters": parameters,
        "trained_parameters": trained,
    }


def collated(backbone: Backbone, data: Data, samples: Sequence[Any], dtype: torch.dtype) -> Batch:
    """Our batch of the samples on the model's device, pictures in its dtype."""
    collate = Collator(backbone.processor, data.categories, STAGE_ONE, negatives=NEGATIVES)
    batch = collate({"labelled": samples}, step=0).to(backbone.device)
    in_dtype({"images": batch.images}, dtype)
    return batch


def in_dtype(batch: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The batch, its pictures' values cast in place."""
    images = batch["images"]
    images.update({name: value.to(dtype) for name, value in images.items() if value.is_floating_point()})
    return batch


def _ours(batch: Batch) -> Loss:
    return lambda module: module(batch).loss


def _theirs(separate: dict[str, Any]) -> Loss:
    return lambda module: module(separate)[0]


@contextmanager
def stepping(module: nn.Module, loss: Loss, zero: int, dtype: torch.dtype, rows: int) -> Iterator[Step]:
    """One optimizer step as a call that gives the loss, by torch alone or under a ZeRO stage."""
    learned = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-5)
    if not zero:

        def plain() -> Tensor:
            optimizer.zero_grad(set_to_none=True)
            found = loss(module)
            found.backward()
            optimizer.step()
            return found.detach()

        yield plain
        return
    start_one_process()
    engine = sharded(module, optimizer, zero, dtype, rows)
    try:

        def under_zero() -> Tensor:
            found = loss(engine)
            engine.backward(found)
            engine.step()
            return found.detach()

        yield under_zero
    finally:
        engine.destroy()


def sharded(module: nn.Module, optimizer: Any, zero: int, dtype: torch.dtype, rows: int) -> Any:
    """A DeepSpeed engine as the platform sets it up."""
    from finedefics_platform.training.sharding import prepare_deepspeed

    engine, *_ = prepare_deepspeed().initialize(
        model=module,
        optimizer=optimizer,
        config={
            "train_micro_batch_size_per_gpu": rows,
            "gradient_accumulation_steps": 1,
            "zero_optimization": {"stage": zero},
            "zero_allow_untested_optimizer": True,
            "bf16": {"enabled": dtype == torch.bfloat16},
            "steps_per_print": 1 << 30,
        },
        dist_init_required=False,
    )
    return engine


def start_one_process() -> None:
    """A process group of this process alone, over nothing that another could reach, for the rest of the run.

    DeepSpeed keeps the first group that it meets.
    """
    if dist.is_initialized():
        return
    os.environ["LOCAL_RANK"] = "0"  # DeepSpeed asks for it by this name
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


def timed(step: Step, steps: int, device: str) -> tuple[float, float | str]:
    """Median seconds of a step, and peak GiB allocated during the timed ones (CUDA only).

    Raises:
        NotMeasured: the loss is not finite, so the step computes something else than it should.
    """
    cuda = device == "cuda"
    seconds, loss = [], torch.zeros(())
    for number in range(steps + WARM):
        if cuda:
            torch.cuda.synchronize()
            if number == WARM:
                torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        loss = step()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    if not math.isfinite(float(loss)):
        raise NotMeasured("the loss is not finite")
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else "counted on CUDA only"
    return statistics.median(seconds[WARM:]), peak


def contestants(backbone: Backbone, samples: list, data: Data, dtype: torch.dtype) -> Contestants:
    """Both schedules over one backbone and the same samples: module and loss."""
    ours = Objective(backbone, STAGE_ONE).to(backbone.device)
    theirs = ReleasedSchedule(backbone, data.categories, NEGATIVES)
    separate = in_dtype(theirs.collate(samples), dtype)
    batch = collated(backbone, data, samples, dtype)
    return {"packed": (ours, _ours(batch)), "released": (theirs, _theirs(separate))}


def gradient_check(device: str) -> dict[str, float]:
    """At toy size: both schedules in float32 against each other, and each in bfloat16 against float32.

    Returns:
        Relative distances of the trained weights' gradients.
    """
    data = make_data()
    rows = data.separate_batch(2)  # no mask has anything to do, so both schedules have one loss
    found: dict[tuple[torch.dtype, str], Tensor] = {}
    stored: dict[str, Tensor] = {}
    for dtype in (torch.float32, torch.bfloat16):
        backbone = prepared(untrained("idefics2", TINY["idefics2"], 64, device, dtype, "sdpa"), "lora")
        stored = stored or {name: value.clone() for name, value in backbone.state_dict().items()}
        backbone.load_state_dict(stored)
        for name, (module, loss) in contestants(backbone, rows, data, dtype).items():
            found[dtype, name] = _gradient(backbone, module, loss)
    exact = {name: found[torch.float32, name] for name in ("packed", "released")}
    return {"schedules_float32": _distance(exact["packed"], exact["released"])} | {
        f"{name}_bfloat16": _distance(found[torch.bfloat16, name], exact[name]) for name in exact
    }


def _gradient(backbone: Backbone, module: nn.Module, loss: Loss) -> Tensor:
    """Gradient of every trained weight, one float64 vector."""
    backbone.zero_grad(set_to_none=True)
    loss(module).backward()
    return torch.cat([p.grad.double().flatten() for p in backbone.parameters() if p.grad is not None])


def _distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())
