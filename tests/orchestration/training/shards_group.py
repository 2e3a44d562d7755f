"""Two processes that load, train, save and resume under DeepSpeed; run by test_held_in_shards.

Usage: shards_group.py OUT CASE...

A case is `load:FAMILY:DTYPE` or `train:KIND:ZERO_STAGE:OFFLOAD:DTYPE`. Writes OUT/<case>-<rank>.pt.
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
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from finedefics.adapters import apply, merge
from finedefics.backbones import Backbone, load_backbone
from finedefics.base_model import Sizes, untrained_backbone
from finedefics.collation import Collator
from finedefics.objective import Objective
from finedefics_platform.base.storage import Location
from finedefics_platform.config.experiment import Experiment, parse_experiment
from finedefics_platform.training.checkpoints import read_shards, save_shards
from finedefics_platform.training.loading import keep_adapters, load_model, merge_kept
from finedefics_platform.training.sharding import (
    backward_and_step,
    consolidated_state,
    prepare_deepspeed,
    start_engine,
    whole,
)
from finedefics_platform.training.worker import objective_settings, stage_seed

TESTS = Path(__file__).parents[2]
DRAWN_ROWS = runpy.run_path(str(TESTS / "method" / "global_batch_group.py"))["drawn_rows"]
TINY = runpy.run_path(str(TESTS / "tiny_models.py"))["save_tiny"]
STEPS, SAVED = 2, 1
# as these models are small, weights of any size are divided and nothing is gathered ahead or kept
SMALL = {
    "stage3_param_persistence_threshold": 0,
    "stage3_prefetch_bucket_size": 0,
    "stage3_max_live_parameters": 0,
    "stage3_max_reuse_distance": 0,
}


def experiment_of(kind: str, zero_stage: int, offload: str = "none", dtype: str = "float32") -> Experiment:
    stage = {
        "steps": STEPS,
        "warmup_steps": 0,
        "learning_rate": 1e-3 if kind == "full" else 1e-2,
        "feeds": {"labelled": 8},
        "terms": {"answer": 1, "object_attribute": 0.5},
        "temperatures": {"learnable": True},
    }
    document = {
        "name": "memory",
        "data": {"dataset": "drawn", "negatives": 2},
        "model": {"path": "none", "dtype": dtype},
        "adapters": {"kind": kind, **({"rank": 2} if kind != "full" else {})},
        "deepspeed": {
            "zero_stage": zero_stage,
            "offload": offload,
            "options": {"zero_optimization": SMALL} if zero_stage == 3 else {},
        },
        "stages": [{**stage, "name": "one"}, {**stage, "name": "two"}],
    }
    return parse_experiment(document, place="test")


def load(folder: Path, dtype: str, rank: int) -> dict[str, Any]:
    """The most that a load in shards held at a time, and whether it gave what a plain one gives."""
    experiment = experiment_of("full", 3, dtype=dtype)
    plain = load_backbone(folder, dtype=dtype)
    with Held() as sharded:
        backbone = load_model(experiment, folder, torch.device("cpu"), dist.get_world_size())
    kept = sum(parameter.ds_tensor.numel() for parameter in backbone.parameters())
    state = consolidated_state(backbone.model, rank)
    expected = {name: value.detach() for name, value in plain.model.state_dict().items()}
    buffers = dict(backbone.model.named_buffers())
    return {
        "elements": sum(parameter.numel() for parameter in plain.parameters()),
        "largest": max(own_elements(module) for module in plain.modules()),
        "held": sharded.most,
        "kept": kept,
        "missing": sorted(expected.keys() - state.keys()) if state is not None else [],
        "differing": [n for n, v in expected.items() if state and n in state and not v.equal(state[n])],
        "buffers": [n for n, v in plain.model.named_buffers() if not same(v, buffers[n])],
        "trained": [p.requires_grad for p in plain.parameters()]
        == [p.requires_grad for p in backbone.parameters()],
        "tied": len(list(plain.parameters())) == len(list(backbone.parameters())),
    }


def same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.equal(other)


def own_elements(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters(recurse=False))


class Held(TorchDispatchMode):
    """The most elements that tensors made inside held at a time; a file that is mapped is not held."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_iter(made):
            if isinstance(tensor, Tensor) and tensor.device.type == "cpu":
                storage = tensor.untyped_storage()
                if storage._cdata not in self._live and not mapped(storage.data_ptr()):
                    count = storage.nbytes() // tensor.element_size()
                    self._live[storage._cdata] = (StorageWeakRef(storage), count)
        self._live = {key: kept for key, kept in self._live.items() if not kept[0].expired()}
        self.most = max(self.most, sum(count for _, count in self._live.values()))
        return made


def mapped(address: int) -> bool:
    """Whether a mapped file of weights is at this address."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(".safetensors"):
            start, end = (int(bound, 16) for bound in line.split()[0].split("-"))
            if start <= address < end:
                return True
    return False


class Live:
    """The most elements of parameters that were whole at a time, looked at before each module's forward."""

    def __init__(self, module: nn.Module) -> None:
        self.most = 0
        self._parameters = list(module.parameters())
        for each in module.modules():
            each.register_forward_pre_hook(self._look)  # behind DeepSpeed's, which gathers

    def _look(self, *_: Any) -> None:
        self.most = max(self.most, sum(parameter.numel() for parameter in self._parameters))


def train(case: str, folder: Path, out: Path, rank: int) -> dict[str, Any]:
    """Losses of two stages, and of the second one resumed after a step, from what had been saved."""
    _, kind, zero_stage, offload, dtype = case.split(":")
    experiment = experiment_of(kind, int(zero_stage), offload, dtype)
    shards, kept = out / case / "shards", Location.of(str(out / case / "adapters"))
    merges = kind in ("lora", "dora")
    backbone = loaded(experiment, folder)
    _, first, engine = run(experiment, backbone, 0)
    if merges:
        keep_adapters(backbone, kept, rank)
        merge(backbone, gather=lambda parameters: whole(parameters, written=True))
    engine.destroy()
    live, second, engine = run(experiment, backbone, 1, save=shards)
    weights = consolidated_state(backbone.model, rank)
    trained = sum(getattr(p, "ds_numel", p.numel()) for p in engine.module.parameters() if p.requires_grad)
    devices = sorted({str(p.device) for p in engine.module.parameters()})
    engine.destroy()

    backbone = loaded(experiment, folder)
    if merges:
        merge_kept(backbone, kept)
    _, again, engine = run(experiment, backbone, 1, read=shards)
    engine.destroy()
    dist.barrier()
    return {
        "first": first,
        "second": second,
        "again": again,
        "trained": trained,
        "saved": sum(map(elements, shards.rglob("*.pt"))),
        "live": live.most,
        "devices": devices,
        "whole": sum(value.numel() for value in (weights or {}).values()),
        "weights": {name: value.double().norm().item() for name, value in (weights or {}).items()},
    }


def loaded(experiment: Experiment, folder: Path) -> Backbone:
    return load_model(experiment, folder, torch.device("cpu"), dist.get_world_size())


def run(
    experiment: Experiment,
    backbone: Backbone,
    number: int,
    save: Path | None = None,
    read: Path | None = None,
) -> tuple[Live, list[dict[str, float]], Any]:
    stage = experiment.stages[number]
    apply(backbone, experiment.adapters.as_settings(), seed=stage_seed(experiment, number), gather=whole)
    settings = objective_settings(stage)
    objective = Objective(backbone, settings)
    engine = start_engine(objective, experiment, stage, dist.get_world_size())
    live = Live(objective)
    if read is not None:
        assert read_shards(engine, read)
    categories, rows = DRAWN_ROWS()
    collate = Collator(backbone.processor, categories, settings, negatives=2)
    found = []
    for step in range(SAVED if read is not None else 0, STEPS):
        share = rows["labelled"][4 * dist.get_rank() : 4 * dist.get_rank() + 4]
        output = engine(collate({"labelled": share}, step=step))
        norm = backward_and_step(engine, output.loss)
        found.append({name: float(value) for name, value in output.terms.items()} | {"norm": float(norm)})
        if save is not None and step + 1 == SAVED:
            save_shards(engine, save)
            dist.barrier()
    return live, found, engine


def elements(file: Path) -> int:
    """Numbers in all tensors of a saved file."""
    seen: dict[int, int] = {}

    def count(value: Any) -> None:
        if isinstance(value, Tensor):
            seen[value.untyped_storage().data_ptr()] = (
                value.untyped_storage().nbytes() // value.element_size()
            )
        elif isinstance(value, dict):
            for each in value.values():
                count(each)
        elif isinstance(value, (list, tuple)):
            for each in value:
                count(each)

    count(torch.load(file, weights_only=False, mmap=True))
    return sum(seen.values())


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
    for case in cases:
        if case.startswith("load"):
            _, family, dtype = case.split(":")
            found = load(out / family, dtype, rank)
        else:
            found = train(case, out / "small", out, rank)
        torch.save(found, out / f"{case}-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    out, cases = Path(sys.argv[1]), sys.argv[2:]
    prepare_deepspeed()
    torch.manual_seed(0)
    untrained_backbone(Sizes(text_layers=6, vision_layers=4)).save_pretrained(out / "deep")
    untrained_backbone(Sizes(text_layers=2, vision_layers=1)).save_pretrained(out / "small")
    for family in {case.split(":")[1] for case in cases if case.startswith("load")} - {"deep"}:
        TINY(family, out / family)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    members = [fork.Process(target=member, args=(rank, 2, port, out, cases)) for rank in range(2)]
    for each in members:
        each.start()
    for each in members:
        each.join()
    if any(each.exitcode for each in members):
        sys.exit("a process of the group failed")


if __name__ == "__main__":
    main()
