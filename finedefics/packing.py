"""Packing: many short sequences side by side in few rows, each blind to its neighbours.

Names are a few tokens long, descriptions a hundred: padding every text to the longest wastes most of a step.
A packed row holds several sequences; positions that restart and attention that ends at each one's bounds
(`finedefics.backbones.attention`) keep its hidden states what they would be alone.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from finedefics.flat import sent

Numbers = npt.NDArray[np.int64]
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
        return Packed(*(sent(getattr(self, name), device) for name in self.__dataclass_fields__))

    def rows(self, first: int, last: int) -> "Packed":
        """Rows ``first`` to ``last`` (exclusive); reads keep their order and count rows from ``first``."""
        if (first, last) == (0, len(self.ids)):
            return self
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

    def pieces(self, tokens: int | None) -> int:
        """Fewest near-equal runs of rows that hold at most so many positions each, padding included.

        A row that alone holds more is a run of its own. Any larger number of pieces keeps within them too.
        """
        if tokens is None or not len(self.ids):
            return 1
        return math.ceil(len(self.ids) / max(1, tokens // self.ids.shape[1]))

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


def pack(
    sequences: Sequence[Sequence[int]],
    images: Sequence[int],
    *,
    pad: int,
    packed: bool = True,
    reads: Sequence[tuple[int, int]] | None = None,
    widest: int | None = None,
) -> tuple[Packed, Tensor]:
    """Lay sequences out in rows.

    Args:
        sequences: token ids.
        images: for each sequence the picture that fills its image places, or -1.
        pad: id of the padding token.
        packed: False gives every sequence a row of its own.
        reads: (sequence, position in it) whose hidden states are wanted; by default each sequence's last.
        widest: most positions of a row, where every sequence fits.

    Returns:
        The layout, and [rows, width] the index of the sequence at every position (-1 where padding).
    """
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    layout, width = _layout(lengths.tolist(), packed, widest)
    order = np.array([index for members in layout for index in members], dtype=np.int64)
    counts = np.array([len(members) for members in layout], dtype=np.int64)
    row = np.repeat(np.arange(len(layout)), counts)
    number = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)  # within the row
    ends = np.cumsum(lengths[order])
    start = ends - lengths[order]  # among all tokens; from here on, of the row
    start -= np.repeat(start[np.cumsum(counts) - counts], counts)
    owners, (ids, segments, positions) = _filled(
        sequences, lengths, order, (row, number, start), (len(layout), width), pad
    )
    places = np.zeros((len(sequences), 2), dtype=np.int64)
    places[order] = np.stack([row, start], 1)
    shown = np.asarray(images, dtype=np.int64).reshape(-1)[order]
    last = np.stack([np.arange(len(lengths)), lengths - 1], 1)
    read = last if reads is None else np.array(reads, dtype=np.int64).reshape(len(reads), 2)
    found = places[read[:, 0]]
    found[:, 1] += read[:, 1]
    tensors = (ids, segments, positions, found, shown[shown >= 0], row[shown >= 0])
    return Packed(*map(torch.from_numpy, tensors)), torch.from_numpy(owners)


def _filled(
    sequences: Sequence[Sequence[int]],
    lengths: Numbers,
    order: Numbers,
    places: tuple[Numbers, Numbers, Numbers],
    shape: tuple[int, int],
    pad: int,
) -> tuple[Numbers, tuple[Numbers, Numbers, Numbers]]:
    """Owner of every position [rows, width], and its token, its segment and its place in the sequence.

    Args:
        order: of the sequences in the layout.
        places: of each of them: row, number within the row, first column.
        shape: rows and width.
    """
    row, number, start = places
    held = lengths[order]
    within = np.arange(held.sum()) - np.repeat(np.cumsum(held) - held, held)
    at = (np.repeat(row, held), np.repeat(start, held) + within)
    owners, ids = np.full(shape, -1), np.full(shape, pad)
    segments, positions = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    owners[at] = np.repeat(order, held)
    ids[at] = np.fromiter(chain.from_iterable(sequences[i] for i in order), np.int64, len(within))
    segments[at] = np.repeat(number + 1, held)
    positions[at] = within
    return owners, (ids, segments, positions)


def _layout(lengths: Sequence[int], packed: bool, widest: int | None) -> tuple[list[list[int]], int]:
    """Which sequences share a row, and the rows' width."""
    longest = max(lengths, default=0)
    if not packed or longest == 0:
        return [[index] for index in range(len(lengths))], longest
    total, counts = sum(lengths), Counter(lengths)
    least, width = 1.0, longest
    for factor in WIDTHS:
        tried = int(longest * factor)
        if widest is not None and tried > max(widest, longest):
            break
        padding = 1 - total / (rows_needed(counts, tried) * tried)
        if padding < least:
            least, width = padding, tried
        if padding <= PADDING_AIM:
            # the narrowest row that meets the aim, else the one that wastes least: attention grows with it
            break
    return best_fit(lengths, width), width


def rows_needed(counts: Mapping[int, int], width: int) -> int:
    """How many rows `best_fit` makes of so many sequences of each length, without saying which.

    Rows of equal room are counted together, so the time depends on how many lengths there are alone.
    """
    rows, waiting, rooms = 0, [0] * (width + 1), 0
    for length in sorted(counts, reverse=True):
        left = counts[length] if length else 0  # what has no length needs no room
        while left:
            if enough := rooms >> length:
                room = length + (enough & -enough).bit_length() - 1
                fits = room // length
                taken = min(waiting[room], left // fits) or 1  # rows filled up, or a last one that is not
                waiting[room] -= taken
                if not waiting[room]:
                    rooms ^= 1 << room
            else:
                room, fits = width, width // length
                taken = left // fits or 1
                rows += taken
            placed = min(fits, left)  # in each of these rows
            left -= taken * placed
            room -= length * placed
            waiting[room] += taken
            rooms |= 1 << room
    return max(rows, 1)


def best_fit(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Best-fit decreasing bin packing: rows of indices whose lengths add up to at most ``width``.

    Each sequence, longest first, goes to the fullest row that has room for it. Rows wait by their room, and
    equal lengths are placed together, so the time is that of sorting the lengths and of one look-up a
    placement: O(n log n) in the number of sequences.
    """
    equal: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        equal.setdefault(length, []).append(index)
    rows: list[list[int]] = []
    waiting: list[list[int]] = [[] for _ in range(width + 1)]  # rows by their room
    rooms = 0  # bit r: a row with room r waits
    for length in sorted(equal, reverse=True):
        indices, done = equal[length], 0
        while done < len(indices):
            if enough := rooms >> length:
                room = length + (enough & -enough).bit_length() - 1
                row = waiting[room].pop()
                if not waiting[room]:
                    rooms ^= 1 << room
            else:
                room, row = width, len(rows)
                rows.append([])
            # what is left of the fullest row that fits is the fullest again, while it has room for one more
            fits = room // length if length else len(indices)
            placed = indices[done : done + fits]
            rows[row] += placed
            done += len(placed)
            room -= length * len(placed)
            waiting[room].append(row)
            rooms |= 1 << room
    return rows
