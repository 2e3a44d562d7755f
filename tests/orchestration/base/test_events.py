"""The log of a run: durable as it is written, in order, on a disk and in a real S3-speaking server."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from object_store import object_store

from finedefics_platform.base.events import EventReader, EventWriter, read_events, standing
from finedefics_platform.base.storage import Location


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with object_store() as uri:
        yield uri


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "disk":
        return Location.of(tmp_path / "events")
    return Location.of(request.getfixturevalue("bucket")) / tmp_path.name


def test_events_are_followed_once_in_order_and_carry_their_time(place: Location) -> None:
    before = time.time()
    reader = EventReader(place, attempt=1)
    assert reader.take() == []
    writer = EventWriter(place, 1)
    writer.write("step", total_step=1)
    writer.flush()
    writer.write("step", total_step=2)
    writer.flush()
    assert [event["total_step"] for event in reader.take()] == [1, 2]
    writer.write("step", total_step=3)
    writer.close()
    (last,) = reader.take()
    assert before < last["time"] < time.time()
    assert reader.take() == []
    assert [event["total_step"] for event in read_events(place)] == [1, 2, 3]


def test_a_writer_follows_those_before_it_whatever_the_clocks_say(place: Location) -> None:
    for attempt, number in ((1, 1), (1, 2), (2, 3)):
        writer = EventWriter(place, attempt)
        writer.write("note", number=number)
        writer.close()
    assert [event["number"] for event in read_events(place)] == [1, 2, 3]
    assert [event["number"] for event in EventReader(place, attempt=2).take()] == [3]


def test_steps_done_again_replace_those_beyond_the_checkpoint() -> None:
    def group(start: int, *steps: int) -> list[dict]:
        began = [{"event": "configuration", "total_step": start}, {"event": "stage", "total_step": start}]
        return [*began, *({"event": "step", "total_step": step, "from": start} for step in steps)]

    told = standing([*group(0, 1, 2, 3), *group(0, 1, 2, 3, 4, 5), *group(2, 3, 4)])
    steps = [(event["total_step"], event["from"]) for event in told if event["event"] == "step"]
    assert steps == [(1, 0), (2, 0), (3, 2), (4, 2)]
    assert [event["total_step"] for event in told if event["event"] == "stage"] == [0, 2]


def _write_for_ever(place: Location) -> None:
    writer, step = EventWriter(place, 1), 0
    while True:
        step += 1
        writer.write("step", total_step=step, filling="x" * 3000)
        if step == 50:
            writer.flush()  # a checkpoint


def test_a_killed_writer_loses_nothing_before_its_checkpoint_and_leaves_no_half_event(
    place: Location,
) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_write_for_ever, args=(place,))
    process.start()
    reader, found = EventReader(place), []
    deadline = time.monotonic() + 60
    while len(found) < 50 and time.monotonic() < deadline:
        found += reader.take()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    steps = [event["total_step"] for event in read_events(place)]
    assert len(steps) >= 50
    assert steps == list(range(1, len(steps) + 1))
