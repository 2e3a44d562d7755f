"""Every ZeRO stage and every number of workers trains the same model; only what each rank keeps differs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from finedefics.errors import FinedeficsError
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.experiment import Experiment, parse_experiment
from finedefics_platform.config.stage import Stage
from finedefics_platform.data.store import Dataset
from finedefics_platform.training.sharding import deepspeed_settings, parameter_groups, rate_share

GROUP = Path(__file__).with_name("sharding_group.py")


def experiment_of(**changes: Any) -> Experiment:
    document = {
        "name": "unit",
        "data": {"dataset": "drawn"},
        "model": {"path": "base"},
        "stages": [{"name": "one", "steps": 10, "feeds": {"labelled": 6}, "terms": {"answer": 1}}],
    }
    return parse_experiment({**document, **changes}, place="test")


def stage_of(**changes: Any) -> Stage:
    return Stage(name="one", feeds={"labelled": 6}, terms={"answer": 1}, **changes)


def test_settings_follow_the_experiment() -> None:
    experiment = experiment_of(model={"path": "base", "dtype": "bfloat16"}, deepspeed={"zero_stage": 3})
    settings = deepspeed_settings(experiment, experiment.stages[0], 2)
    assert settings["zero_optimization"] == {"stage": 3}
    assert settings["bf16"] == {"enabled": True}
    assert settings["train_micro_batch_size_per_gpu"] == 3


def test_bfloat16_without_zero_is_refused() -> None:
    experiment = experiment_of(model={"path": "base", "dtype": "bfloat16"}, deepspeed={"zero_stage": 0})
    with pytest.raises(FinedeficsError, match=r"deepspeed\.zero_stage: .*use zero_stage 1 to 3"):
        deepspeed_settings(experiment, experiment.stages[0], 2)


def test_the_rate_rises_then_falls_to_its_final_share() -> None:
    stage = stage_of(steps=100, warmup_steps=10, final_learning_rate=0.1)
    shares = [rate_share(stage, step) for step in range(101)]
    assert shares[0] == pytest.approx(1 / 11)
    assert max(shares) == shares[10] == 1
    assert shares[55] == pytest.approx(0.55)
    assert shares[100] == pytest.approx(0.1)


def test_only_matrices_decay_and_only_trained_parts_are_optimised() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    network[2].requires_grad_(False)
    decayed, others = parameter_groups(network, 0.01, 5e-3)
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 3)]
    assert decayed["weight_decay"] == 0.01
    assert [tuple(p.shape) for p in others["params"]] == [(4,), (4,), (4,)]
    assert others["weight_decay"] == 0
    network.log_temperatures = nn.Parameter(torch.zeros(2))
    temperatures = parameter_groups(network, 0.01, 5e-3)[-1]
    assert temperatures["params"] == [network.log_temperatures]
    assert (temperatures["weight_decay"], temperatures["lr"]) == (0, 5e-3)


@pytest.fixture(scope="module")
def trained(
    drawn_workspace: Workspace,
    drawn_dataset: Dataset,
    tiny_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """What each rank of a group of one and of a group of two saw."""
    folder = tmp_path_factory.mktemp("groups")
    done = subprocess.run(
        [sys.executable, *map(str, (GROUP, drawn_workspace.root, tiny_model, folder))],
        env=os.environ | {"TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {
        str(world_size): [
            json.loads((folder / f"{world_size}-{rank}.json").read_text()) for rank in range(world_size)
        ]
        for world_size in (1, 2)
    }


def assert_same(left: list[dict[str, float]], right: list[dict[str, float]], tolerance: float) -> None:
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert one[name] == pytest.approx(other[name], rel=tolerance, abs=tolerance), name


@pytest.mark.parametrize("zero_stage", ["1", "2", "3"])
def test_every_zero_stage_trains_the_same(trained: dict[str, Any], zero_stage: str) -> None:
    plain, sharded = trained["2"][0]["0"], trained["2"][0][zero_stage]
    assert_same(plain["steps"], sharded["steps"], 1e-5)
    assert_same([plain["weights"]], [sharded["weights"]], 1e-3)


def test_two_workers_train_what_one_does(trained: dict[str, Any]) -> None:
    assert_same(trained["1"][0]["0"]["steps"], trained["2"][0]["0"]["steps"], 1e-4)
    assert_same(trained["2"][1]["0"]["steps"], trained["2"][0]["0"]["steps"], 1e-6)


@pytest.mark.parametrize("zero_stage", ["1", "2", "3"])
def test_optimizer_state_is_shared_out(trained: dict[str, Any], zero_stage: str) -> None:
    whole = trained["2"][0]["0"]["elements"]
    parts = [rank[zero_stage]["elements"] for rank in trained["2"]]
    assert whole == trained["1"][0]["0"]["elements"]
    for part in parts:
        assert part == pytest.approx(whole / 2, rel=0.02)


def test_the_gathered_model_is_whole(trained: dict[str, Any], tiny_model: Path) -> None:
    from safetensors.torch import load_file

    base = load_file(tiny_model / "model.safetensors")
    for zero_stage, found in trained["2"][0].items():
        assert set(base) <= set(found["weights"]), zero_stage
    assert all(rank["3"]["weights"] == {} for rank in trained["2"][1:])
    frozen = "model.vision_model.embeddings.patch_embedding.weight"
    assert found["weights"][frozen] == pytest.approx(float(base[frozen].double().sum()))
