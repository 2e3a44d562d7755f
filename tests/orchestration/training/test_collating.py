"""Processes collate the batches that threads do; whatever happens to one is told, and none stays."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import collating_trainer
import psutil
import pytest
import torch
from collating_trainer import CATEGORIES, rows_of, small_collator

from finedefics.batch import Batch
from finedefics.collation import Collator
from finedefics.errors import FinedeficsError
from finedefics.flat import Flat
from finedefics_platform.config.experiment import Resources
from finedefics_platform.training.collating import collated, prepare, processes_of
from finedefics_platform.training.lost import LostProcess

STEPS = 7
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def collate() -> Collator:
    prepare(1)
    return small_collator()


def tensors_of(batch: Batch) -> dict[str, torch.Tensor]:
    found: dict[str, Any] = dict(batch.images)
    for name in (field.name for field in fields(batch)):
        value = getattr(batch, name)
        if isinstance(value, torch.Tensor):
            found[name] = value
        elif name in ("sequences", "embedded"):
            found |= {f"{name}.{part}": getattr(value, part) for part in value.__dataclass_fields__}
    return found


def assert_equal(left: Batch, right: Batch) -> None:
    one, other = tensors_of(left), tensors_of(right)
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert tensor.equal(other[name]), name
    assert (left.step, left.size) == (right.step, right.size)


def processes() -> list[psutil.Process]:
    """Those that collate: children of the server that forks them."""
    return [child for child in psutil.Process().children(recursive=True) if is_collating(child)]


def is_collating(process: psutil.Process) -> bool:
    with psutil.Process().oneshot():
        try:
            line = process.cmdline()
            return any("forkserver" in word for word in line) and any(
                "forkserver" in word for word in (process.parent() or process).cmdline()
            )
        except psutil.NoSuchProcess:
            return False


def eventually(holds: Callable[[], bool], seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
    return holds()


def test_processes_make_the_batches_of_threads_in_their_order(collate: Collator) -> None:
    inside, outside = (list(collated(rows_of(STEPS), collate, count, CPU)) for count in (0, 2))
    assert [step for step, _ in outside] == list(range(STEPS))
    for (_, one), (_, other) in zip(inside, outside, strict=True):
        assert_equal(one, other)
    assert len({t.untyped_storage().data_ptr() for t in tensors_of(outside[0][1]).values() if t.numel()}) == 1
    assert eventually(lambda: not processes())


def test_the_order_of_torch_s_random_numbers_is_left_alone(collate: Collator) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    list(collated(rows_of(2), collate, 1, CPU))
    assert torch.rand(3).equal(expected)


@pytest.mark.parametrize("count", [0, 2])
def test_an_error_arrives_as_it_was_raised_at_its_step(collate: Collator, count: int) -> None:
    def rows() -> Iterator[Any]:
        for step, found in rows_of(STEPS):
            if step == 3:
                found["labelled"][0] = replace(found["labelled"][0], negatives=(CATEGORIES[0].category_id,))
                found["labelled"][0] = replace(found["labelled"][0], category_id=CATEGORIES[0].category_id)
            if step == 5:
                found["tables"] = found.pop("labelled")
            yield step, found

    seen = []
    with pytest.raises(FinedeficsError, match="among its hard negatives") as caught:
        seen += [step for step, _ in collated(rows(), collate, count, CPU)]
    assert caught.value.exit_code == 1
    assert caught.value.cure == "run `finedefics data mine` again"
    later = (item for item in rows() if item[0] > 3)
    with pytest.raises(FinedeficsError, match="unknown feed 'tables'") as wrong:
        list(collated(later, collate, count, CPU))
    assert wrong.value.exit_code == 2
    assert eventually(lambda: not processes())


def test_a_killed_process_is_one_line_and_no_hang(collate: Collator) -> None:
    batches = collated(rows_of(500), collate, 2, CPU)
    next(batches)
    os.kill(processes()[0].pid, signal.SIGKILL)
    with pytest.raises(
        LostProcess, match=r"after step \d+: a process that collates was lost; look for"
    ) as lost:
        list(batches)
    assert "\n" not in str(lost.value)
    assert eventually(lambda: not processes())


def test_who_wants_no_more_leaves_no_process(collate: Collator) -> None:
    batches = collated(rows_of(500), collate, 2, CPU)
    next(batches)
    assert len(processes()) == 2
    batches.close()
    assert eventually(lambda: not processes())


@pytest.mark.slow  # a program of its own imports for long
def test_none_outlives_a_killed_trainer() -> None:
    script = Path(collating_trainer.__file__)
    trainer = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert trainer.stdout is not None
    assert trainer.stdout.readline() == "collating\n"
    left = psutil.Process(trainer.pid).children(recursive=True)
    assert sum(map(is_collating, left)) == 2
    trainer.kill()
    trainer.wait()
    assert eventually(lambda: not any(p.is_running() and p.status() != "zombie" for p in left))


def test_training_s_own_threads_leave_cores_for_processes() -> None:
    def found(cpus: float, threads: int = 1, device: torch.device = CPU) -> int:
        return processes_of(Resources(cpus_per_worker=cpus, threads_per_worker=threads), device)

    assert [found(cpus) for cpus in (0.5, 1, 1.5, 2, 8)] == [0, 0, 1, 1, 7]
    assert [found(8, threads) for threads in (4, 8, 16)] == [4, 1, 1]
    assert found(8, threads=4, device=CUDA) == 7


def test_a_batch_survives_being_laid_end_to_end(collate: Collator) -> None:
    (_, batch), *_ = collated(rows_of(1), collate, 0, CPU)
    for memory in ("plain", "shared"):
        flat = Flat.of(batch, memory)
        assert_equal(flat.restored(), batch)
        assert all(start % 16 == 0 for start, *_ in flat.places)
    odd = {
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(True),
        "turned": torch.arange(6).reshape(2, 3).T,
    }
    back = Flat.of(odd).restored()
    assert all(back[name].equal(tensor) for name, tensor in odd.items())


@pytest.mark.gpu
def test_a_batch_for_a_card_is_pinned_and_arrives_whole(collate: Collator) -> None:
    (_, plain), *_ = collated(rows_of(1), collate, 0, CPU)
    for count in (0, 1):
        (_, pinned), *_ = collated(rows_of(1), collate, count, CUDA)
        assert all(t.is_pinned() for t in tensors_of(pinned).values() if t.numel())
        assert_equal(pinned.to("cuda").to("cpu"), plain)
