"""Stage I: our step against the six separate passes of the released schedule, same model and samples."""

import copy
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch

from benchmarks.registry import Result, benchmark, in_turn, speedup
from benchmarks.released_schedule import ReleasedSchedule
from benchmarks.samples import NEGATIVES, SIZES, Data, make_data
from finedefics.backbones import Backbone
from finedefics.base_model import untrained_backbone
from finedefics.batch import Batch
from finedefics.collation import Collator
from finedefics.objective import Objective
from finedefics.readout import Readout
from finedefics.records import Sample
from finedefics.terms import ObjectiveSettings, TermSettings

T = TypeVar("T")
Contestants = dict[str, Callable[[], object]]
COLLATION = ", collation"
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


class Timed(Objective):
    """The objective, which notes the seconds of each part of its forward pass in ``spent``."""

    spent: defaultdict[str, float]

    def _timed(self, part: str, function: Callable[..., T], *inputs: Any) -> T:
        started = time.perf_counter()
        found = function(*inputs)
        self.spent[part] += time.perf_counter() - started
        return found

    def _encode_images(self, *inputs: Any) -> Any:
        return self._timed("pictures", super()._encode_images, *inputs)

    def _embed(self, *inputs: Any) -> Any:
        return self._timed("objects and texts", super()._embed, *inputs)

    def _generation(self, *inputs: Any) -> Any:
        return self._timed("answers", super()._generation, *inputs)

    def _contrast(self, *inputs: Any) -> Any:
        return self._timed("contrast", super()._contrast, *inputs)


def _speedups(size: int) -> dict[str, Result]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = make_data()
    start = untrained_backbone(SIZES)
    shuffled, confusable = data.random_batch(size), data.confusable_batch(size)
    contestants: Contestants = {}
    theirs = {
        name: _add_released(contestants, name, start, data, samples)
        for name, samples in (("released", shuffled), ("released on the confusable batch", confusable))
    }
    modes: dict[str, tuple[list[Sample], int, Readout]] = {
        "exact": (shuffled, NEGATIVES, "eos"),
        "sampler": (confusable, 0, "eos"),
        "one_pass": (confusable, 0, "prompt"),
    }
    ours = {name: _add_ours(contestants, name, start, data, *mode) for name, mode in modes.items()}
    _check_equal_losses(start, data, min(size, 24))
    seconds = in_turn(contestants, REPEATS)
    each = {name: statistics.median(times) for name, times in seconds.items()}
    found = {}
    for name, (objective, batch) in ours.items():
        slow = "released" if modes[name][0] is shuffled else "released on the confusable batch"
        tokens = f"{_tokens(batch)}, the six passes {theirs[slow]}"
        where = f"{tokens}; {_shares(objective.spent)}; {_profile(contestants[name])}"
        how = (
            f"batch {size}, forward, backward and optimizer step: six padded passes {each[slow]:.2f} s, "
            f"ours {each[name]:.2f} s ({where}); collation, ahead of the step and not counted: "
            f"{each[slow + COLLATION]:.3f} and {each[name + COLLATION]:.3f} s"
        )
        found[name] = speedup(seconds[slow], seconds[name], aim=AIMS[name], how=how)
    return found


def _add_released(to: Contestants, name: str, start: Backbone, data: Data, samples: list[Sample]) -> int:
    """Adds the six passes and their collation; returns the tokens they forward."""
    model = ReleasedSchedule(copy.deepcopy(start), data.categories, NEGATIVES)
    to[name + COLLATION] = collate = partial(model.collate, samples)
    batch = collate()
    to[name] = partial(take_step, model, partial(released_loss, model, batch), optimizer_of(model))
    return model.forwarded_tokens(batch)


def _add_ours(
    to: Contestants,
    name: str,
    start: Backbone,
    data: Data,
    samples: list[Sample],
    negatives: int,
    readout: Readout,
) -> tuple[Timed, Batch]:
    settings = replace(STAGE_ONE, object_readout=readout)
    objective = Timed(copy.deepcopy(start), settings)
    objective.spent = defaultdict(float)
    collator = Collator(start.processor, data.categories, settings, negatives=negatives)
    to[name + COLLATION] = collate = partial(collator, {"labelled": samples}, step=0)
    batch = collate()
    to[name] = partial(take_step, objective, partial(our_loss, objective, batch), optimizer_of(objective))
    return objective, batch


def released_loss(model: ReleasedSchedule, batch: dict[str, object]) -> torch.Tensor:
    """Total loss of the six passes."""
    return model(batch)[0]


def our_loss(objective: Objective, batch: Batch) -> torch.Tensor:
    """Total loss of the packed passes."""
    return objective(batch).loss


def optimizer_of(model: torch.nn.Module) -> torch.optim.Optimizer:
    """AdamW on all trained weights."""
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)


def take_step(
    model: torch.nn.Module, loss: Callable[[], torch.Tensor], optimizer: torch.optim.Optimizer
) -> None:
    """Forward, backward and optimizer step."""
    optimizer.zero_grad(set_to_none=True)
    value = loss()
    started = time.perf_counter()
    value.backward()
    learned = time.perf_counter()
    optimizer.step()
    if isinstance(model, Timed):
        model.spent["backward"] += learned - started
        model.spent["optimizer"] += time.perf_counter() - learned


def _shares(seconds: Mapping[str, float]) -> str:
    total = sum(seconds.values())
    return ", ".join(f"{part} {100 * spent / total:.0f} %" for part, spent in seconds.items())


def _profile(step: Callable[[], object]) -> str:
    """Where a step's time goes, by the kind of operation."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    seconds = dict.fromkeys(("matrix products", "attention", "optimizer", "rest"), 0.0)
    for event in profile.key_averages():
        kind = next((k for k, marks in KINDS.items() if any(m in event.key for m in marks)), "rest")
        seconds[kind] += event.self_cpu_time_total
    return _shares(seconds)


def _tokens(batch: Batch) -> str:
    forwarded = batch.embedded.ids.numel() + batch.sequences.ids.numel()
    useful = batch.embedded.useful + batch.sequences.useful
    return f"{useful} useful of {forwarded} forwarded tokens"


def _check_equal_losses(start: Backbone, data: Data, size: int) -> None:
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
