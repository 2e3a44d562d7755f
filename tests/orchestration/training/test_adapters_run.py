"""Real runs with adapters: two workers, two stages, and an ordinary model at the end."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from finedefics.errors import FinedeficsError
from finedefics_platform.base.storage import fetch
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.experiment import Experiment, parse_experiment
from finedefics_platform.data.store import Dataset
from finedefics_platform.training.checkpoints import load_trained
from finedefics_platform.training.run import TrainedRun, check, train

ADAPTERS = {"rank": 4, "alpha": 16, "targets": ["text", "resampler"]}


def experiment_of(model: Path, kind: str, zero_stage: int, **changes: Any) -> Experiment:
    document = {
        "name": f"adapted-{kind}-{zero_stage}",
        "data": {"dataset": "drawn", "negatives": 2},
        "model": {"path": str(model)},
        "adapters": {"kind": kind, **ADAPTERS},
        "deepspeed": {"zero_stage": zero_stage},
        "stages": [
            {
                "name": "bridge",
                "steps": 3,
                "warmup_steps": 0,
                "learning_rate": 5e-3,
                "feeds": {"labelled": 4, "text": 2},
                "terms": {"answer": 1, "attribute_category": 0.5},
                "temperatures": {"learnable": True},
            },
            {
                "name": "name",
                "steps": 2,
                "warmup_steps": 0,
                "learning_rate": 5e-3,
                "feeds": {"labelled": 4},
                "terms": {"answer": 1},
            },
        ],
    }
    return parse_experiment({**document, **changes}, place="test")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "zero_stage"),
    [
        ("dora", 3),  # the hardest: weights are sharded where they are measured and merged
        ("lora", 1),
        ("qlora", 1),
    ],
)
def test_a_run_with_adapters_leaves_an_ordinary_model(
    ray_cluster: Any,
    drawn_workspace: Workspace,
    drawn_dataset: Dataset,
    tiny_model: Path,
    kind: str,
    zero_stage: int,
) -> None:
    run = train(drawn_workspace, experiment_of(tiny_model, kind, zero_stage))
    base, tuned = (
        load_file(tiny_model / "model.safetensors"),
        load_file(fetch(run.model) / "model.safetensors"),
    )
    assert base.keys() == tuned.keys()
    moved = {name for name in base if not base[name].equal(tuned[name])}
    expected = {
        name
        for name in base
        if name.endswith("_proj.weight")
        and name.startswith(("model.text_model.", "model.connector.perceiver_resampler."))
    }
    if kind == "qlora":  # all that was held in four bits is a little off
        assert expected <= moved
    else:
        assert moved == expected
    events = run.events()
    losses = [event["metrics"]["loss_answer"] for event in events if event["event"] == "step"]
    assert len(losses) == 5
    # the second stage starts where the first one ended, not from the base
    assert losses[3] < losses[0]
    assert losses[-1] < losses[0]
    elements = [
        sum(worker["optimizer_elements"] for worker in event["workers"])
        for event in events
        if event["event"] == "facts"
    ]
    assert max(elements) < sum(tensor.numel() for tensor in base.values()) / 2
    assert (run.model / "config.json").read_text().find("quantization") == -1


class Killer:
    """Progress that kills the second worker once, at a step of the second stage."""

    def __init__(self) -> None:
        self.pids: list[int] = []
        self.killed = False

    def event(self, name: str, **fields: Any) -> None:
        if name == "facts":
            self.pids = [worker["pid"] for worker in fields["workers"]]
        if name == "step" and fields["stage"] == "name" and fields["step"] == 9 and not self.killed:
            self.killed = True
            os.kill(self.pids[1], signal.SIGKILL)

    def say(self, text: str) -> None:
        pass

    def note(self, label: str, text: str) -> None:
        pass

    @contextmanager
    def progress(self, label: str, total: int | None) -> Iterator[Any]:
        yield lambda count: None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_a_run_killed_in_its_second_stage_goes_on_from_its_own_weights(
    ray_cluster: Any, drawn_workspace: Workspace, drawn_dataset: Dataset, tiny_model: Path, kind: str
) -> None:
    plain = experiment_of(tiny_model, kind, 1)
    longer = [plain.stages[0], plain.stages[1].model_copy(update={"steps": 40})]
    tracking = {"checkpoint_every": 2}
    changes = {"stages": [stage.model_dump() for stage in longer], "tracking": tracking}
    calm = train(drawn_workspace, experiment_of(tiny_model, kind, 1, name=f"calm-{kind}", **changes))
    killer = Killer()
    hit = train(
        drawn_workspace, experiment_of(tiny_model, kind, 1, name=f"hit-{kind}", **changes), progress=killer
    )
    assert killer.killed
    resumed = [e for e in hit.events() if e["event"] == "resumed"]
    assert [event["stage"] for event in resumed] == ["name"]
    assert 0 < resumed[0]["step"] < 40
    assert losses_of(hit) == pytest.approx(losses_of(calm), abs=1e-5)


def losses_of(run: TrainedRun) -> dict[tuple[str, int], float]:
    """Loss by stage and step; a step done twice counts as done last."""
    return {(e["stage"], e["step"]): e["metrics"]["loss"] for e in run.events() if e["event"] == "step"}


def test_the_digest_follows_the_adapters(tiny_model: Path) -> None:
    one = experiment_of(tiny_model, "lora", 1)
    other = one.model_copy(update={"adapters": one.adapters.model_copy(update={"rank": 2})})
    assert one.digest() != other.digest()


def test_what_does_not_go_together_is_refused(tiny_model: Path) -> None:
    with pytest.raises(FinedeficsError, match="zero_stage 3 cannot shard weights in four bits") as caught:
        experiment_of(tiny_model, "qlora", 3)
    assert caught.value.exit_code == 2
    with pytest.raises(FinedeficsError, match=r"`adapters\.rank` is wrong"):
        experiment_of(tiny_model, "lora", 1, adapters={"kind": "lora", "rank": 0})


def test_a_missing_package_is_found_before_anything_starts(
    drawn_workspace: Workspace, drawn_dataset: Dataset, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finedefics.adapters.find_spec", lambda name: None)
    with pytest.raises(FinedeficsError, match=r"pip install bitsandbytes"):
        check(experiment_of(tiny_model, "qlora", 1), drawn_dataset)
    check(experiment_of(tiny_model, "lora", 1), drawn_dataset)


def test_a_checkpoint_without_frozen_weights_holds_all_that_is_trained() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).requires_grad_(False)
    module[1].requires_grad_(True)
    state = {"1.weight": torch.ones(2, 2), "0.weight.absmax": torch.ones(1)}
    with pytest.raises(FinedeficsError, match=r"1\.bias: the checkpoint lacks 1 of 2 trained parameters"):
        load_trained(state, module)
    assert not module[1].weight.equal(state["1.weight"])  # not half loaded
    load_trained({**state, "1.bias": torch.ones(2)}, module)
    assert module[1].weight.equal(state["1.weight"])
    assert module[1].bias.equal(torch.ones(2))
