"""Groups of processes that take one step on the same rows; run by test_global_batch.

Usage: global_batch_group.py OUT WORLD_SIZE...

Every group writes OUT/<world size>.pt: for each case the loss averaged over ranks, the terms as every rank
saw them and every parameter's gradient. The processes are forked, so that the libraries load once.
"""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from finedefics import distributed
from finedefics.adapters import AdapterSettings, Kind, apply
from finedefics.backbones import Backbone
from finedefics.base_model import Sizes, untrained_backbone
from finedefics.collation import Collator
from finedefics.data.birds import describe
from finedefics.data.generated import make_world, picture
from finedefics.errors import FinedeficsError
from finedefics.objective import Objective
from finedefics.records import Category, Sample
from finedefics.terms import ObjectiveSettings, TermSettings

Rows = dict[str, list[Any]]
SIZES = Sizes(vision_layers=1, text_layers=2)
CONTRAST = {
    "object_attribute": TermSettings(0.5, ("labelled", "captioned")),
    "attribute_category": TermSettings(0.5, ("labelled", "text")),
    "category_category": TermSettings(0.5, ("labelled", "text")),
    "object_category": TermSettings(0.25, ("labelled",)),
}
GENERATION = {
    "answer": TermSettings(1.0, ("labelled",)),
    "caption": TermSettings(1.0, ("labelled", "captioned")),
    "text": TermSettings(0.5, ("text",)),
}


@contextmanager
def local_backward() -> Iterator[None]:
    """The fault the test must find: a gather whose gradient forgets what other ranks make of these rows."""

    def own(way: Any, gradient: Tensor) -> Tensor:
        way._work = dist.barrier(async_op=True)
        return gradient

    whole = distributed._Way.sum
    distributed._Way.sum = own  # type: ignore[method-assign]
    try:
        yield
    finally:
        distributed._Way.sum = whole  # type: ignore[method-assign]


@dataclass(frozen=True)
class Case:
    """One way to take the step, and the group sizes that take it."""

    worlds: tuple[int, ...]
    micro_tokens: int | None = None
    checkpointing: bool = False
    packed: bool = True
    terms: dict[str, TermSettings] = field(default_factory=lambda: GENERATION | CONTRAST)
    fault: Callable[[], Any] = nullcontext
    options: dict[str, Any] = field(default_factory=dict)
    adapters: Kind = "full"  # what is tuned in the place of the weights
    one_category: bool = False  # of every row, and no hard negatives: nothing to contrast
    spoil: int | None = None  # the rank whose weights hold a NaN


CASES = {
    "whole": Case((1, 2, 4)),
    "contrast": Case((1, 4), terms=CONTRAST),
    "padded": Case((1, 2), packed=False),
    "divided": Case((1, 2), micro_tokens=600),
    "finely divided": Case((1, 2), micro_tokens=160),
    "checkpointed": Case((1,), checkpointing=True),
    "divided, checkpointed": Case((1,), micro_tokens=600, checkpointing=True),
    "in the prompt": Case((1, 2), options={"object_readout": "prompt"}),
    "in the prompt, divided": Case((1,), micro_tokens=600, options={"object_readout": "prompt"}),
    "every copy": Case((1, 2), options={"unique_keys": False}),
    "adapters": Case((1, 2, 4), adapters="lora"),
    "adapters, divided": Case((1,), adapters="lora", micro_tokens=600, checkpointing=True),
    "faulty": Case((2,), fault=local_backward),
    "one category": Case((2,), terms=CONTRAST, one_category=True),
    "diverged": Case((2,), terms=CONTRAST, spoil=1),
}


def drawn_rows() -> tuple[list[Category], Rows]:
    """Six species and a global batch of 32 rows; labels repeat, so that rows of one category meet."""
    world = make_world(5, families=2, species_per_family=3)
    categories = [
        Category(s.name.replace(" ", "-"), s.name, s.family, s.description, s.attributes)
        for s in world.species
    ]
    rng = np.random.default_rng(5)
    rows: Rows = {"labelled": [], "captioned": [], "text": []}
    for number in range(24):
        category = categories[number % 5 if number < 12 else 5 - number % 2]
        image, visible = picture(dict(category.attributes), rng)
        labelled = number < 12
        others = tuple(c.category_id for c in categories if c is not category)
        rows["labelled" if labelled else "captioned"].append(
            Sample(
                str(number),
                image,
                category.category_id if labelled else None,
                describe(visible),
                visible,
                others,
            )
        )
    rows["text"] = [categories[number % 6] for number in range(8)]
    return categories, rows


def drawn_backbone(adapters: Kind) -> Backbone:
    """The same weights, and the same adapters beside them, in every process."""
    torch.manual_seed(0)
    backbone = apply(untrained_backbone(SIZES), AdapterSettings(adapters, rank=4, alpha=4), seed=1)
    for name, parameter in backbone.model.named_parameters():
        if "lora_B" in name:  # zero at first, and half of the gradients with it
            nn.init.normal_(parameter, std=0.02)
    return backbone


def step(case: Case, rank: int, world_size: int) -> dict[str, Any]:
    """Loss, terms and gradients of one step of a rank on its share of the rows."""
    backbone = drawn_backbone(case.adapters).double()
    settings = ObjectiveSettings(terms=case.terms, learnable_temperatures=True, **case.options)
    objective: nn.Module = Objective(
        backbone.train(), settings, micro_tokens=case.micro_tokens, checkpointing=case.checkpointing
    )
    categories, rows = drawn_rows()
    if case.one_category:
        rows = {"labelled": rows["labelled"][::5] * 2, "captioned": [], "text": []}
    negatives = 0 if case.one_category else 2
    collate = Collator(
        backbone.processor,
        categories,
        settings,
        negatives=negatives,
        packed=case.packed,
        micro_tokens=case.micro_tokens,
    )
    share = {
        feed: every[rank * len(every) // world_size : (rank + 1) * len(every) // world_size]
        for feed, every in rows.items()
    }
    if world_size > 1:
        # without a generation term nothing reaches the output head
        unused = not any(term in GENERATION for term in case.terms)
        objective = DistributedDataParallel(objective, find_unused_parameters=unused)
    if case.spoil == rank:
        next(backbone.part("text").parameters()).data.fill_(float("nan"))
    with case.fault():
        output = objective(collate(share, step=0))
        output.loss.backward()
    names = ((name.removeprefix("module."), p) for name, p in objective.named_parameters())
    return {
        "loss": float(output.loss.detach()),
        "terms": {name: float(value) for name, value in output.terms.items()},
        "left_out": {name: int(value) for name, value in output.left_out.items()},
        "gradients": {name: p.grad.clone() for name, p in names if p.grad is not None},
    }


def member(rank: int, world_size: int, port: int, out: Path) -> None:
    torch.set_num_threads(1)
    if world_size > 1:
        dist.init_process_group(
            "gloo",
            init_method=f"tcp://127.0.0.1:{port}",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=120),
        )
    found = {}
    for name, case in CASES.items():
        if world_size in case.worlds:
            try:
                own = step(case, rank, world_size)
            except FinedeficsError as error:
                own = {"error": str(error), "gradients": {}}
            gradients = own.pop("gradients")
            ranks = [own] * world_size
            if world_size > 1:
                dist.all_gather_object(ranks, own)
            found[name] = {"ranks": ranks, "gradients": gradients}
    if rank == 0:
        torch.save(found, out / f"{world_size}.pt")
    if world_size > 1:
        dist.barrier()
        dist.destroy_process_group()


def main() -> None:
    out = Path(sys.argv[1])
    drawn_backbone("lora")  # loads what is imported only when it is used, here and not in every process
    fork = multiprocessing.get_context("fork")
    for world_size in map(int, sys.argv[2:]):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        members = [
            fork.Process(target=member, args=(rank, world_size, port, out)) for rank in range(world_size)
        ]
        for each in members:
            each.start()
        for each in members:
            each.join()
        if any(each.exitcode for each in members):
            sys.exit(f"a process of the group of {world_size} failed")


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive a fork
    main()
