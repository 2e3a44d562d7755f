"""Where a step waits for its device: nowhere in the loop, and in the objective only where these tests say."""

import contextlib
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from collating_trainer import rows_of, small_collator
from torch import Tensor
from torch.distributed import HashStore
from torch.utils._python_dispatch import TorchDispatchMode

import finedefics
import finedefics_platform
from finedefics.base_model import untrained_backbone
from finedefics.batch import Batch
from finedefics.objective import Objective
from finedefics_platform.base.storage import Location
from finedefics_platform.config.experiment import parse_experiment
from finedefics_platform.training import meter, worker
from finedefics_platform.training.collating import collated
from finedefics_platform.training.stopping import StopWatch

STEPS = 4
OURS = tuple(f"{Path(package.__path__[0])}/" for package in (finedefics, finedefics_platform))
# what is counted there is on the host: a batch before it is sent, figures that have arrived
HOST = {"data_arrived", "read"}
# sizes that depend on numbers: a device has to be asked for them
SIZED = ("nonzero", "masked_select", "_unique2", "unique_dim", "bincount", "_local_scalar_dense")
# the sizes that are left to ask for, a step with every term and pictures, at most
OF_THE_OBJECTIVE = {
    "contrast.where": 8,  # rows that take part in a term, known after the gather; again for its coverage
    "contrast.extras": 5,  # hard negatives that are there
    "losses.once": 5,  # texts that are equal
    "contrast._check_finite": 1,
    "contrast.contrastive_terms": 1,  # whether a term has a negative at all
    "objective._generation": 1,  # which terms have an answer in the global batch
    "objective._hidden": 2,  # pictures of a pass
    "objective.run": 1,  # answer tokens
    "attention.packed_attention": 2,  # whether a mask is needed
    "base.embed_tokens": 2,  # image places
    "family.encode": 5,
}


def place_of(frame: FrameType | None) -> str | None:
    """Which function of ours asks, None where it asks the host."""
    found = None
    while frame is not None:
        name, file = frame.f_code.co_name, frame.f_code.co_filename
        if file.startswith(OURS) and name in HOST:
            return None
        if found is None and file.startswith(OURS):
            found = f"{file.rsplit('/', 1)[1].removesuffix('.py')}.{name}"
        frame = frame.f_back
    return found


class Waits(TorchDispatchMode):
    """Counts, by function, what would wait for a device if the tensors were on one."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def note(self) -> None:
        if (place := place_of(sys._getframe(2))) is not None:
            self.found[place] += 1

    def __torch_dispatch__(self, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        chosen = args[1] if name in ("index", "index_put_", "index_put") else ()
        by_mask = any(isinstance(i, Tensor) and i.dtype == torch.bool for i in chosen if i is not None)
        if by_mask and name != "index":
            self.found["backward of a choice by mask"] += 1
        elif name in SIZED or by_mask:
            self.note()
        return function(*args, **(kwargs or {}))

    @contextlib.contextmanager
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Within it, numbers that Python asks tensors for are counted as well."""

        def counting(function: Callable[..., Any]) -> Callable[..., Any]:
            def asks(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
                self.note()
                return function(tensor, *args, **kwargs)

            return asks

        with monkeypatch.context() as patch:
            for name in ("tolist", "cpu", "numpy"):
                patch.setattr(Tensor, name, counting(getattr(Tensor, name)))
            with self:
                yield


class Engine:
    """One process's, without DeepSpeed."""

    def __init__(self, objective: Objective) -> None:
        self.module = objective
        self.optimizer = torch.optim.SGD(objective.parameters(), 1e-4)  # AdamW counts steps on the host

    def __call__(self, batch: Batch) -> Any:
        return self.module(batch)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def zero_optimization(self) -> bool:
        return False

    def step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()

    def get_lr(self) -> list[float]:
        return [1e-4]


class Alone:
    """`torch.distributed` of one process."""

    @staticmethod
    def get_world_size() -> int:
        return 1

    @staticmethod
    def all_gather(found: list[Tensor], own: Tensor) -> None:
        found[0].copy_(own)


def test_the_loop_waits_for_nothing_and_tells_every_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(worker, "report_layout", lambda *_: None)
    monkeypatch.setattr(worker, "whole", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(meter, "dist", Alone)
    stage = {"name": "one", "steps": STEPS, "feeds": {"labelled": 2, "text": 1}, "terms": {"answer": 1}}
    document = {"name": "waits", "data": {"dataset": "d"}, "model": {"path": "m"}, "stages": [stage]}
    told: list[tuple[str, dict[str, Any]]] = []
    loop = worker.Loop(
        types.SimpleNamespace(experiment=parse_experiment(document, place="test"), validate=None),  # type: ignore[arg-type]
        rank=0,
        world_size=1,
        device=torch.device("cpu"),
        saves=False,
        dataset=None,  # type: ignore[arg-type]
        index=None,  # type: ignore[arg-type]
        events=types.SimpleNamespace(write=lambda name, **fields: told.append((name, fields))),  # type: ignore[arg-type]
        stop=StopWatch(Location.of(tmp_path), 0, store=HashStore()),
    )
    torch.manual_seed(0)
    collate = small_collator()
    objective = Objective(untrained_backbone(), collate.settings)
    batches = list(collated(rows_of(STEPS), collate, 0))
    waits = Waits()
    with waits.asked(monkeypatch):
        worker._steps(loop, Engine(objective), 0, 0, batches)
    assert [(name, fields["step"]) for name, fields in told] == [("step", n) for n in range(1, STEPS + 1)]
    assert {"loss", "gradient_norm", "mfu"} - told[0][1]["metrics"].keys() == {"mfu"}  # of no card
    assert waits.found.keys() <= OF_THE_OBJECTIVE.keys()
    for place, most in OF_THE_OBJECTIVE.items():
        assert waits.found[place] <= most * STEPS, place
