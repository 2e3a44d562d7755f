"""The stream's promises: order is a function of (seed, feed, position) and of nothing else."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from object_store import object_store

from finedefics.errors import FinedeficsError
from finedefics.records import Category
from finedefics_platform.base.storage import Location
from finedefics_platform.config.data import Sampler
from finedefics_platform.config.stage import Stage
from finedefics_platform.data.store import Dataset, RowGroup, open_version
from finedefics_platform.training.stream import (
    FeedIndex,
    SampleIndex,
    TrainingStream,
    _descriptor,
    _read_chunk,
    plan_stage,
)


def index_of(group_sizes: list[int]) -> SampleIndex:
    groups = tuple(RowGroup(n, 0, n, size, size, "train", True, 0) for n, size in enumerate(group_sizes))
    places = [(n, row) for n, size in enumerate(group_sizes) for row in range(size)]
    numbers = np.array(places, dtype=np.int64).reshape(-1, 2)
    # rows of a row group go round the families; siblings share all but their bill
    looks = tuple(f"c{i % len(FAMILIES)}" for i in range(len(places)))
    labelled = FeedIndex(tuple(f"{n}/{row}" for n, row in places), numbers[:, 0], numbers[:, 1], looks)
    empty = FeedIndex((), numbers[:0, 0], numbers[:0, 1])
    return SampleIndex("drawn@0", groups, {"labelled": labelled, "captioned": empty, "text": empty}, FAMILIES)


FAMILIES = tuple(
    Category(f"c{i}", f"name {i}", attributes={"family": str(i // 3), "crown": str(i // 3), "bill": str(i)})
    for i in range(6)
)
samplers = st.sampled_from(["shuffled", "confusable"])


sizes = st.lists(st.integers(1, 9), min_size=1, max_size=12)


@given(sizes, st.integers(1, 12), st.integers(0, 9), st.integers(0, 2**31), st.integers(1, 5), samplers)
@settings(max_examples=60, deadline=None)
def test_starting_later_gives_the_tail(
    group_sizes: list[int], rows: int, start: int, seed: int, window: int, sampler: Sampler
) -> None:
    plan = plan_stage(index_of(group_sizes), {"labelled": rows}, 10, seed, window, sampler)
    again = plan_stage(index_of(group_sizes), {"labelled": rows}, 10, seed, window, sampler)
    whole, tail = list(plan.batches()), list(again.batches(start))
    assert [step for step, _ in tail] == list(range(start, 10))
    for (_, left), (_, right) in zip(whole[start:], tail, strict=True):
        np.testing.assert_array_equal(left["labelled"], right["labelled"])


@given(sizes, st.integers(1, 4), st.sampled_from([1, 2, 3, 4, 6]), st.integers(0, 2**31), samplers)
@settings(max_examples=60, deadline=None)
def test_global_batches_do_not_depend_on_the_number_of_workers(
    group_sizes: list[int], twelves: int, workers: int, seed: int, sampler: Sampler
) -> None:
    plan = plan_stage(index_of(group_sizes), {"labelled": 12 * twelves}, 3, seed, sampler=sampler)
    for step, batch in plan.batches():
        parts = [plan.shard(step, rank, workers)["labelled"] for rank in range(workers)]
        assert len({len(part) for part in parts}) == 1
        np.testing.assert_array_equal(np.concatenate(parts), batch["labelled"])


@given(sizes, st.integers(1, 7), st.integers(0, 2**31), st.integers(1, 5), samplers)
@settings(max_examples=60, deadline=None)
def test_an_epoch_has_every_row_exactly_once(
    group_sizes: list[int], rows: int, seed: int, window: int, sampler: Sampler
) -> None:
    index = index_of(group_sizes)
    total = len(index.feeds["labelled"])
    # As many steps as rows: `rows` whole epochs, whose borders fall inside batches.
    plan = plan_stage(index, {"labelled": rows}, total, seed, window, sampler)
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


@pytest.mark.parametrize("group_size", [12, 18, 30])  # windows of whole families
def test_confusable_batches_are_families_whatever_windows_leave_open(group_size: int) -> None:
    index = index_of([group_size] * 5)
    plan = plan_stage(index, {"labelled": 3}, 40, seed=4, window=2, sampler="confusable")
    categories = index.feeds["labelled"].categories
    for _, batch in plan.batches():
        chosen = sorted(int(categories[row][1:]) for row in batch["labelled"])
        assert chosen in ([0, 1, 2], [3, 4, 5])


def test_the_index_knows_what_every_row_is_like(drawn_dataset: Dataset) -> None:
    index = SampleIndex.of(drawn_dataset)
    for sample in drawn_dataset.samples("train"):
        feed = index.feeds["labelled" if sample.category_id else "captioned"]
        like = feed.categories[feed.ids.index(sample.sample_id)]
        assert like == (sample.category_id or sample.negatives[0])
    assert index.feeds["text"].categories == index.feeds["text"].ids
    assert set(index.nearest) == {category.category_id for category in drawn_dataset.categories()}
    plan = plan_stage(index, {"labelled": 4, "captioned": 2, "text": 3}, 6, seed=0, sampler="confusable")
    assert all(len(batch[feed]) == rows for _, batch in plan.batches() for feed, rows in plan.feeds.items())


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


def test_a_task_reads_from_an_object_store_and_each_file_once_a_node(
    drawn_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINEDEFICS_CACHE", str(tmp_path / "cache"))
    home = drawn_dataset.root.parent
    with object_store() as uri:
        there = Location.of(uri) / "drawn"
        for way in home.files():
            (there / way).write_bytes((home / way).read_bytes())
        index = SampleIndex.of(open_version(there / drawn_dataset.digest))
        assert all(file.startswith(uri) for file in index.files)
    labelled = index.feeds["labelled"]  # the store is gone, and what was read of it is at hand
    wanted = [(int(labelled.group[i]), int(labelled.row[i])) for i in (5, 0, 3)]
    found = _read_chunk({"reads": [_descriptor(wanted, index)["reads"]]})
    assert found["sample_id"].to_pylist() == [labelled.ids[i] for i in (5, 0, 3)]
    pictures = {sample.sample_id: sample.image for sample in drawn_dataset.samples("train")}
    assert found["image"].to_pylist() == [pictures[labelled.ids[i]] for i in (5, 0, 3)]
