"""A step that runs out of the card's memory says which one, what it held and what to lower."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from finedefics.errors import FinedeficsError
from finedefics.packing import pack
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.compute import Compute
from finedefics_platform.config.experiment import parse_experiment
from finedefics_platform.data.store import Dataset
from finedefics_platform.training import launch
from finedefics_platform.training.memory import named_when_exhausted
from finedefics_platform.training.run import train

IMAGE = 9


@pytest.mark.parametrize(
    ("compute", "cure"),
    [
        (Compute(), r"set compute\.micro_tokens \(its widest row has 5\)"),
        (Compute(micro_tokens=64), r"set compute\.checkpointing=true or lower compute\.micro_tokens=64"),
        (Compute(micro_tokens=64, checkpointing=True), r"lower compute\.micro_tokens=64"),
        (Compute(micro_tokens=5, checkpointing=True), r"smaller pictures"),
    ],
)
def test_out_of_memory_names_the_step_its_tokens_and_the_cure(compute: Compute, cure: str) -> None:
    sequences, _ = pack([[1, IMAGE, IMAGE, 2, 3]], [0], pad=0)
    embedded, _ = pack([[4, 5]], [-1], pad=0)
    batch: Any = SimpleNamespace(step=6, size=2, sequences=sequences, embedded=embedded)
    with (
        pytest.raises(FinedeficsError, match=cure) as raised,
        named_when_exhausted(batch, "stage one, rank 0", compute, IMAGE),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    assert "stage one, rank 0: out of memory at step 7: 2 rows, 2 image and 5 text tokens" in str(
        raised.value
    )
    assert "goes on from its last checkpoint" in str(raised.value)


@pytest.mark.slow  # two groups of workers
def test_a_run_that_ran_out_goes_on_under_a_smaller_budget(
    ray_cluster: Any,
    drawn_workspace: Workspace,
    drawn_dataset: Dataset,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker's third step asks for more than there is, as a card of its own would say it."""

    def on_a_small_card(config: dict[str, Any]) -> None:
        from finedefics.objective import Objective

        own = Objective.forward

        def forward(self: Any, batch: Any) -> Any:
            if batch.step == 2 and config["task"].experiment.compute.micro_tokens is None:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return own(self, batch)

        Objective.forward = forward  # type: ignore[method-assign]
        work(config)

    work = launch._work
    monkeypatch.setattr(launch, "_work", on_a_small_card)  # goes to the worker, a process of this run's own
    document = {
        "name": "exhausted",
        "data": {"dataset": "drawn", "negatives": 2},
        "model": {"path": str(tiny_model)},
        "resources": {"workers": 1},
        "stages": [{"name": "name", "steps": 4, "feeds": {"labelled": 4}, "terms": {"answer": 1}}],
        "tracking": {"checkpoint_every": 1, "log_every": 1},
    }
    with pytest.raises(
        FinedeficsError, match=r"out of memory at step 3: 4 rows, .*set compute\.micro_tokens"
    ):
        train(drawn_workspace, parse_experiment(document, place="test"))
    lower = {**document, "compute": {"micro_tokens": 36}}  # two of the four rows
    run = train(drawn_workspace, parse_experiment(lower, place="test"))
    (resumed,) = (event["step"] for event in run.events() if event["event"] == "resumed")
    assert resumed in (1, 2)  # the last checkpoint may not have been noted when the worker failed
    assert {event["step"] for event in run.events() if event["event"] == "step"} == {1, 2, 3, 4}
