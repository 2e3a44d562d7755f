"""What changes when a step runs on several processes: one gather with gradient, and sums."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes that share the contrastive batch."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _Way:
    """What is on its way between ranks, one collective at a time."""

    def __init__(self) -> None:
        self._work: Any = None
        self._held: tuple[Tensor, ...] = ()  # nothing may be freed while it is sent

    def gather(self, tensor: Tensor) -> Tensor:
        """Start to fill the result with every rank's rows."""
        whole = tensor.new_empty(world_size() * len(tensor), *tensor.shape[1:])
        own = tensor.contiguous()
        parts = list(whole.unflatten(0, (world_size(), len(tensor))).unbind())
        self._work, self._held = dist.all_gather(parts, own, async_op=True), (own, *parts)
        return whole

    def sum(self, tensor: Tensor) -> Tensor:
        """Start to add up every rank's tensor in the result."""
        total = tensor.contiguous().clone()
        self._work, self._held = dist.all_reduce(total, async_op=True), (total,)
        return total

    def wait(self) -> None:
        """Until what was started last has arrived."""
        self._work.wait()
        self._work, self._held = None, ()


class _Sent(torch.autograd.Function):
    """Starts an all-gather along the first axis; its backward waits for the sum that `_Arrived` started."""

    @staticmethod
    def forward(context, tensor: Tensor, way: _Way) -> Tensor:  # type: ignore[no-untyped-def]
        context.rows, context.way = len(tensor), way
        return way.gather(tensor)

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        context.way.wait()
        start = dist.get_rank() * context.rows
        return gradient[start : start + context.rows], None


class _Arrived(torch.autograd.Function):
    """Waits for the gather; its backward starts to sum every rank's gradient of all rows."""

    @staticmethod
    def forward(context, whole: Tensor, way: _Way) -> Tensor:  # type: ignore[no-untyped-def]
        context.way = way
        way.wait()
        return whole.view_as(whole)

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        return context.way.sum(gradient), None


def gathering(tensor: Tensor) -> Callable[[], Tensor]:
    """Start to `gather`; what is computed until the result is called for goes on beside it.

    So it is in the backward pass, in the other order: the sum of gradients starts where the result was called
    for and is waited for where the gather was started, and what was computed between has its backward pass
    meanwhile. Every rank must start and call at the same places among its collectives.
    """
    if world_size() == 1:
        return lambda: tensor
    way = _Way()
    whole = _Sent.apply(tensor, way)
    return lambda: _Arrived.apply(whole, way)


def gather(tensor: Tensor) -> Tensor:
    """Rows of every rank, in rank order: [ranks * rows, ...]; differentiable.

    Every rank must pass the same shape. When each rank then computes the same loss of all rows, averaging
    parameter gradients over ranks (as DDP and ZeRO do) gives exactly the gradient of one process on all rows:
    the sum in the backward pass and the average cancel.
    """
    return gathering(tensor)()


def total(tensor: Tensor) -> Tensor:
    """Sum over ranks of a detached tensor."""
    summed = tensor.detach().clone()
    if world_size() > 1:
        dist.all_reduce(summed)
    return summed


def largest(numbers: list[int], device: torch.device) -> list[int]:
    """The largest over ranks of each number."""
    if world_size() == 1:
        return numbers
    found = torch.tensor(numbers, device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return [int(number) for number in found.tolist()]
