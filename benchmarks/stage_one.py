"""Stage I: our step against the six separate passes of the released schedule, same model and samples."""

import copy
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from benchmarks.registry import Result, benchmark, in_turn, speedup
from benchmarks.released_schedule import ReleasedSchedule
from benchmarks.samples import NEGATIVES, SIZES, make_data
from finedefics.base_model import untrained_backbone
from finedefics.batch import Batch, Collator, ObjectiveSettings, TermSettings
from finedefics.objective import Objective

REPEATS = 7
LABELLED = ("labelled",)
STAGE_ONE = ObjectiveSettings(
    {
        "answer": TermSettings(1.0, LABELLED),
        "object_attribute": TermSettings(0.5, LABELLED),
        "attribute_category": TermSettings(0.5, LABELLED),
        "category_category": TermSettings(0.5, LABELLED),
    }
)
# what the profiler calls the operations of a kind, first match first
KINDS = {
    "attention": ("attention",),
    "optimizer": ("Optimizer", "_foreach", "adam"),
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "mkldnn"),
}
AIMS = {"exact": 1.3, "sampler": 2.0, "one_pass": 2.8}


@benchmark(*(f"stage1_speedup_{mode}{suffix}" for mode in AIMS for suffix in ("", "_batch8")))
def stage_one_speedups() -> dict[str, Result]:
    """The three ways of our step at batch 32 and at batch 8."""
    found = {}
    for size, suffix in ((32, ""), (8, "_batch8")):
        for mode, result in _speedups(size).items():
            found[f"stage1_speedup_{mode}{suffix}"] = result
    return found


def _speedups(size: int) -> dict[str, Result]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = make_data()
    start = untrained_backbone(SIZES)
    shuffled, confusable = data.random_batch(size), data.confusable_batch(size)
    contestants: dict[str, Callable[[], None]] = {}
    tokens: dict[str, str] = {}
    for name, samples in (("released", shuffled), ("released on the confusable batch", confusable)):
        model = ReleasedSchedule(copy.deepcopy(start), data.categories, NEGATIVES)
        batch = model.collate(samples)
        contestants[name] = _step(model, lambda model=model, batch=batch: model(batch)[0])
    modes = {
        "exact": (shuffled, NEGATIVES, "eos"),
        "sampler": (confusable, 0, "eos"),
        "one_pass": (confusable, 0, "prompt"),
    }
    for name, (samples, negatives, readout) in modes.items():
        settings = replace(STAGE_ONE, object_readout=readout)
        objective = Objective(copy.deepcopy(start), settings)
        ours = Collator(start.processor, data.categories, settings, negatives=negatives)(
            {"labelled": samples}, step=0
        )
        contestants[name] = _step(objective, lambda o=objective, b=ours: o(b).loss)
        tokens[name] = _tokens(ours)
    _check_equal_losses(start, data, min(size, 24))
    seconds = in_turn(contestants, REPEATS)
    found = {}
    for name, (samples, *_) in modes.items():
        slow = "released" if samples is shuffled else "released on the confusable batch"
        own = statistics.median(seconds[name])
        shares = _profile(contestants[name])
        how = (
            f"batch {size}, forward, backward and optimizer step: six padded passes "
            f"{statistics.median(seconds[slow]):.2f} s, ours {own:.2f} s ({tokens[name]}; {shares})"
        )
        found[name] = speedup(seconds[slow], seconds[name], aim=AIMS[name], how=how)
    return found


def _step(model: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    return step


def _profile(step: Callable[[], None]) -> str:
    """Where a step's time goes, by the kind of operation."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    seconds = dict.fromkeys(("matrix products", "attention", "optimizer", "rest"), 0.0)
    for event in profile.key_averages():
        kind = next((k for k, marks in KINDS.items() if any(m in event.key for m in marks)), "rest")
        seconds[kind] += event.self_cpu_time_total
    total = sum(seconds.values())
    return ", ".join(f"{kind} {100 * spent / total:.0f} %" for kind, spent in seconds.items())


def _tokens(batch: Batch) -> str:
    forwarded = batch.embedded.ids.numel() + batch.sequences.ids.numel()
    useful = batch.embedded.useful + batch.sequences.useful
    return f"{useful} useful of {forwarded} forwarded tokens"


def _check_equal_losses(start: Any, data: Any, size: int) -> None:
    """On a batch where no mask has anything to do, both schedules must compute the same losses."""
    samples = data.separate_batch(size)
    theirs = ReleasedSchedule(start, data.categories, NEGATIVES)
    ours = Objective(start, STAGE_ONE)
    collate = Collator(start.processor, data.categories, STAGE_ONE, negatives=NEGATIVES)
    with torch.no_grad():
        expected = theirs(theirs.collate(samples))[1]
        found = ours(collate({"labelled": samples}, step=0)).terms
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


@benchmark("text_padding")
def text_padding() -> dict[str, Result]:
    """Padding of the packed passes of a Stage I step."""
    data = make_data()
    collate = Collator(untrained_backbone(SIZES).processor, data.categories, STAGE_ONE, negatives=NEGATIVES)
    shares = []
    for _ in range(REPEATS):
        batch = collate({"labelled": data.random_batch(32)}, step=0)
        forwarded = batch.embedded.ids.numel() + batch.sequences.ids.numel()
        shares.append(1 - (batch.embedded.useful + batch.sequences.useful) / forwarded)
    how = (
        "share of padding among the tokens of both packed passes, batch 32, descriptions of 60 to 100 tokens"
    )
    spread = (min(shares), max(shares))
    return {"text_padding": Result(statistics.median(shares), "share", "lower", 0.05, spread, how)}
