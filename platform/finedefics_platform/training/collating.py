"""Batches made ahead of the step: in processes where a worker has cores for them, else in threads.

Python's lock lets threads overlap only while pictures are decoded and scaled; tokens and packing wait for one
another, and for the step. So with more than one core a worker has processes beside it. They are the standard
library's pool rather than torch's DataLoader: rows come from a stream in this process, a free process takes
the next step whatever the others do, errors arrive as they were raised, and nothing is drawn from torch's
generator, so a run trains the same weights with any number of processes.

None of them is forked from the trainer, whose threads (of CUDA, gloo, Ray) a fork would not survive: a server
that has imported what collating needs, and nothing else, is forked instead.
"""

import math
import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver

import torch

from finedefics.batch import Batch
from finedefics.collation import Collator
from finedefics.flat import Flat
from finedefics_platform.config.experiment import Resources
from finedefics_platform.training.lost import LostProcess
from finedefics_platform.training.stream import Ahead, FeedRows, ahead, close, in_parallel

STEPS_AHEAD = 2  # collated and waiting
THREADS = 2  # steps collated at once where there are no processes for it

Rows = Iterator[tuple[int, FeedRows]]


def processes_of(resources: Resources, device: torch.device) -> int:
    """How many processes collate for a worker: one for each core that training's own threads leave.

    At least one where there is more than one core: a trainer often waits for its device or for others. With a
    single core it is 0, and threads of the trainer collate: a process would cost memory and gain nothing.
    """
    if resources.cpus_per_worker <= 1:
        return 0
    own = resources.threads_per_worker if device.type == "cpu" else 1
    return max(1, math.ceil(resources.cpus_per_worker) - own)


def prepare(processes: int) -> None:
    """Start importing what the processes need, in the background: it takes seconds, once a trainer."""
    if processes:
        context = multiprocessing.get_context("forkserver")
        # what each process would import otherwise, for seconds: the main module too (in a worker of Ray it is
        # Ray's own), and what every processor is made of
        context.set_forkserver_preload(["__main__", "transformers.processing_utils", __name__])
        forkserver.ensure_running()


def collated(
    rows: Rows, collate: Collator, processes: int, device: torch.device | None = None
) -> Ahead[tuple[int, Batch]]:
    """Every step's batch on this machine's memory, in the order of the rows, made ahead.

    Args:
        rows: step and rows, closed with the batches.
        processes: that collate; 0: threads do.
        device: a batch for a CUDA device lies in pinned memory.

    Raises:
        FinedeficsError: the collator's own, at its step; or `LostProcess`.
    """
    return ahead(_batches(rows, collate, processes, device), STEPS_AHEAD)


def _batches(
    rows: Rows, collate: Collator, processes: int, device: torch.device | None
) -> Iterator[tuple[int, Batch]]:
    pinned = device is not None and device.type == "cuda"
    if pinned:
        torch.cuda.set_device(device)  # of this thread: memory pinned for another would wake that card
    made = _in_processes(rows, collate, processes) if processes else _in_threads(rows, collate)
    try:
        for step, batch in made:
            yield step, Flat.of(batch, "pinned").restored() if pinned else batch
    finally:
        close(made)


def _in_threads(rows: Rows, collate: Collator) -> Iterator[tuple[int, Batch]]:
    return in_parallel(lambda item: (item[0], collate(item[1], step=item[0])), rows, THREADS)


def _in_processes(rows: Rows, collate: Collator, processes: int) -> Iterator[tuple[int, Batch]]:
    pool = ProcessPoolExecutor(
        processes, multiprocessing.get_context("forkserver"), initializer=_begin, initargs=(collate,)
    )
    step = None
    made = in_parallel(_made, rows, processes, pool)
    try:
        for step, flat in made:
            yield step, flat.restored()
    except BrokenProcessPool as error:
        raise LostProcess(
            "a process that collates was lost",
            place="the first steps" if step is None else f"after step {step + 1}",
            cure="look for a lack of memory (also in /dev/shm), or set resources.cpus_per_worker 1, which "
            "collates in threads; run again: it goes on from the last checkpoint",
        ) from error
    finally:
        close(made)


_collate: Collator | None = None  # of this process


def _begin(collate: Collator) -> None:
    """What a collating process does first."""
    global _collate
    _collate = collate
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> None:
    # a trainer that is killed tells nobody, and a process that waits for work would wait forever
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _made(item: tuple[int, FeedRows]) -> tuple[int, Flat[Batch]]:
    assert _collate is not None
    step, rows = item
    return step, Flat.of(_collate(rows, step=step), "shared")
