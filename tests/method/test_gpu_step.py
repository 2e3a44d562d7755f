"""The GPU benchmark's path at toy size: it runs anywhere, and what it counts and compares is right."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_step import TINY, Shape, build, contestants, gradient_check, model_flops, sequence_lengths
from benchmarks.samples import NEGATIVES, make_data
from benchmarks.stage_one import STAGE_ONE
from finedefics.batch import Collator

ROOT = Path(__file__).parents[2]


def test_gradients_agree_between_schedules_and_with_float32() -> None:
    torch.manual_seed(0)
    distance = gradient_check("cpu")
    assert distance["schedules_float32"] < 1e-4
    assert distance["packed_bfloat16"] < 0.05
    assert distance["released_bfloat16"] < 0.05


def test_only_the_text_models_adapters_are_trained() -> None:
    backbone = build(TINY, "cpu", torch.float32)
    trained = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("text_model" in name and "lora_" in name for name in trained)


def test_flops_are_those_torch_counts_where_nothing_is_padded() -> None:
    """`FlopCounterMode` counts matrix products as they run: no causal half, padding and adapters included."""
    from torch.utils.flop_counter import FlopCounterMode

    torch.manual_seed(0)
    backbone, data = build(TINY, "cpu", torch.float32), make_data()
    samples = data.random_batch(2)
    batch = Collator(backbone.processor, data.categories, STAGE_ONE, negatives=NEGATIVES)(
        {"labelled": samples}, step=0
    )
    loss = contestants(backbone, samples, data.categories, None)["packed"][1]
    with FlopCounterMode(display=False) as counter:
        loss().backward()
    assert 0.6 < model_flops(TINY, backbone, batch) / counter.get_total_flops() < 1.0


def test_sequence_lengths_skip_padding() -> None:
    assert sequence_lengths(torch.tensor([[1, 1, 2, 0], [1, 0, 0, 0]])) == [2, 1, 1]


def test_the_default_shape_has_eight_billion_weights() -> None:
    with torch.device("meta"):
        backbone = build(Shape(), "meta", torch.bfloat16)
    count = sum(p.numel() for n, p in backbone.named_parameters() if "lora_" not in n)
    assert count == pytest.approx(8.4e9, rel=0.02)


def test_the_command_prints_one_object() -> None:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu_step"]
    command += ["--tiny", "--steps", "1", "--batch", "2", "--micro-tokens", "1", "--peak-tflops", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["schedules"]) == {"packed", "released"}
    for figures in found["schedules"].values():
        assert figures["samples_per_second"] > 0
        assert 0 < figures["mfu"] < 1
