"""What workers say of themselves, as facts: the configuration that each has, and who holds what."""

import os
from typing import Any

import ray
import torch.distributed as dist

from finedefics.errors import FinedeficsError
from finedefics.flops import peak_of
from finedefics_platform.base.digest import digest_of
from finedefics_platform.training.loop import Loop
from finedefics_platform.training.sharding import optimizer_elements


def report_configuration(loop: Loop, number: int, done: int) -> None:
    """Log the configuration as each worker has it; ranks that differ would train nonsense in silence."""
    configuration = loop.task.experiment.model_dump(mode="json")
    digests: list[str] = [""] * loop.world_size
    dist.all_gather_object(digests, digest_of(configuration))
    if len(set(digests)) > 1:
        raise FinedeficsError(
            f"workers have different configurations ({', '.join(digests)})",
            place="effective configuration",
            cure="use one version of the platform on every node",
        )
    # The first event of a group of workers: what earlier ones said of steps after this is superseded.
    place = loop.at(number, done)
    digest = loop.task.experiment.digest()
    loop.say("configuration", **place, digest=digest, digests=digests, configuration=configuration)


def report_layout(loop: Loop, engine: Any, place: dict[str, Any]) -> None:
    """Who trains, and how much optimizer state each holds: ZeRO's partition as a fact, not as a setting."""
    own = {
        "rank": loop.rank,
        "pid": os.getpid(),
        "node": ray.get_runtime_context().get_node_id(),
        "device": str(loop.device),
        "peak_tflops": peak_of(loop.device),
        "optimizer_elements": optimizer_elements(engine),
    }
    workers: list[Any] = [None] * loop.world_size
    dist.all_gather_object(workers, own)
    loop.say(
        "facts",
        **place,
        world_size=loop.world_size,
        zero_stage=engine.zero_optimization_stage(),
        workers=workers,
    )
