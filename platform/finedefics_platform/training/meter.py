"""What a training step costs: throughput, waiting and memory, over all workers."""

import time

import torch
import torch.distributed as dist

from finedefics.objective import ObjectiveOutput


class Meter:
    """Counts tokens and times steps between two records, and the wait for data inside them."""

    def __init__(self) -> None:
        self._waiting_since = time.perf_counter()
        self._reset()

    def _reset(self) -> None:
        self._since, self._waited = self._waiting_since, 0.0
        self._steps = self._forwarded = self._useful = 0

    def data_arrived(self) -> None:
        """A batch is here."""
        self._waited += time.perf_counter() - self._waiting_since

    def step_done(self, output: ObjectiveOutput) -> None:
        """The optimizer has stepped; what follows is waiting for data, unless something else is reported."""
        self._waiting_since = time.perf_counter()
        self._steps += 1
        self._forwarded += output.forwarded_tokens
        self._useful += output.useful_tokens

    def resume(self) -> None:
        """Leave out the time since the last step (validation, saving)."""
        now = time.perf_counter()
        self._since += now - self._waiting_since
        self._waiting_since = now

    def rates(self, samples: int, device: torch.device) -> dict[str, float]:
        """Over all ranks since the last call: tokens, throughput, share of waiting, memory in MiB."""
        seconds = self._waiting_since - self._since
        own = [self._forwarded, self._useful, self._waited / seconds, _memory_mib(device)]
        mine = torch.tensor(own, dtype=torch.float32, device=device)
        every = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(every, mine)
        forwarded, useful, waited, memory = torch.stack(every).T.tolist()
        rates = {
            "samples_per_second": samples * self._steps / seconds,
            "forwarded_tokens": sum(forwarded),
            "forwarded_tokens_per_second": sum(forwarded) / seconds,
            "useful_tokens_per_second": sum(useful) / seconds,
            "data_wait_share": max(waited),
            "memory_mib": max(memory),
        }
        self._reset()
        return rates


def _memory_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import psutil

    return psutil.Process().memory_info().rss / 2**20
