"""The order's promises: a function of (seed, feed, place) and of nothing else, and rows read in sequence."""

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finedefics.errors import FinedeficsError
from finedefics_platform.config.data import Sampler
from finedefics_platform.training.stream import FeedIndex, SampleIndex, StagePlan, plan_stage
from finedefics_platform.training.stream.fetch import due
from finedefics_platform.training.stream.order import GROUP_BYTES, POOL_GROUPS, lanes_of

NEAREST = {c: [other for other in range(c // 3 * 3, c // 3 * 3 + 3) if other != c] for c in range(6)}
Likes = npt.NDArray[np.int32]


def index_of(
    sizes: list[int], group_bytes: int = 0, likes: Likes | None = None, nearest: Any = NEAREST
) -> SampleIndex:
    """Row groups of these sizes; their rows go round two families of three categories."""
    first = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    numbers = np.arange(len(sizes), dtype=np.int64)
    if likes is None:
        likes = (np.arange(first[-1]) % 6).astype(np.int32)
    labelled = FeedIndex(numbers, first, np.full(len(sizes), group_bytes, dtype=np.int64), likes)
    none = np.empty(0, dtype=np.int64)
    empty = FeedIndex(none, np.zeros(1, dtype=np.int64), none, none.astype(np.int32))
    feeds = {"labelled": labelled, "captioned": empty, "text": empty}
    return SampleIndex("drawn@0", numbers // 16, numbers % 16, np.diff(first), feeds, (), nearest)


SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=24)
SEEDS = st.integers(0, 2**31)
SAMPLERS = st.sampled_from(["shuffled", "confusable"])
# from all groups in hand down to one: heavier groups, fewer of them
BYTES = st.sampled_from([0, 16 * GROUP_BYTES, 64 * GROUP_BYTES, 300 * GROUP_BYTES])


@given(SIZES, st.integers(1, 12), SEEDS, BYTES, SAMPLERS)
@settings(max_examples=100)
def test_an_epoch_has_every_row_exactly_once(
    sizes: list[int], rows: int, seed: int, group_bytes: int, sampler: Sampler
) -> None:
    total = sum(sizes)
    # As many steps as rows: `rows` whole epochs, whose borders fall inside batches.
    plan = plan_stage(index_of(sizes, group_bytes), {"labelled": rows}, total, seed, sampler)
    sequence = np.concatenate([batch["labelled"] for _, batch in plan.batches()])
    for epoch in sequence.reshape(rows, total):
        assert sorted(epoch) == list(range(total))


@given(SIZES, st.integers(1, 12), st.integers(0, 9), SEEDS, BYTES, SAMPLERS)
@settings(max_examples=60)
def test_starting_later_gives_the_tail(
    sizes: list[int], rows: int, start: int, seed: int, group_bytes: int, sampler: Sampler
) -> None:
    plan, again = (
        plan_stage(index_of(sizes, group_bytes), {"labelled": rows}, 10, seed, sampler) for _ in range(2)
    )
    whole, tail = list(plan.batches()), list(again.batches(start))
    assert [step for step, _ in tail] == list(range(start, 10))
    for (_, left), (_, right) in zip(whole[start:], tail, strict=True):
        np.testing.assert_array_equal(left["labelled"], right["labelled"])


@given(SIZES, st.integers(1, 4), st.sampled_from([1, 2, 3, 8, 24]), SEEDS, BYTES, SAMPLERS)
@settings(max_examples=60)
def test_global_batches_do_not_depend_on_the_number_of_workers(
    sizes: list[int], dozens: int, workers: int, seed: int, group_bytes: int, sampler: Sampler
) -> None:
    index = index_of(sizes, group_bytes)
    plan = plan_stage(index, {"labelled": 24 * dozens}, 3, seed, sampler=sampler)
    others = [plan_stage(index, {"labelled": 24 * dozens}, 3, seed, sampler=sampler) for _ in range(workers)]
    for step, batch in plan.batches():
        parts = [own.shard(step, rank, workers)["labelled"] for rank, own in enumerate(others)]
        assert len({len(part) for part in parts}) == 1
        np.testing.assert_array_equal(np.concatenate(parts), batch["labelled"])


@given(SIZES, st.integers(1, 3), st.sampled_from([1, 2, 8]), st.integers(0, 5), SEEDS, BYTES, SAMPLERS)
@settings(max_examples=60)
def test_what_a_rank_reads_is_what_its_places_need(
    sizes: list[int], eights: int, workers: int, start: int, seed: int, group_bytes: int, sampler: Sampler
) -> None:
    plan = plan_stage(index_of(sizes, group_bytes), {"labelled": 8 * eights}, 6, seed, sampler)
    index = plan.index.feeds["labelled"]
    for rank in range(workers):
        read: dict[int, int] = {}
        for one in due(plan, rank, workers, start):
            for row, place in zip(one.rows.tolist(), one.places.tolist(), strict=True):
                assert place not in read
                read[place] = int(index.first[one.group]) + row
        wanted = {}
        for step in range(start, plan.steps):
            own = plan.shard(step, rank, workers)["labelled"]
            first = step * 8 * eights + rank * len(own)
            wanted |= {first + at: row for at, row in enumerate(own.tolist())}
        assert read == wanted


def test_a_million_rows_are_read_once_by_64_ranks() -> None:
    plan = plan_stage(index_of([64] * 15_625), {"labelled": 256}, 3906, seed=1)  # one epoch
    for rank in (0, 17, 63):
        groups = [one.group for one in due(plan, rank, 64)]
        assert len(groups) <= 15_625 / 64 + 2  # and the two at the lane's ends, which others read as well
        assert len(set(groups)) == len(groups)


def test_ranks_that_share_lanes_read_more_and_get_theirs() -> None:
    plan = plan_stage(index_of([64] * 640), {"labelled": 256}, 160, seed=1)
    read = Counter(one.group for rank in range(128) for one in due(plan, rank, 128))
    assert sum(read.values()) <= 2 * (640 + 64)  # two ranks a lane


def test_heavy_row_groups_are_fewer_in_hand_and_large_batches_have_more_lanes() -> None:
    assert lanes_of(256, 64) == 64
    assert lanes_of(24, 64) == 24
    assert lanes_of(72, 64) == 36
    assert lanes_of(127, 64) == 1
    orders = {
        (batch, size): plan_stage(index_of([64] * 2000, size), {"labelled": batch}, 1, 0).orders["labelled"]
        for batch in (8, 256, 1024)
        for size in (GROUP_BYTES, 4 * GROUP_BYTES)
    }
    assert {key: (o.lanes, o.window) for key, o in orders.items()} == {
        (8, GROUP_BYTES): (8, POOL_GROUPS // 8),
        (8, 4 * GROUP_BYTES): (8, POOL_GROUPS // 32),
        (256, GROUP_BYTES): (64, 1),
        (256, 4 * GROUP_BYTES): (16, 1),
        (1024, GROUP_BYTES): (256, 1),
        (1024, 4 * GROUP_BYTES): (64, 1),
    }


def batches_of(plan: StagePlan) -> npt.NDArray[np.int64]:
    return np.stack([batch["labelled"] for _, batch in plan.batches()])


def pairs_within(groups: npt.NDArray[np.int64]) -> float:
    """Share of a row's batch mates that are of its group."""
    size = groups.shape[1]
    same = sum(int((np.unique(row, return_counts=True)[1] ** 2).sum()) - size for row in groups)
    return same / (len(groups) * size * (size - 1))


@pytest.mark.parametrize("batch", [16, 256])
def test_shuffle_quality(batch: int) -> None:
    """Against a shuffle of all rows: batch mates of one row group, pairs that meet again, where rows go."""
    sizes, total = [64] * 1024, 64 * 1024
    plan = plan_stage(index_of(sizes), {"labelled": batch}, 2 * total // batch, seed=7)
    first, second = np.split(batches_of(plan), 2)
    # Four places a lane and window: three mates of 255 are of a row's own group. Of 16 rows hardly one is.
    assert pairs_within(first // 64) <= 3.1 / 255
    # Rows that shared a batch share one again in the next epoch at most four times as often as by chance.
    again = np.empty(total, dtype=np.int64)
    again[second.ravel()] = np.arange(total) // batch
    assert pairs_within(again[first]) <= 4 * (batch - 1) / (total - 1)
    # Groups that are neighbours in storage are as far apart as two places drawn at random: a third.
    place = np.empty(total)
    place[first.ravel()] = np.arange(total)
    middle = place.reshape(1024, 64).mean(axis=1)
    assert 0.3 < np.abs(np.diff(middle)).mean() / total < 0.37
    # Rows of a group come close together, as they are read at once; not in the order of storage.
    in_order = np.diff(place.reshape(1024, 64), axis=1) > 0
    assert 0.49 < in_order.mean() < 0.51


def test_a_small_set_is_mixed_as_a_whole() -> None:
    plan = plan_stage(index_of([64] * 8), {"labelled": 32}, 16 * 40, seed=2)
    batches = batches_of(plan).reshape(40, 16, 32)
    # each row, over 40 epochs, in every half of an epoch, and with every group's rows
    late = np.zeros(512)
    for epoch in batches:
        late[epoch[8:].ravel()] += 1
    assert late.min() > 5
    assert late.max() < 35
    assert 2 / 31 < pairs_within(batches.reshape(-1, 32) // 64) < 5 / 31  # by chance 63 / 511 = 3.8 / 31


def test_epochs_feeds_and_seeds_differ() -> None:
    index = index_of([8] * 12)
    first, second = np.split(batches_of(plan_stage(index, {"labelled": 32}, 6, seed=3)), 2)
    other = batches_of(plan_stage(index, {"labelled": 32}, 3, seed=4))
    assert len({first.tobytes(), second.tobytes(), other.tobytes()}) == 3


def similar_points(spread: float, families: int, dimensions: int) -> dict[int, list[int]]:
    """The 16 nearest of 10,000 points on a sphere, scattered around the middles of families."""
    rng = np.random.default_rng(0)
    middles = rng.normal(size=(families, dimensions))[np.arange(10_000) % families]
    points = (middles + spread * rng.normal(size=middles.shape)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    found = []
    for start in range(0, 10_000, 1000):
        likeness = points[start : start + 1000] @ points.T
        best = np.argpartition(-likeness, 17, axis=1)[:, :17]
        order = np.argsort(-np.take_along_axis(likeness, best, 1), axis=1)
        found += np.take_along_axis(best, order, 1)[:, 1:].tolist()
    return dict(enumerate(found))


def coverage(batches: npt.NDArray[np.int64], nearest: dict[int, list[int]]) -> float:
    """How many of its category's 16 neighbours a row meets in its batch."""
    inside = [set(batch.tolist()) for batch in batches]
    return float(
        np.mean(
            [len(there.intersection(nearest[c])) for there, b in zip(inside, batches, strict=True) for c in b]
        )
    )


@pytest.mark.parametrize(
    ("spread", "families", "at_least"),
    [(0.3, 500, 7.0), (1.0, 10_000, 4.5)],
    ids=["families of twenty", "no families at all"],
)
def test_confusable_batches_meet_the_real_neighbourhood(
    spread: float, families: int, at_least: float
) -> None:
    nearest = similar_points(spread, families, 16 if families < 10_000 else 8)
    likes = np.random.default_rng(1).permutation(np.repeat(np.arange(10_000), 100)).astype(np.int32)
    index = index_of([64] * 15_625, GROUP_BYTES, likes, nearest)
    plan = plan_stage(index, {"labelled": 256}, 63, seed=5, sampler="confusable")  # what is in hand together
    order = plan.orders["labelled"]
    assert (order.pool, order.lanes) == (256, 64)
    assert coverage(likes[batches_of(plan)], nearest) > at_least
    shuffled = plan_stage(index, {"labelled": 256}, 63, seed=5)
    assert coverage(likes[batches_of(shuffled)], nearest) < 0.6
    # and reading stays in sequence: beside its own groups, a lane reads the two at its ends
    read = [one.group for one in due(plan, 40, 64)]
    assert len(read) <= 4 + 2


@pytest.mark.parametrize("group_size", [12, 18, 30])
def test_confusable_batches_of_a_small_set_are_whole_families(group_size: int) -> None:
    plan = plan_stage(index_of([group_size] * 5), {"labelled": 3}, 40, 4, "confusable")
    for batch in batches_of(plan):
        assert sorted(row % 6 for row in batch) in ([0, 1, 2], [3, 4, 5])


def test_rows_of_which_nothing_is_known_are_not_alike() -> None:
    likes = np.array([-1] * 6 + [0, 1] * 3, dtype=np.int32)
    plan = plan_stage(index_of([12], likes=likes), {"labelled": 4}, 3, 0, "confusable")
    assert sorted(batches_of(plan).ravel().tolist()) == list(range(12))
    # a pair of similar categories each batch, beside strangers: six of one category would repel nobody
    assert [sum(likes[batch] >= 0) for batch in batches_of(plan)] == [2, 2, 2]


def test_an_empty_feed_names_the_dataset_and_the_cure() -> None:
    with pytest.raises(FinedeficsError, match=r"drawn@0: feed `captioned` is empty.* data describe"):
        plan_stage(index_of([3]), {"captioned": 2}, 1, 0)
