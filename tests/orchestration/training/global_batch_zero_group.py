"""Groups of processes that take one step under ZeRO; run by test_global_batch_zero.

Usage: global_batch_zero_group.py OUT WORLD_SIZE CASE...

A case is KIND:ZERO_STAGE or KIND:ZERO_STAGE:MICRO_TOKENS, with a kind of adapters. Writes OUT/<case>.pt: the
losses and terms of every rank, and every parameter's whole gradient; and OUT/<kind>.pt: those of one process
without DeepSpeed on all rows. The rows and the models are those of tests/method/global_batch_group.py.
"""

import multiprocessing
import os
import runpy
import socket
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from finedefics.collation import Collator
from finedefics.objective import Objective
from finedefics_platform.config.experiment import Experiment, parse_experiment
from finedefics_platform.config.stage import Stage
from finedefics_platform.training import sharding
from finedefics_platform.training.sharding import deepspeed_settings, prepare_deepspeed, start_engine
from finedefics_platform.training.worker import objective_settings

PLAIN = runpy.run_path(str(Path(__file__).parents[2] / "method" / "global_batch_group.py"))


def sharded_settings(experiment: Experiment, stage: Stage, world_size: int) -> dict[str, Any]:
    """The platform's settings, but small weights are sharded as well: these models have no others."""
    settings = deepspeed_settings(experiment, stage, world_size)
    if experiment.deepspeed.zero_stage == 3:
        settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    return settings


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


def step(case: str, rank: int, world_size: int) -> dict[str, Any]:
    """Loss, terms and gradients of one step of a rank on its share of the rows."""
    from deepspeed.utils import safe_get_full_grad

    kind, zero_stage, *micro_tokens = case.split(":")
    experiment = parse_experiment(document(int(zero_stage)), place="test")
    stage = experiment.stages[0]
    settings = objective_settings(stage)
    held = int(micro_tokens[0]) if micro_tokens else None
    objective = Objective(
        PLAIN["drawn_backbone"](kind), settings, micro_tokens=held, checkpointing=held is not None
    )
    engine = start_engine(objective, experiment, stage, world_size)
    categories, rows = PLAIN["drawn_rows"]()
    collate = Collator(objective.backbone.processor, categories, settings, negatives=2, micro_tokens=held)
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


def member(rank: int, world_size: int, port: int, out: Path, cases: list[str]) -> None:
    torch.set_num_threads(1)
    if rank == 0:  # before there is a group, so alone
        for kind in {case.split(":")[0] for case in cases}:
            plain = replace(PLAIN["CASES"]["whole"], adapters=kind)
            torch.save(PLAIN["step"](plain, rank=0, world_size=1), out / f"{kind}.pt")
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(world_size))
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=120),
    )
    for case in cases:
        own = step(case, rank, world_size)
        ranks: list[Any] = [None] * world_size
        dist.all_gather_object(ranks, {key: own[key] for key in ("loss", "terms")})
        if rank == 0:
            torch.save({"ranks": ranks, "gradients": own["gradients"]}, out / f"{case}.pt")
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    out, world_size, cases = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    prepare_deepspeed()
    PLAIN["drawn_backbone"](
        "lora"
    )  # loads what is imported only when it is used, here and not in every process
    sharding.deepspeed_settings = sharded_settings
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    members = [
        fork.Process(target=member, args=(rank, world_size, port, out, cases)) for rank in range(world_size)
    ]
    for each in members:
        each.start()
    for each in members:
        each.join()
    if any(each.exitcode for each in members):
        sys.exit(f"a process of the group of {world_size} failed")


if __name__ == "__main__":
    main()
