"""Packing: many short sequences side by side in few rows, each blind to its neighbours.

Names are a few tokens long, descriptions a hundred: padding every text to the longest wastes most of a step.
A packed row holds several sequences; a block-diagonal causal mask and positions that restart keep each one's
hidden states what they would be alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PADDING_AIM = 0.05  # share of a pass that may be padding before a wider row is tried
# row widths tried, in lengths of the longest sequence; fine steps, because a width that many sums of lengths
# happen to fill lies between the coarse ones, and the next coarse one costs attention
WIDTHS = tuple(1 + step / 20 for step in range(61))


@dataclass(frozen=True)
class Packed:
    """Sequences laid out in rows.

    Attributes:
        ids: [rows, width] token ids.
        segments: [rows, width] number of the sequence within its row from 1, 0 where there is padding.
        positions: [rows, width] position within the sequence.
        reads: [reads, 2] row and column of the positions whose hidden states are wanted, in the order given.
        images: [pictures] index of the picture that fills each block of image places, in row-major order.
        image_rows: [pictures] the row of each of those blocks.
    """

    ids: Tensor
    segments: Tensor
    positions: Tensor
    reads: Tensor
    images: Tensor
    image_rows: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def useful(self) -> int:
        """Positions that are not padding."""
        return int((self.segments > 0).sum())

    def to(self, device: torch.device | str) -> "Packed":
        """The same layout on a device."""
        return Packed(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    def rows(self, first: int, last: int) -> "Packed":
        """Rows ``first`` to ``last`` (exclusive); reads keep their order and count rows from ``first``."""
        inside = (self.reads[:, 0] >= first) & (self.reads[:, 0] < last)
        shown = (self.image_rows >= first) & (self.image_rows < last)
        shift = torch.tensor([first, 0], device=self.reads.device)
        return Packed(
            self.ids[first:last],
            self.segments[first:last],
            self.positions[first:last],
            self.reads[inside] - shift,
            self.images[shown],
            self.image_rows[shown] - first,
        )

    def split(self, pieces: int) -> Iterator["Packed"]:
        """``pieces`` runs of rows, near equal: every rank that asks for as many makes as many calls."""
        for first, last in self.bounds(pieces):
            # an empty run would skip a forward that other ranks make: repeat a row that nobody reads
            yield self.rows(first, last) if last > first else self.rows(0, 1)._unread()

    def bounds(self, pieces: int) -> list[tuple[int, int]]:
        """First and last (exclusive) row of each piece."""
        count = len(self.ids)
        return [(p * count // pieces, (p + 1) * count // pieces) for p in range(pieces)]

    def in_given_order(self, pieces: int) -> Tensor:
        """[reads] where each read stands once the reads of all pieces are concatenated."""
        starts = torch.tensor([first for first, _ in self.bounds(pieces)][1:], device=self.reads.device)
        piece = torch.bucketize(self.reads[:, 0].contiguous(), starts, right=True)
        return torch.argsort(torch.argsort(piece, stable=True))

    def _unread(self) -> "Packed":
        return Packed(self.ids, self.segments, self.positions, self.reads[:0], self.images, self.image_rows)

    def attention(self, dtype: torch.dtype) -> Tensor:
        """What each position may see.

        Returns:
            [rows, width] of ones and zeros where every row holds one sequence (models then take their fastest
            causal path), else additive [rows, 1, width, width]: 0 within a sequence's past, the dtype's
            lowest value elsewhere.
        """
        if int(self.segments.max()) <= 1:
            return (self.segments > 0).long()
        same = self.segments[:, :, None] == self.segments[:, None, :]
        past = torch.ones(same.shape[1:], dtype=torch.bool, device=same.device).tril()
        blocked = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=same.device)
        return torch.where(same & past, torch.zeros_like(blocked), blocked)[:, None]


def pack(
    sequences: Sequence[Sequence[int]],
    images: Sequence[int],
    *,
    pad: int,
    packed: bool = True,
    reads: Sequence[tuple[int, int]] | None = None,
) -> tuple[Packed, Tensor]:
    """Lay sequences out in rows.

    Args:
        sequences: token ids.
        images: for each sequence the picture that fills its image places, or -1.
        pad: id of the padding token.
        packed: False gives every sequence a row of its own.
        reads: (sequence, position in it) whose hidden states are wanted; by default each sequence's last.

    Returns:
        The layout, and [rows, width] the index of the sequence at every position (-1 where padding).
    """
    lengths = [len(sequence) for sequence in sequences]
    layout, width = _layout(lengths, packed)
    ids = torch.full((len(layout), width), pad)
    segments, positions = torch.zeros_like(ids), torch.zeros_like(ids)
    owners = torch.full_like(ids, -1)
    starts = torch.zeros(len(sequences), 2, dtype=torch.long)
    shown: list[tuple[int, int]] = []
    for row, members in enumerate(layout):
        start = 0
        for number, index in enumerate(members, 1):
            stop = start + lengths[index]
            ids[row, start:stop] = torch.tensor(sequences[index])
            segments[row, start:stop] = number
            positions[row, start:stop] = torch.arange(lengths[index])
            owners[row, start:stop] = index
            starts[index] = torch.tensor([row, start])
            if images[index] >= 0:
                shown.append((images[index], row))
            start = stop
    order = torch.tensor(shown, dtype=torch.long).reshape(len(shown), 2)
    wanted = [(index, length - 1) for index, length in enumerate(lengths)] if reads is None else list(reads)
    owner, offset = torch.tensor(wanted, dtype=torch.long).reshape(len(wanted), 2).unbind(1)
    places = starts[owner] + torch.stack([torch.zeros_like(offset), offset], 1)
    return Packed(ids, segments, positions, places, order[:, 0], order[:, 1]), owners


def _layout(lengths: Sequence[int], packed: bool) -> tuple[list[list[int]], int]:
    """Which sequences share a row, and the rows' width."""
    longest = max(lengths, default=0)
    if not packed or longest == 0:
        return [[index] for index in range(len(lengths))], longest
    total = sum(lengths)
    candidates = []
    for factor in WIDTHS:
        width = int(longest * factor)
        rows = first_fit(lengths, width)
        padding = 1 - total / (len(rows) * width)
        candidates.append((padding, width, rows))
        if padding <= PADDING_AIM:
            break
    # the narrowest row that meets the aim, else the one that wastes least: attention grows with the width
    narrowest = candidates[-1]
    _, width, rows = narrowest if narrowest[0] <= PADDING_AIM else min(candidates, key=lambda c: c[0])
    return rows, width


def first_fit(lengths: Sequence[int], width: int) -> list[list[int]]:
    """First-fit decreasing bin packing: rows of indices whose lengths add up to at most ``width``."""
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        row = next((r for r, free in enumerate(room) if free >= lengths[index]), None)
        if row is None:
            rows.append([])
            room.append(width)
            row = len(rows) - 1
        rows[row].append(index)
        room[row] -= lengths[index]
    return rows
