"""What a rank holds of a model in shards, what a checkpoint holds, and what stays in the machine's memory."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from finedefics.errors import FinedeficsError
from finedefics_platform.config.experiment import Experiment, parse_experiment
from finedefics_platform.training import loading
from finedefics_platform.training.loading import load_model
from finedefics_platform.training.options import check_options
from finedefics_platform.training.sharding import deepspeed_settings

GROUP = Path(__file__).with_name("shards_group.py")
PLAIN, SHARDED = "train:full:1:none:float32", "train:full:3:none:float32"
OFFLOADED = ("train:full:1:optimizer:float32", "train:full:3:parameters:float32")
ADAPTED = ("train:lora:1:none:float32", "train:dora:3:none:float32")
HALF = "train:full:3:none:bfloat16"
CASES = ("load:deep:float32", PLAIN, OFFLOADED[1], *ADAPTED)
MORE = ("load:paligemma:bfloat16", "load:qwen2_5_vl:float32", PLAIN, SHARDED, OFFLOADED[0], HALF)
Found = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module", params=[CASES, pytest.param(MORE, marks=pytest.mark.slow)], ids=["", "more"])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What each of two ranks saw in each case."""
    folder = tmp_path_factory.mktemp("memory")
    tests = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, str(GROUP), str(folder), *request.param],
        env=os.environ
        | {
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")]),
        },
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {case: [torch.load(folder / f"{case}-{rank}.pt") for rank in range(2)] for case in request.param}


def test_a_model_is_loaded_in_shards_and_is_the_same(found: Found) -> None:
    for case in [case for case in found if case.startswith("load")]:
        for seen in found[case]:
            for fault in ("missing", "differing", "buffers"):
                assert seen[fault] == [], (case, fault)
            assert seen["trained"], case
            assert seen["tied"], case
            assert seen["kept"] == pytest.approx(seen["elements"] / 2, rel=0.01), case
            # a shard of everything, one module whole, and half of it while its two shards are made; seen:
            # 36,888 numbers more, where the largest has 36,864; in half precision 57,625, where it has 38,400
            assert seen["held"] < seen["kept"] + 1.6 * seen["largest"], case


def test_a_step_never_holds_the_layers_whole(found: Found) -> None:
    for case in [case for case in found if case.startswith("train") and ":3:" in case]:
        for seen in found[case]:
            assert seen["live"] < 0.2 * found[case][0]["whole"], case


def test_built_in_shards_or_offloaded_a_model_learns_the_same(found: Found) -> None:
    plain = found[PLAIN][0]
    for case in set(found) & {SHARDED, *OFFLOADED}:
        for stage in ("first", "second"):
            assert_same(found[case][0][stage], plain[stage])
        assert found[case][0]["weights"] == pytest.approx(plain["weights"], rel=1e-4), case


def test_half_precision_in_shards_learns_through_both_stages(found: Found) -> None:
    for seen in found.get(HALF, []):
        assert seen["second"][-1]["answer"] < seen["first"][0]["answer"] - 0.05


def test_a_later_stage_is_resumed_as_it_was(found: Found) -> None:
    for case in [case for case in found if case.startswith("train")]:
        for seen in found[case]:
            assert_same(seen["second"][1:], seen["again"], 1e-6)


def test_a_checkpoint_holds_only_what_is_trained(found: Found) -> None:
    for case in [case for case in found if case.startswith("train")]:
        seen = found[case][0]
        # in shards the weights are those that the optimizer steps, with its two moments; else there is a copy
        copies = 3 if ":3:" in case else 4
        # each of a few hundred weights is filled up to whole shards
        assert copies * seen["trained"] <= seen["saved"] < copies * seen["trained"] + 2000, case
    for case in set(found) & set(ADAPTED):
        assert found[case][0]["saved"] < 0.15 * found[case][0]["whole"], case


def assert_same(left: list[dict[str, float]], right: list[dict[str, float]], tolerance: float = 1e-4) -> None:
    for one, other in zip(left, right, strict=True):
        assert one == pytest.approx(other, rel=tolerance)


def experiment_of(dtype: str = "float32", **deepspeed: Any) -> Experiment:
    document = {
        "name": "unit",
        "data": {"dataset": "drawn"},
        "model": {"path": "base", "dtype": dtype},
        "deepspeed": deepspeed,
        "stages": [{"name": "one", "steps": 10, "feeds": {"labelled": 6}, "terms": {"answer": 1}}],
    }
    return parse_experiment(document, place="test")


def test_options_stand_beside_the_platforms_settings() -> None:
    options = {"zero_optimization": {"reduce_bucket_size": 5, "offload_optimizer": {"pin_memory": False}}}
    experiment = experiment_of(zero_stage=2, offload="optimizer", options=options)
    settings = deepspeed_settings(experiment, experiment.stages[0], 2)
    assert settings["zero_optimization"] == {
        "stage": 2,
        "reduce_bucket_size": 5,
        "offload_optimizer": {"device": "cpu", "pin_memory": False},
    }
    assert settings["gradient_clipping"] == 1.0
    check_options(settings, options)
    assert experiment.digest() == experiment_of().digest()  # how, not what


@pytest.mark.parametrize(
    ("deepspeed", "message"),
    [
        ({"options": {"optimizer": {"type": "Adam"}}}, r"optimizer .*use stages\.n\.learning_rate"),
        ({"options": {"train_batch_size": 8}}, r"train_batch_size .*use stages\.n\.feeds"),
        ({"options": {"fp16": {"enabled": True}}}, r"fp16 .*use model\.dtype"),
        ({"options": {"gradient_clipping": 2}}, r"gradient_clipping .*use stages\.n\.gradient_clip"),
        (
            {"options": {"zero_optimization": {"stage": 2}}},
            r"zero_optimization\.stage .*deepspeed\.zero_stage",
        ),
        (
            {
                "offload": "optimizer",
                "options": {"zero_optimization": {"offload_optimizer": {"device": "nvme"}}},
            },
            r"offload_optimizer\.device .*use deepspeed\.offload",
        ),
        (
            {"options": {"zero_optimization": {"offload_param": {"pin_memory": True}}}},
            r"offload_param has no effect .*set deepspeed\.offload to parameters",
        ),
        ({"options": {"curriculum_learning": {}}}, r"curriculum_learning .*changes what is learned"),
        ({"zero_stage": 2, "offload": "parameters"}, r"needs a zero_stage of at least 3, and it is 2"),
        ({"zero_stage": 0, "offload": "optimizer"}, r"needs a zero_stage of at least 1, and it is 0"),
    ],
)
def test_what_contradicts_the_platform_is_refused(deepspeed: dict[str, Any], message: str) -> None:
    with pytest.raises(FinedeficsError, match=message) as refused:
        experiment_of(**deepspeed)
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"zero_optimisation": {}}, r"DeepSpeed knows no 'zero_optimisation'.*zero_optimization"),
        (
            {"zero_optimization": {"stage3_live": 1}},
            r"DeepSpeed knows no 'zero_optimization\.stage3_live'.*leave it out",
        ),
        (
            {"zero_optimization": {"reduce_bucket_size": "many"}},
            r"zero_optimization\.reduce_bucket_size is wrong",
        ),
    ],
)
def test_what_deepspeed_does_not_know_is_refused(options: dict[str, Any], message: str) -> None:
    experiment = experiment_of(options=options)
    with pytest.raises(FinedeficsError, match=rf"deepspeed\.options: .*{message}") as refused:
        check_options(deepspeed_settings(experiment, experiment.stages[0], 2), options)
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)


def test_what_deepspeed_knows_is_taken() -> None:
    options = {
        "communication_data_type": "fp32",
        "prescale_gradients": True,
        "wall_clock_breakdown": True,
        "zero_optimization": {"overlap_comm": True, "stage3_max_live_parameters": 1_000_000},
        "comms_logger": {"enabled": False},
        "flops_profiler": {"enabled": False},
    }
    experiment = experiment_of(options=options)
    check_options(deepspeed_settings(experiment, experiment.stages[0], 2), options)


def test_a_dtype_that_the_card_lacks_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded: list[Any] = []
    monkeypatch.setattr(loading, "load_backbone", lambda *given, **_: loaded.append(given))
    card = SimpleNamespace(
        is_bf16_supported=lambda including_emulation: False, get_device_name=lambda: "an old card"
    )
    monkeypatch.setattr("finedefics.backbones.precision.torch.cuda", card)
    experiment = experiment_of("bfloat16", zero_stage=3)
    with pytest.raises(FinedeficsError, match="an old card: the card does not compute in bfloat16"):
        load_model(experiment, Path("base"), torch.device("cuda", 0), 2)
    assert loaded == []
