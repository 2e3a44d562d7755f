"""A run that is asked to end: all ranks save after the same step, whoever hears of it first."""

import time
from pathlib import Path

from torch.distributed import HashStore

from finedefics_platform.base.storage import Location
from finedefics_platform.training import stopping
from finedefics_platform.training.stopping import STEPS_AHEAD, StopWatch, request_of


def test_all_ranks_end_after_the_same_step_a_few_ahead(tmp_path: Path) -> None:
    request, store = request_of(Location.of(tmp_path), attempt=2), HashStore()
    ranks = [StopWatch(request, rank, store=store) for rank in range(3)]
    with ranks[0], ranks[1], ranks[2]:
        assert not any(rank.ends_after(7) for rank in ranks)
        request_of(Location.of(tmp_path), attempt=1).write_text("")  # an earlier driver's
        request.write_text("")
        deadline = time.monotonic() + 30
        while not ranks[0]._asked.is_set() and time.monotonic() < deadline:
            time.sleep(0.05)
        # rank 2 is a step ahead of the one that hears of it, rank 1 a step behind
        answers = {rank: [] for rank in range(3)}
        for step in range(8, 8 + STEPS_AHEAD + 2):
            for rank, at in ((2, step + 1), (0, step), (1, step - 1)):
                answers[rank].append((at, ranks[rank].ends_after(at)))
    ends = {rank: next(at for at, end in heard if end) for rank, heard in answers.items()}
    assert ends == dict.fromkeys(range(3), 8 + STEPS_AHEAD)


def test_a_process_without_checkpoints_is_not_watched(tmp_path: Path) -> None:
    request = request_of(Location.of(tmp_path), attempt=1)
    request.write_text("")
    with StopWatch(request, 0, saves=False, store=HashStore()) as alone:
        time.sleep(1.5 * stopping.LOOK_SECONDS)
        assert not any(alone.ends_after(step) for step in range(10))
