"""Peak memory of a step, a process each (Linux): 256 rows against 32 at one budget, checkpointed layers."""

import json
import os
import statistics
import subprocess
import sys
from dataclasses import replace

from benchmarks.registry import Result, benchmark
from benchmarks.samples import NEGATIVES, make_data
from benchmarks.samples import SIZES as MODEL
from finedefics_platform.base.resident import can_be_told, forget_peak, peak, resident

SIZES = (32, 256)
MICRO_TOKENS = 2048  # less than the smaller batch has, so that both are divided
REPEATS = 3
LAYERS = 16  # each layer's own activations are a small part then
# else glibc keeps freed blocks as chance has it: at 1 MiB, 256 rows read 115 or 553 MiB, 33 of them live
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 16)}


@benchmark("contrastive_memory")
def contrastive_memory() -> dict[str, Result]:
    """Ratio of the memory that a step takes above what model, optimizer and batch take already."""
    if not can_be_told():
        print("contrastive_memory: left out, there is no /proc to read peaks from", file=sys.stderr)
        return {}
    runs = [[_measured(size, MICRO_TOKENS) for size in SIZES] for _ in range(REPEATS)]
    whole = _measured(SIZES[1], None)
    ratios = [large / small for small, large in runs]
    small, large = (statistics.median(column) for column in zip(*runs, strict=True))
    how = (
        f"peak resident memory of a step above the process before it: {small:.0f} MiB for {SIZES[0]} rows, "
        f"{large:.0f} MiB for {SIZES[1]}, whose rows share more texts, at a budget of {MICRO_TOKENS} tokens "
        f"({whole:.0f} MiB undivided)"
    )
    spread = (min(ratios), max(ratios))
    return {"contrastive_memory": Result(statistics.median(ratios), "times", "lower", 1.3, spread, how)}


@benchmark("step_memory_checkpointed")
def step_memory_checkpointed() -> dict[str, Result]:
    """Ratio of the memory that a step takes above the process before it, layers checkpointed over kept."""
    if not can_be_told():
        print("step_memory_checkpointed: left out, there is no /proc to read peaks from", file=sys.stderr)
        return {}
    runs = [
        [_measured(SIZES[0], None, layers=LAYERS, checkpointing=on) for on in (True, False)]
        for _ in range(REPEATS)
    ]
    ratios = [checkpointed / kept for checkpointed, kept in runs]
    checkpointed, kept = (statistics.median(column) for column in zip(*runs, strict=True))
    how = (
        f"peak resident memory of an undivided step of {SIZES[0]} rows above the process before it, a "
        f"language model of {LAYERS} layers: {checkpointed:.0f} MiB checkpointed, {kept:.0f} MiB kept"
    )
    spread = (min(ratios), max(ratios))
    return {"step_memory_checkpointed": Result(statistics.median(ratios), "times", "lower", 0.5, spread, how)}


def _measured(
    size: int, micro_tokens: int | None, *, layers: int = MODEL.text_layers, checkpointing: bool = False
) -> float:
    asked = (size, micro_tokens or 0, layers, int(checkpointing))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", *map(str, asked)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | ALLOCATOR,
    )
    return float(json.loads(done.stdout.splitlines()[-1]))


def _step(size: int, micro_tokens: int, layers: int, checkpointing: int) -> float:
    """MiB that a forward and backward of ``size`` rows adds to this process's peak."""
    import torch

    from benchmarks.stage_one import STAGE_ONE
    from finedefics.base_model import untrained_backbone
    from finedefics.collation import Collator
    from finedefics.objective import Objective

    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = make_data()
    backbone = untrained_backbone(replace(MODEL, text_layers=layers))
    objective = Objective(
        backbone, STAGE_ONE, micro_tokens=micro_tokens or None, checkpointing=bool(checkpointing)
    )
    objective.train()  # layers are checkpointed in training alone
    collate = Collator(
        backbone.processor, data.categories, STAGE_ONE, negatives=NEGATIVES, micro_tokens=micro_tokens or None
    )
    # a step of two rows first: gradients and library workspaces are not the batch's doing
    objective(collate({"labelled": data.random_batch(2)}, step=0)).loss.backward()
    batch = collate({"labelled": data.random_batch(size)}, step=0)
    before = resident()
    forget_peak()
    objective(batch).loss.backward()
    return (peak() - before) / 2**20


if __name__ == "__main__":
    print(json.dumps(_step(*map(int, sys.argv[1:]))))
