"""What a training step costs: throughput, utilisation, waiting and memory, over all workers."""

import time

import torch
import torch.distributed as dist
from torch import Tensor

from finedefics.batch import Batch
from finedefics.flops import StepFlops, peak_of


class Meter:
    """Counts what steps compute and times them between two records, and the wait for data inside them.

    Times are the program's. It runs up to a step ahead of a CUDA device, so a wait for data may overlap with
    what the device still does: the share of waiting is an upper bound.

    Args:
        flops: of the stage's backbone.
        samples: rows of a step, over all ranks.
        device: of this rank.
    """

    def __init__(self, flops: StepFlops, samples: int, device: torch.device) -> None:
        self._flops, self._samples, self._device = flops, samples, device
        self._peak = peak_of(device)
        self._waiting_since = time.perf_counter()
        self._reset()

    def _reset(self) -> None:
        self._since, self._waited = self._waiting_since, 0.0
        self._steps = self._forwarded = self._useful = 0
        self._computed = 0.0

    def data_arrived(self, batch: Batch) -> None:
        """A batch is here, still on the host: it is counted there."""
        self._waited += time.perf_counter() - self._waiting_since
        self._steps += 1
        self._forwarded += batch.forwarded_tokens
        self._useful += batch.useful_tokens
        self._computed += self._flops.of(batch)

    def step_done(self) -> None:
        """The optimizer has stepped; what follows is waiting for data, unless something else is reported."""
        self._waiting_since = time.perf_counter()

    def resume(self) -> None:
        """Leave out the time since the last step (validation, saving)."""
        now = time.perf_counter()
        self._since += now - self._waiting_since
        self._waiting_since = now

    def rates(self) -> dict[str, Tensor | float]:
        """Over all ranks since the last call; sums of the ranks stay on the device.

        Samples, tokens and model TFLOPs a second; ``mfu``, model FLOPs over what the cards could do in the
        time (`finedefics.flops.StepFlops`), absent where their peak is not known; the largest share of
        waiting and the largest memory in MiB.
        """
        seconds = self._waiting_since - self._since
        share, memory = self._waited / seconds, _memory_mib(self._device)
        own = [self._forwarded, self._useful, self._computed, share, memory]
        mine = torch.tensor(own, dtype=torch.float64).to(self._device, non_blocking=True)
        every = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(every, mine)
        ranks = torch.stack(every)
        forwarded, useful, computed, *_ = ranks.sum(0)
        *_, waited, most = ranks.amax(0)
        rates: dict[str, Tensor | float] = {
            "samples_per_second": self._samples * self._steps / seconds,
            "forwarded_tokens": forwarded,
            "forwarded_tokens_per_second": forwarded / seconds,
            "useful_tokens_per_second": useful / seconds,
            "model_tflops_per_second": computed / seconds / 1e12,
            "data_wait_share": waited,
            "memory_mib": most,
        }
        if self._peak is not None:
            rates["mfu"] = computed / seconds / (self._peak * 1e12 * len(every))
        self._reset()
        return rates


def _memory_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import psutil

    return psutil.Process().memory_info().rss / 2**20
