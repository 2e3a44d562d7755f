"""The stream's promises: order is a function of (seed, feed, position) and of nothing else."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finedefics.errors import FinedeficsError
from finedefics_platform.experiment import Stage
from finedefics_platform.store import Dataset, RowGroup
from finedefics_platform.stream import FeedIndex, SampleIndex, TrainingStream, plan_stage


def index_of(group_sizes: list[int]) -> SampleIndex:
    groups = tuple(RowGroup(f"part-{n}", n, size, "train", True) for n, size in enumerate(group_sizes))
    places = [(n, row) for n, size in enumerate(group_sizes) for row in range(size)]
    numbers = np.array(places, dtype=np.int64).reshape(-1, 2)
    labelled = FeedIndex(tuple(f"{n}/{row}" for n, row in places), numbers[:, 0], numbers[:, 1])
    empty = FeedIndex((), numbers[:0, 0], numbers[:0, 1])
    return SampleIndex("drawn@0", groups, {"labelled": labelled, "captioned": empty, "text": empty})


sizes = st.lists(st.integers(1, 9), min_size=1, max_size=12)


@given(sizes, st.integers(1, 12), st.integers(0, 9), st.integers(0, 2**31), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_starting_later_gives_the_tail(
    group_sizes: list[int], rows: int, start: int, seed: int, window: int
) -> None:
    plan = plan_stage(index_of(group_sizes), {"labelled": rows}, 10, seed, window)
    again = plan_stage(index_of(group_sizes), {"labelled": rows}, 10, seed, window)
    whole, tail = list(plan.batches()), list(again.batches(start))
    assert [step for step, _ in tail] == list(range(start, 10))
    for (_, left), (_, right) in zip(whole[start:], tail, strict=True):
        np.testing.assert_array_equal(left["labelled"], right["labelled"])


@given(sizes, st.integers(1, 4), st.sampled_from([1, 2, 3, 4, 6]), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_global_batches_do_not_depend_on_the_number_of_workers(
    group_sizes: list[int], twelves: int, workers: int, seed: int
) -> None:
    plan = plan_stage(index_of(group_sizes), {"labelled": 12 * twelves}, 3, seed)
    for step, batch in plan.batches():
        parts = [plan.shard(step, rank, workers)["labelled"] for rank in range(workers)]
        assert len({len(part) for part in parts}) == 1
        np.testing.assert_array_equal(np.concatenate(parts), batch["labelled"])


@given(sizes, st.integers(1, 7), st.integers(0, 2**31), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_an_epoch_has_every_row_exactly_once(
    group_sizes: list[int], rows: int, seed: int, window: int
) -> None:
    index = index_of(group_sizes)
    total = len(index.feeds["labelled"])
    # As many steps as rows: `rows` whole epochs, whose borders fall inside batches.
    plan = plan_stage(index, {"labelled": rows}, total, seed, window)
    sequence = np.concatenate([batch["labelled"] for _, batch in plan.batches()])
    for epoch in sequence.reshape(rows, total):
        assert sorted(epoch) == list(range(total))


def test_rows_are_near_each_other_on_disk_and_epochs_differ() -> None:
    index = index_of([8] * 12)
    plan = plan_stage(index, {"labelled": 32}, 6, seed=3, window=4)
    batches = [batch["labelled"] for _, batch in plan.batches()]
    for batch in batches:
        assert len(set(index.feeds["labelled"].group[batch])) == 4
    assert not np.array_equal(np.concatenate(batches[:3]), np.concatenate(batches[3:]))


def test_an_empty_feed_names_the_dataset_and_the_cure() -> None:
    with pytest.raises(FinedeficsError, match=r"drawn@0: feed `captioned` is empty.* data describe"):
        plan_stage(index_of([3]), {"captioned": 2}, 1, 0)


def test_rows_that_workers_cannot_share_are_refused(drawn_dataset: Dataset) -> None:
    stage = Stage(name="one", steps=1, feeds={"labelled": 3}, terms={"answer": 1})
    with pytest.raises(FinedeficsError, match=r"stages\.one\.feeds\.labelled: 3 rows .* 2 workers") as caught:
        TrainingStream(drawn_dataset, stage, 0, 0, 2)
    assert caught.value.exit_code == 2


def test_the_stream_delivers_the_planned_rows(ray_cluster: None, drawn_dataset: Dataset) -> None:
    stage = Stage(
        name="one",
        steps=9,
        feeds={"labelled": 6, "captioned": 4, "text": 2},
        terms={"answer": 1, "caption": 1, "text": 1},
    )
    index = SampleIndex.of(drawn_dataset)
    pictures = {sample.sample_id: sample for sample in drawn_dataset.samples("train")}
    plan = plan_stage(index, stage.feeds, stage.steps, seed=5)
    for rank in range(2):
        stream = TrainingStream(drawn_dataset, stage, 5, rank, 2, start_step=3)
        seen = list(stream)
        assert [step for step, _ in seen] == list(range(3, 9))
        for step, rows in seen:
            expected = plan.shard(step, rank, 2)
            for feed in ("labelled", "captioned"):
                ids = [index.feeds[feed].ids[position] for position in expected[feed]]
                assert rows[feed] == [pictures[sample_id] for sample_id in ids]
            assert [c.category_id for c in rows["text"]] == [
                index.feeds["text"].ids[position] for position in expected["text"]
            ]
        assert all(sample.category_id for _, rows in seen for sample in rows["labelled"])
        assert all(
            sample.description and not sample.category_id for _, rows in seen for sample in rows["captioned"]
        )


def test_the_index_counts_what_the_store_holds(drawn_dataset: Dataset) -> None:
    index = SampleIndex.of(drawn_dataset)
    samples = drawn_dataset.samples("train")
    counted = Counter("labelled" if sample.category_id else "captioned" for sample in samples)
    assert {feed: len(index.feeds[feed]) for feed in counted} == dict(counted)
