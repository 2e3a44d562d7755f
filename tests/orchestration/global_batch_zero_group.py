"""Groups of processes that take one step under each ZeRO stage; run by test_global_batch_zero.

Usage: global_batch_zero_group.py OUT WORLD_SIZE ZERO_STAGE...

Writes OUT/<zero stage>.pt: the losses and terms of every rank, and every parameter's whole gradient; and
OUT/plain.pt: those of one process without DeepSpeed on all rows. The rows and the model are those of
tests/method/global_batch_group.py.
"""

import multiprocessing
import os
import runpy
import socket
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from finedefics.base_model import untrained_backbone
from finedefics.batch import Collator
from finedefics.objective import Objective
from finedefics_platform.experiment import parse_experiment
from finedefics_platform.sharding import prepare_deepspeed, start_engine
from finedefics_platform.worker import objective_settings

PLAIN = runpy.run_path(str(Path(__file__).parents[1] / "method" / "global_batch_group.py"))


def document(zero_stage: int) -> dict[str, Any]:
    terms = {
        name: {"weight": term.weight, "feeds": list(term.feeds)}
        for name, term in (PLAIN["GENERATION"] | PLAIN["CONTRAST"]).items()
    }
    return {
        "name": "zero",
        "data": {"dataset": "drawn", "negatives": 2},
        "model": {"path": "none"},
        "deepspeed": {"zero_stage": zero_stage},
        "stages": [
            {
                "name": "one",
                "steps": 1,
                "feeds": {"labelled": 12, "captioned": 12, "text": 8},
                "terms": terms,
                "temperatures": {"learnable": True},
            }
        ],
    }


def step(zero_stage: int, rank: int, world_size: int) -> dict[str, Any]:
    """Loss, terms and gradients of one step of a rank on its share of the rows."""
    from deepspeed.utils import safe_get_full_grad

    experiment = parse_experiment(document(zero_stage), place="test")
    stage = experiment.stages[0]
    settings = objective_settings(stage)
    torch.manual_seed(0)
    objective = Objective(untrained_backbone(), settings)
    engine = start_engine(objective, experiment, stage, world_size)
    categories, rows = PLAIN["drawn_rows"]()
    collate = Collator(objective.backbone.processor, categories, settings, negatives=2)
    share = {
        feed: every[rank * len(every) // world_size : (rank + 1) * len(every) // world_size]
        for feed, every in rows.items()
    }
    output = engine(collate(share, step=0))
    engine.backward(output.loss)
    gradients = {
        name: gradient.clone()
        for name, parameter in objective.named_parameters()
        if (gradient := safe_get_full_grad(parameter)) is not None
    }
    engine.step()  # leaves the engine as a training step would
    engine.destroy()
    terms = {name: float(value) for name, value in output.terms.items()}
    return {"loss": float(output.loss.detach()), "terms": terms, "gradients": gradients}


def member(rank: int, world_size: int, port: int, out: Path, zero_stages: list[int]) -> None:
    torch.set_num_threads(1)
    if rank == 0:  # before there is a group, so alone
        torch.save(PLAIN["step"](PLAIN["CASES"]["whole"], rank=0, world_size=1), out / "plain.pt")
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(world_size))
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=120),
    )
    for zero_stage in zero_stages:
        own = step(zero_stage, rank, world_size)
        ranks: list[Any] = [None] * world_size
        dist.all_gather_object(ranks, {key: own[key] for key in ("loss", "terms")})
        if rank == 0:
            torch.save({"ranks": ranks, "gradients": own["gradients"]}, out / f"{zero_stage}.pt")
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    out, world_size, zero_stages = Path(sys.argv[1]), int(sys.argv[2]), list(map(int, sys.argv[3:]))
    prepare_deepspeed()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    members = [
        fork.Process(target=member, args=(rank, world_size, port, out, zero_stages))
        for rank in range(world_size)
    ]
    for each in members:
        each.start()
    for each in members:
        each.join()
    if any(each.exitcode for each in members):
        sys.exit(f"a process of the group of {world_size} failed")


if __name__ == "__main__":
    main()
