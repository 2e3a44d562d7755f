"""Groups of one and of two processes that train a stage under DeepSpeed without Ray; run by test_sharding.

Usage: sharding_group.py WORKSPACE MODEL OUT

Every rank writes OUT/<world size>-<rank>.json. The processes are forked, so that the libraries load once.
"""

import json
import multiprocessing
import os
import socket
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from finedefics.collation import Collator
from finedefics.objective import Objective
from finedefics_platform.base.workspace import open_workspace
from finedefics_platform.config.experiment import parse_experiment
from finedefics_platform.data.store import open_dataset
from finedefics_platform.training.loading import load_model
from finedefics_platform.training.sharding import (
    backward_and_step,
    consolidated_state,
    optimizer_elements,
    prepare_deepspeed,
    start_engine,
)
from finedefics_platform.training.stream import TrainingStream, in_threads
from finedefics_platform.training.worker import objective_settings

STEPS = 3


def member(rank: int, world_size: int, port: int, workspace: Path, model: Path, out: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(world_size))
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=120),
    )
    dataset = open_dataset(open_workspace(workspace), "drawn")
    found = {}
    for zero_stage in (0, 1, 2, 3) if world_size > 1 else (0,):
        experiment = parse_experiment(document(str(model), zero_stage), place="test")
        stage = experiment.stages[0]
        settings = objective_settings(stage)
        backbone = load_model(experiment, model, torch.device("cpu"), world_size)
        objective = Objective(backbone, settings)
        engine = start_engine(objective, experiment, stage, world_size)
        collate = Collator(backbone.processor, dataset.categories(), settings, negatives=2)
        steps = []
        for step, rows in TrainingStream(dataset, stage, 0, rank, world_size, engine=in_threads):
            output = engine(collate(rows, step=step))
            norm = backward_and_step(engine, output.loss)
            steps.append({name: float(value) for name, value in output.terms.items()} | {"norm": float(norm)})
        state = consolidated_state(backbone.model, rank)
        weights = {name: float(value.double().sum()) for name, value in (state or {}).items()}
        found[zero_stage] = {
            "steps": steps,
            "elements": optimizer_elements(engine),
            "weights": weights,
        }
        engine.destroy()
    (out / f"{world_size}-{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def document(model: str, zero_stage: int) -> dict:
    return {
        "name": "zero",
        "data": {"dataset": "drawn", "negatives": 2},
        "model": {"path": model},
        "deepspeed": {"zero_stage": zero_stage},
        "stages": [
            {
                "name": "one",
                "steps": STEPS,
                "warmup_steps": 0,
                "learning_rate": 1e-3,
                "feeds": {"labelled": 4, "captioned": 4, "text": 2},
                "terms": {"answer": 1, "caption": 1, "object_attribute": 0.5, "attribute_category": 0.5},
                "temperatures": {"learnable": True},
            }
        ],
    }


def main() -> None:
    workspace, model, out = (Path(argument) for argument in sys.argv[1:4])
    prepare_deepspeed()
    # loads what is imported only when it is used, here and not in every process
    load_model(parse_experiment(document(str(model), 0), place="test"), model, torch.device("cpu"), 1)
    fork = multiprocessing.get_context("fork")
    for world_size in (1, 2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        members = [
            fork.Process(target=member, args=(rank, world_size, port, workspace, model, out))
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
