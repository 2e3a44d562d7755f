"""How much memory a card has: as a user says it, or as the card of a cluster says itself."""

import re
from typing import Any

from finedefics.errors import wrong_use

GIB = 2**30
_UNITS = {"gib": GIB, "gb": 10**9, "mib": 2**20, "mb": 10**6}


def bytes_of(text: str) -> int:
    """``80GiB``, ``80GB`` or ``81920MiB`` in bytes; FinedeficsError (exit code 2) where it is no size."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", text.lower())
    if found is None or found[2] not in _UNITS or not float(found[1]):
        raise wrong_use("no size of memory", place=f"--gpu-memory {text}", cure="write 80GiB, say")
    return round(float(found[1]) * _UNITS[found[2]])


def card_memory(gpus_per_worker: float) -> int | None:
    """Bytes that a worker's GPU has, asked of this machine's or of one in the Ray cluster that is connected.

    Args:
        gpus_per_worker: a worker that shares a card has its share of it; one of several has the first's.

    Returns:
        None where no GPU is asked for, or none can be asked.
    """
    if not gpus_per_worker:
        return None
    import ray
    import torch

    total: int | None = None
    if torch.cuda.is_available():
        total = _total()
    elif ray.is_initialized() and ray.cluster_resources().get("GPU", 0) >= gpus_per_worker:
        ask: Any = ray.remote(num_cpus=0, num_gpus=gpus_per_worker)(_total)
        asked = ask.remote()
        try:
            total = ray.get(asked, timeout=60)
        except ray.exceptions.RayError:  # all cards are busy, or the node is ill: nothing is known
            ray.cancel(asked, force=True)
            return None
    return None if total is None else round(total * min(1, gpus_per_worker))


def _total() -> int:
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory)
