"""Exact top-k by cosine, in blocks: what is in memory does not grow with either side."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from finedefics.errors import FinedeficsError

_PAIRS_AT_ONCE = 16_000_000  # similarities held at a time: 64 MB
_TARGETS_AT_ONCE = 65_536
_SPARE = 8  # candidates beyond those kept, among which ties are looked for
# Similarities that differ by less are equal: sums of products come out otherwise on other processors.
_STEP = 2.0**-20


@dataclass(frozen=True)
class Ranked:
    """Candidates of rows, most similar first.

    Attributes:
        positions: int32 [rows, keep], of the category in its table; -1 where there are no more.
        similarity: float32 [rows, keep]; NaN there.
    """

    positions: npt.NDArray[np.int32]
    similarity: npt.NDArray[np.float32]


@torch.no_grad()
def nearest(
    queries: Tensor,
    targets: Tensor,
    keep: int,
    *,
    own: Tensor | None = None,
    allowed: Tensor | None = None,
) -> Ranked:
    """For each query the ``keep`` most similar targets; equally similar ones stand in the targets' order.

    Args:
        queries: [rows, dim], normalised; on the device of the targets.
        targets: [targets, dim], normalised.
        own: [rows] position of the one target that is no candidate, -1 for none.
        allowed: bool [rows, targets], or [targets] for all rows: which targets may be candidates.
    """
    if len(targets) == 0 or len(queries) == 0:
        empty = np.full((len(queries), keep), -1, np.int32)
        return Ranked(empty, np.full(empty.shape, np.nan, np.float32))
    width = min(len(targets), _TARGETS_AT_ONCE)
    rows = max(1, _PAIRS_AT_ONCE // width)
    buffer = torch.empty(min(rows, len(queries)) * width, dtype=torch.float32, device=targets.device)
    found = [
        _of_rows(queries, targets, keep, slice(start, start + rows), own, allowed, buffer)
        for start in range(0, len(queries), rows)
    ]
    values, places = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
    missing = values == -torch.inf
    positions = places.int().masked_fill(missing, -1)
    return Ranked(positions.numpy(), values.masked_fill(missing, torch.nan).numpy())


def _of_rows(
    queries: Tensor,
    targets: Tensor,
    keep: int,
    rows: slice,
    own: Tensor | None,
    allowed: Tensor | None,
    buffer: Tensor,
) -> tuple[Tensor, Tensor]:
    """The best of a block of rows, merged over the blocks of targets."""
    block = queries[rows].to(targets.device, torch.float32)
    mine = None if own is None else own[rows].to(targets.device)
    best: tuple[Tensor, Tensor] | None = None
    for start in range(0, len(targets), _TARGETS_AT_ONCE):
        part = targets[start : start + _TARGETS_AT_ONCE].float()
        similarity = buffer[: len(block) * len(part)].view(len(block), len(part))
        torch.mm(block, part.T, out=similarity)
        if allowed is not None:
            may = allowed if allowed.dim() == 1 else allowed[rows]
            may = may[..., start : start + len(part)].to(targets.device)
            similarity.masked_fill_(~may, -torch.inf)
        if mine is not None:
            within = ((mine >= start) & (mine < start + len(part))).nonzero()[:, 0]
            similarity[within, mine[within] - start] = -torch.inf
        values, places = _exact(similarity, keep)
        places = places + start
        if best is not None:
            values, places = _first(torch.cat([best[0], values], 1), torch.cat([best[1], places], 1), keep)
        best = values, places
    assert best is not None
    short = keep - best[0].shape[1]
    if short > 0:
        pad = torch.nn.functional.pad
        return pad(best[0], (0, short), value=-torch.inf), pad(best[1], (0, short), value=-1)
    return best


def _exact(similarity: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """The ``keep`` largest of each row with their positions, ties by position."""
    count = similarity.shape[1]
    values, places = similarity.topk(min(keep + _SPARE, count), dim=1)
    values = _stepped(values)
    if values.shape[1] < count:
        # `topk` takes any of equal ones: where the ties go on beyond what it took, the whole row is looked at
        tied = (values[:, keep - 1] == values[:, -1]) & (values[:, -1] > -torch.inf)
        rows = tied.nonzero()[:, 0]
        step = max(1, _PAIRS_AT_ONCE // 4 // count)
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            whole, order = _stepped(similarity[some]).sort(dim=1, descending=True, stable=True)
            values[some], places[some] = whole[:, : values.shape[1]], order[:, : values.shape[1]]
    return _first(values, places, keep)


def _first(values: Tensor, places: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """The first ``keep`` columns by falling value and, among equals, rising position."""
    places, order = places.sort(dim=1)
    values = values.gather(1, order)
    values, order = values.sort(dim=1, descending=True, stable=True)
    return values[:, :keep], places.gather(1, order)[:, :keep]


def _stepped(values: Tensor) -> Tensor:
    return (values / _STEP).round_().mul_(_STEP)


def check_finite(embeddings: Tensor | npt.NDArray[np.floating], names: Sequence[str], what: str) -> None:
    """Refuse embeddings [rows, dim] that have no direction.

    Args:
        names: of the rows, for the message.
        what: the rows are of: "sample", "category".

    Raises:
        FinedeficsError: a row holds NaN or infinity, or is zero; it is named.
    """
    rows = torch.as_tensor(embeddings)
    size = rows.float().square().sum(1)  # not finite where anything in the row is not
    bad = (~size.isfinite() | (size == 0)).nonzero()[:, 0]
    if len(bad):
        row = int(bad[0])
        zero = bool(size[row] == 0)
        raise FinedeficsError(
            "its embedding is zero" if zero else "its embedding holds NaN or infinity",
            place=f"{what} {names[row]}",
            cure="choose another embedder, or float32 for this one",
        )
