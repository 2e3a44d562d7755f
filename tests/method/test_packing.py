"""Packing: every sequence stands once, whole, and is found again."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finedefics.packing import PADDING_AIM, best_fit, pack, rows_needed

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=40)


def sequences_of(lengths: list[int]) -> list[list[int]]:
    return [[100 * index + place + 1 for place in range(length)] for index, length in enumerate(lengths)]


@given(LENGTHS, st.booleans())
def test_every_sequence_stands_once_and_whole(lengths: list[int], packed: bool) -> None:
    sequences = sequences_of(lengths)
    layout, owners = pack(sequences, [-1] * len(sequences), pad=0, packed=packed)
    for index, sequence in enumerate(sequences):
        assert layout.ids[owners == index].tolist() == sequence
        assert layout.positions[owners == index].tolist() == list(range(len(sequence)))
    assert layout.useful == sum(lengths)
    assert (layout.ids[owners == -1] == 0).all()
    assert (layout.segments[owners == -1] == 0).all()


@given(LENGTHS, st.integers(1, 6), st.data())
def test_reads_come_back_in_the_order_they_were_given(
    lengths: list[int], pieces: int, data: st.DataObject
) -> None:
    reads = data.draw(
        st.lists(
            st.integers(0, len(lengths) - 1).flatmap(
                lambda i: st.tuples(st.just(i), st.integers(0, lengths[i] - 1))
            ),
            max_size=12,
        )
    )
    sequences = sequences_of(lengths)
    layout, _ = pack(sequences, [-1] * len(sequences), pad=0, reads=reads)
    found = [piece.ids[piece.reads[:, 0], piece.reads[:, 1]] for piece in layout.split(pieces)]
    assert len(found) == pieces
    ordered = torch.cat(found)[layout.in_given_order(pieces)]
    assert ordered.tolist() == [sequences[index][place] for index, place in reads]


@given(LENGTHS, st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_pieces_cover_every_row_once_with_its_pictures(lengths: list[int], pieces: int) -> None:
    images = [index if index % 3 == 0 else -1 for index in range(len(lengths))]
    layout, _ = pack(sequences_of(lengths), images, pad=0)
    bounds = layout.bounds(pieces)
    assert bounds[0][0] == 0
    assert bounds[-1][1] == len(layout)
    shown = [
        image
        for (first, last), piece in zip(bounds, layout.split(pieces), strict=True)
        if last > first
        for image in piece.images.tolist()
    ]
    assert shown == layout.images.tolist()
    assert sorted(shown) == [image for image in images if image >= 0]


@given(st.lists(st.integers(3, 20), min_size=200, max_size=250))
@settings(max_examples=25, deadline=None)
def test_many_short_texts_meet_the_aim(lengths: list[int]) -> None:
    layout, _ = pack(sequences_of(lengths), [-1] * len(lengths), pad=0)
    assert 1 - layout.useful / layout.ids.numel() <= PADDING_AIM


@given(LENGTHS, st.integers(30, 60))
def test_rows_hold_no_more_than_they_can(lengths: list[int], width: int) -> None:
    rows = best_fit(lengths, width)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= width for row in rows)


@given(LENGTHS, st.integers(30, 60))
def test_a_sequence_goes_to_the_fullest_row_that_has_room(lengths: list[int], width: int) -> None:
    """The same rows as trying every row for one sequence after the other, longest first."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [row for row, room in enumerate(rooms) if room >= length]
        row = min(fitting, key=lambda row: rooms[row], default=len(rooms))
        if row == len(rooms):
            rooms.append(width)
        rooms[row] -= length
    found = [width - sum(lengths[i] for i in row) for row in best_fit(lengths, width)]
    assert sorted(found) == sorted(rooms)
    assert rows_needed(Counter(lengths), width) == len(rooms)


@pytest.mark.parametrize("packed", [True, False])
def test_no_sequence_makes_no_row(packed: bool) -> None:
    layout, owners = pack([], [], pad=0, packed=packed)
    assert layout.ids.shape == owners.shape == (0, 0)
    assert (len(layout.reads), layout.ids.dtype, layout.reads.dtype) == (0, torch.int64, torch.int64)
