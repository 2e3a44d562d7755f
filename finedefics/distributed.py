"""What changes when a step runs on several processes: one gather with gradient, and sums."""

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes that share the contrastive batch."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _Gather(torch.autograd.Function):
    """All-gather along the first axis whose backward sums every rank's gradient of this rank's rows."""

    @staticmethod
    def forward(context, tensor: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        context.rows = len(tensor)
        parts = [torch.empty_like(tensor) for _ in range(world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        start = dist.get_rank() * context.rows
        return total[start : start + context.rows]


def gather(tensor: Tensor) -> Tensor:
    """Rows of every rank, in rank order: [ranks * rows, ...]; differentiable.

    Every rank must pass the same shape. When each rank then computes the same loss of all rows, averaging
    parameter gradients over ranks (as DDP and ZeRO do) gives exactly the gradient of one process on all rows:
    the sum in the backward pass and the average cancel.
    """
    if world_size() == 1:
        return tensor
    if tensor.is_floating_point() and tensor.requires_grad:
        return _Gather.apply(tensor)
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)


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
