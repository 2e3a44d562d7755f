"""Groups of processes that learn temperatures under ZeRO; run by test_temperatures.

Usage: temperatures_group.py OUT WORLD_SIZE CASE...

A case is DTYPE:ZERO_STAGE:CLIP. Writes OUT as JSON: for each case the temperatures that every rank logged, at
the start and after every step, and those of a fresh engine that loaded the last checkpoint.
"""

import json
import multiprocessing
import os
import socket
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from finedefics.base_model import Sizes, untrained_backbone
from finedefics.collation import Collator
from finedefics.data.generated import make_world
from finedefics.objective import Objective
from finedefics.records import Category
from finedefics_platform.config.experiment import parse_experiment
from finedefics_platform.training.sharding import backward_and_step, prepare_deepspeed, start_engine, whole
from finedefics_platform.training.worker import objective_settings

STEPS, RATE = 80, 5e-4
SIZES = Sizes(vision_layers=1, text_hidden=32, text_layers=1)


def document(dtype: str, zero_stage: int, clip: float) -> dict[str, Any]:
    """The recipe's rates; only texts, so that a step is quick: both temperatures are theirs."""
    return {
        "name": "temperatures",
        "data": {"dataset": "drawn", "negatives": 1},
        "model": {"path": "none", "dtype": dtype},
        "deepspeed": {"zero_stage": zero_stage},
        "stages": [
            {
                "name": "one",
                "steps": STEPS,
                "learning_rate": RATE,
                "gradient_clip": clip,
                "feeds": {"text": 8},
                "terms": {"attribute_category": 0.5, "category_category": 0.5},
                "temperatures": {"learnable": True},
            }
        ],
    }


def learn(case: str, rank: int, world_size: int, folder: Path) -> dict[str, Any]:
    dtype, zero_stage, clip = case.split(":")
    experiment = parse_experiment(document(dtype, int(zero_stage), float(clip)), place="test")
    stage = experiment.stages[0]

    def started() -> tuple[Objective, Any]:
        torch.manual_seed(0)
        backbone = untrained_backbone(SIZES).to(getattr(torch, dtype))
        objective = Objective(backbone, objective_settings(stage))
        return objective, start_engine(objective, experiment, stage, world_size)

    def logged(objective: Objective) -> list[float]:
        with whole([objective.log_temperatures]):
            return [float(value) for value in objective.temperatures().values()]

    objective, engine = started()
    categories = [
        Category(s.name, s.name, s.family, s.description, s.attributes) for s in make_world(0).species[:8]
    ]
    collate = Collator(objective.backbone.processor, categories, objective.settings, negatives=1)
    own = categories[rank * 8 // world_size : (rank + 1) * 8 // world_size]
    seen = [logged(objective)]
    for step in range(STEPS):
        backward_and_step(engine, engine(collate({"text": own}, step=step)).loss)
        seen.append(logged(objective))
    engine.save_checkpoint(str(folder / case.replace(":", "-")))
    again, resumed = started()
    resumed.load_checkpoint(str(folder / case.replace(":", "-")))
    with torch.no_grad():
        resumed(collate({"text": own}, step=0))
    found = {"seen": seen, "resumed": logged(again)}
    engine.destroy()
    resumed.destroy()
    return found


def member(rank: int, world_size: int, port: int, out: Path, cases: list[str]) -> None:
    torch.set_num_threads(1)
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(world_size))
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=120),
    )
    found = {}
    for case in cases:
        ranks: list[Any] = [None] * world_size
        dist.all_gather_object(ranks, learn(case, rank, world_size, out.parent))
        found[case] = ranks
    if rank == 0:
        out.write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    out, world_size, cases = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    prepare_deepspeed()
    untrained_backbone(SIZES)  # loads what is imported only when it is used, here and not in every process
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
