"""The stream delivers what the plan says, from wherever the rows lie, and goes on from any step."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from object_store import object_store

from finedefics.errors import FinedeficsError
from finedefics.records import Category, Sample
from finedefics_platform.base.storage import Location
from finedefics_platform.config.stage import Stage
from finedefics_platform.data.store import Dataset, open_version
from finedefics_platform.training.stream import (
    SampleIndex,
    TrainingStream,
    in_threads,
    plan_stage,
    with_ray_data,
)
from finedefics_platform.training.stream.engines import Chunk
from finedefics_platform.training.stream.fetch import CHUNK_ROWS, FeedRows

TERMS = {"labelled": "answer", "captioned": "caption", "text": "text", "inferred": "answer"}


def stage(steps: int, **feeds: int) -> Stage:
    feeds = feeds or {"labelled": 8, "captioned": 8, "text": 8}
    return Stage(name="one", steps=steps, feeds=feeds, terms={TERMS[feed]: 1 for feed in feeds})


def ids(rows: FeedRows) -> dict[str, list[str]]:
    return {
        feed: [row.sample_id if isinstance(row, Sample) else row.category_id for row in of_feed]
        for feed, of_feed in rows.items()
    }


def streamed(
    dataset: Dataset, of: Stage, rank: int = 0, workers: int = 1, start: int = 0, **more: object
) -> list[tuple[int, FeedRows]]:
    return list(TrainingStream(dataset, of, 5, rank, workers, start, engine=in_threads, **more))  # type: ignore[arg-type]


def planned(dataset: Dataset, of: Stage) -> list[dict[str, list[Sample] | list[Category]]]:
    """The rows of every global batch, looked up one by one in the plan, the tables read as a whole."""
    index = SampleIndex.of(dataset)
    samples: dict[str, list[Sample]] = {
        "labelled": [s for s in dataset.samples("train") if s.category_id],
        "captioned": [s for s in dataset.samples("train") if s.description and not s.category_id],
    }
    plan = plan_stage(index, of.feeds, of.steps, 5)
    return [
        {
            feed: [index.texts[row] if feed == "text" else samples[feed][row] for row in rows]
            for feed, rows in batch.items()
        }
        for _, batch in plan.batches()
    ]


def test_the_index_counts_what_the_store_holds(drawn_dataset: Dataset) -> None:
    index = SampleIndex.of(drawn_dataset)
    samples = drawn_dataset.samples("train")
    counted = Counter("labelled" if sample.category_id else "captioned" for sample in samples)
    assert {feed: len(index.feeds[feed]) for feed in counted} == dict(counted)
    assert len(index.feeds["text"]) == len(drawn_dataset.categories())
    assert index.labelled_described == counted["labelled"]


def test_the_confusable_sampler_knows_what_every_row_is_like(drawn_dataset: Dataset) -> None:
    index = SampleIndex.of(drawn_dataset, "confusable")
    place = {category.category_id: at for at, category in enumerate(drawn_dataset.categories())}
    samples = drawn_dataset.samples("train")
    for feed in ("labelled", "captioned"):
        own = [s for s in samples if bool(s.category_id) == (feed == "labelled")]
        likes = index.feeds[feed].likes
        assert likes is not None
        assert likes.tolist() == [place[s.category_id or s.negatives[0]] for s in own]
    assert index.nearest is not None
    assert set(index.nearest) == set(place.values())  # not mined for categories: compared by attributes
    feeds = {"labelled": 4, "captioned": 2, "text": 3}
    plan = plan_stage(index, feeds, 6, 0, "confusable")
    assert all(len(batch[feed]) == rows for _, batch in plan.batches() for feed, rows in feeds.items())


def test_the_stream_delivers_the_planned_rows_whole(drawn_dataset: Dataset) -> None:
    of = stage(9)
    assert [rows for _, rows in streamed(drawn_dataset, of)] == planned(drawn_dataset, of)


@pytest.mark.parametrize("sampler", ["shuffled", "confusable"])
def test_two_epochs_have_one_order_on_1_2_and_8_workers_and_any_step_continues_them(
    inferred_dataset: Dataset, sampler: str
) -> None:
    # 32 labelled and 16 captioned rows: epochs end at several steps, texts and inferred labels inside of them
    of = stage(9, labelled=8, captioned=8, text=8, inferred=8)
    whole = [ids(rows) for _, rows in streamed(inferred_dataset, of, sampler=sampler)]
    for feed, size in (("labelled", 32), ("captioned", 16), ("text", 6), ("inferred", 9)):
        sequence = [one for rows in whole for one in rows[feed]]
        epochs = [sequence[at : at + size] for at in (0, size)]
        assert sorted(epochs[0]) == sorted(epochs[1])
        assert epochs[0] != epochs[1]
        assert len(set(epochs[0])) == size
    for workers in (1, 2, 8):
        for start in (0, 1, 3, 4, 8):
            parts = [
                streamed(inferred_dataset, of, r, workers, start, sampler=sampler) for r in range(workers)
            ]
            for at, step in enumerate(range(start, 9)):
                assert {part[at][0] for part in parts} == {step}
                found = [ids(part[at][1]) for part in parts]
                assert {feed: [one for f in found for one in f[feed]] for feed in whole[step]} == whole[step]


def test_of_pictures_without_a_label_those_with_a_description_are_delivered(
    partly_described: Dataset,
) -> None:
    of = stage(7, captioned=2)
    for sampler in ("shuffled", "confusable"):
        seen = [
            row for _, rows in streamed(partly_described, of, sampler=sampler) for row in rows["captioned"]
        ]
        assert sorted(row.sample_id for row in seen[:7]) == [f"s{number:02}" for number in range(0, 20, 3)]
        assert all(row.description == f"look {int(row.sample_id[1:])}" for row in seen)  # type: ignore[union-attr]
    index = SampleIndex.of(partly_described, "confusable").feeds["captioned"]
    assert index.likes is not None
    assert index.likes.tolist() == [number % 3 for number in range(0, 20, 3)]


def test_a_version_without_descriptions_and_negatives_streams(drawn_dataset: Dataset) -> None:
    manifest = dict(drawn_dataset.manifest)
    manifest["tables"] = {
        name: table for name, table in manifest["tables"].items() if name not in ("descriptions", "negatives")
    }
    bare = Dataset(drawn_dataset.root, drawn_dataset.name, drawn_dataset.digest, manifest)
    (_, rows), *_ = streamed(bare, stage(2, labelled=8))
    assert all(isinstance(row, Sample) and row.description is None for row in rows["labelled"])
    assert all(isinstance(row, Sample) and row.negatives == () for row in rows["labelled"])


def test_rows_that_workers_cannot_share_are_refused(drawn_dataset: Dataset) -> None:
    with pytest.raises(FinedeficsError, match=r"stages\.one\.feeds\.labelled: 3 rows .* 2 workers") as caught:
        TrainingStream(drawn_dataset, stage(1, labelled=3), 0, 0, 2)
    assert caught.value.exit_code == 2


def test_only_what_is_due_soon_is_read(drawn_dataset: Dataset) -> None:
    asked = 0

    def counting(chunks: Iterator[Chunk]) -> Iterator[pa.Table]:
        def counted() -> Iterator[Chunk]:
            nonlocal asked
            for chunk in chunks:
                asked += sum(len(read.rows) for read in chunk)
                yield chunk

        yield from in_threads(counted())

    stream = iter(TrainingStream(drawn_dataset, stage(400, labelled=8), 0, 0, 1, engine=counting))
    for step in range(3):
        assert next(stream)[0] == step
    time.sleep(0.2)  # whatever it would read, it has read
    in_hand, ahead, in_threads_ = 32, 5 * 8, 4 * CHUNK_ROWS
    assert asked <= 3 * 8 + in_hand + ahead + in_threads_


def test_ray_data_reads_the_same_rows_and_hands_on_the_error(
    ray_cluster: None, drawn_dataset: Dataset, tmp_path: Path
) -> None:
    of = stage(9)
    for rank in range(2):
        expected = streamed(drawn_dataset, of, rank, 2, 3)
        assert list(TrainingStream(drawn_dataset, of, 5, rank, 2, 3, engine=with_ray_data)) == expected
    home = drawn_dataset.root.parent
    there = Location.of(tmp_path) / "drawn"
    for way in home.files():
        (there / way).write_bytes((home / way).read_bytes())
    copy = open_version(there / drawn_dataset.digest)
    damaged = copy.files("descriptions")[0]
    damaged.write_bytes(damaged.read_bytes()[:-100])
    for engine in (with_ray_data, in_threads):
        with pytest.raises(FinedeficsError, match=rf"{damaged}: .*missing or damaged"):
            list(TrainingStream(copy, of, 5, 0, 1, engine=engine))


def test_row_groups_in_an_object_store_are_read_by_range(
    drawn_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINEDEFICS_CACHE", str(tmp_path / "cache"))
    home, of = drawn_dataset.root.parent, stage(3)
    with object_store() as uri:
        there = Location.of(uri) / "drawn"
        for way in home.files():
            (there / way).write_bytes((home / way).read_bytes())
        remote = open_version(there / drawn_dataset.digest)
        index = SampleIndex.of(remote)
        assert streamed(remote, of, index=index) == streamed(drawn_dataset, of)
    pictures = {file.name for file in remote.files("samples")}
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.name in pictures]
