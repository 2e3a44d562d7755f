"""A pool of processes: as many as there is room for, and no item waits for one that finds none."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from finedefics.errors import FinedeficsError
from finedefics_platform.base import actors
from finedefics_platform.base.progress import SILENT
from finedefics_platform.base.workspace import open_workspace
from finedefics_platform.data.embeddings import named_embedder

TWO_GPUS = {"CPU": 16.0, "GPU": 2.0}


@pytest.mark.parametrize(
    ("nodes", "gpus", "room"),
    [
        ([TWO_GPUS], None, 2),
        ([TWO_GPUS], 0.6, 2),  # not three: none spans two GPUs
        ([TWO_GPUS], 0.5, 4),
        ([TWO_GPUS], 0.1, 16),  # its processors are what is short
        ([TWO_GPUS, {"CPU": 8.0, "GPU": 1.0}], 2, 1),  # not one and a half: none spans two nodes
        ([{"CPU": 6.0}, {"CPU": 6.0}], None, 2),  # not three
        ([{"CPU": 2.0}, {"CPU": 3.0}], 0, 1),
    ],
)
def test_no_process_spans_nodes_or_gpus(nodes: list[dict[str, float]], gpus: float | None, room: int) -> None:
    assert actors._pool(nodes, gpus)[1] == room


def test_more_gpus_than_any_node_has_are_refused() -> None:
    with pytest.raises(FinedeficsError, match="no node of the cluster has more than 1"):
        actors._pool([{"CPU": 8.0, "GPU": 1.0}] * 2, 2)


@pytest.mark.parametrize(
    ("gpus", "most", "placed"),
    [(0, 2, (0, 2)), (0.5, 2, (0, 2)), (1, 2, (1, 1)), (8, 2, (1, 2)), (8, None, (1, 8)), (0, None, (0, 2))],
)
def test_shares_are_worked_off_on_gpus_where_there_are_some(
    gpus: float, most: int | None, placed: tuple[float, int]
) -> None:
    options, count = actors._processes([{"CPU": 16.0, "GPU": gpus}], None, most)
    assert (options["num_gpus"], count) == placed
    assert options["num_cpus"] == 1


def doubled() -> Callable[[int], int]:
    return lambda item: 2 * item


def lost_once(marks: Path) -> Callable[[int], int]:
    def work(item: int) -> int:
        if item < 0:
            raise FinedeficsError("a negative number", place="here", cure="give another")
        if item == 3 and not (marks / "lost").exists():
            (marks / "lost").touch()
            os._exit(1)
        (marks / f"{item}-{len(list(marks.iterdir()))}").touch()
        return 2 * item

    return work


def test_shares_come_back_in_order_and_a_lost_one_is_begun_anew(ray_cluster: Any, tmp_path: Path) -> None:
    make = partial(lost_once, tmp_path)
    found = actors.run_in_shares([1, 2, 3, 4], make, label="doubling", progress=SILENT, most=2)
    assert found == [2, 4, 6, 8]
    assert (tmp_path / "lost").exists()
    with pytest.raises(FinedeficsError, match="a negative number"):
        actors.run_in_shares([1, -1], make, label="doubling", progress=SILENT)
    assert actors.run_in_shares([], make, label="nothing", progress=SILENT) == []


@pytest.mark.slow
def test_a_process_that_finds_no_room_keeps_no_item_waiting(
    ray_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes of five processors each are counted on, and the cluster has eight."""
    monkeypatch.setattr(actors, "_pool", lambda *_: ({"num_cpus": 5, "num_gpus": 0}, 2))
    found = actors.run_in_actors([1, 2, 3], doubled, label="doubling", progress=SILENT)
    assert found == [2, 4, 6]


def test_an_embedder_uses_a_gpu_only_where_its_process_reserved_one(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    named = named_embedder(open_workspace(tmp_path), "vision:anything", ())
    assert named.open().settings.device == "cpu"
    assert named.open("cuda").settings.device == "cuda"
    monkeypatch.setattr("ray.get_gpu_ids", lambda: [])
    assert actors.reserved_device() == "cpu"
