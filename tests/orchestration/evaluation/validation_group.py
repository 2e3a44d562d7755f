"""Groups of three and of two processes that validate without Ray; run by test_validation.

Usage: validation_group.py DATASET MODEL OUT. Writes each rank's figures, OUT/<world>-<limit>-<rank>.json.
"""

import json
import multiprocessing
import runpy
import socket
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from finedefics.backbones import load_backbone
from finedefics_platform.base.storage import Location
from finedefics_platform.data.store import open_version
from finedefics_platform.evaluation.validation import validate_alignment

TEST = runpy.run_path(str(Path(__file__).with_name("test_validation.py")))


def member(rank: int, ports: dict[int, int], dataset: str, model: str, out: str) -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    opened, backbone = open_version(Location.of(dataset)), load_backbone(model).eval()
    for world, port in ports.items():
        if rank >= world:
            continue
        address = f"tcp://127.0.0.1:{port}"
        dist.init_process_group(
            "gloo", init_method=address, rank=rank, world_size=world, timeout=timedelta(seconds=120)
        )
        for limit in TEST["LIMITS"]:
            figures = validate_alignment(backbone, opened, TEST["experiment"](model, limit), rank, world)
            Path(out, f"{world}-{limit}-{rank}.json").write_text(json.dumps(figures))
        dist.destroy_process_group()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    ports = {3: free_port(), 2: free_port()}
    load_backbone(sys.argv[2])  # loads what is imported only when it is used, here and not in every process
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=member, args=(rank, ports, *sys.argv[1:])) for rank in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(max(abs(process.exitcode or 0) for process in processes))
