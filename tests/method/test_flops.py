"""Model FLOPs: what torch counts where nothing is left out, for adapters and for whole weights."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.shapes import TINY, prepared, untrained
from benchmarks.samples import NEGATIVES, make_data
from benchmarks.stage_one import STAGE_ONE
from finedefics.backbones import Backbone
from finedefics.batch import Batch
from finedefics.collation import Collator
from finedefics.flops import StepFlops, peak_tflops
from finedefics.objective import Objective

SHAPE = TINY["idefics2"]


def made() -> Backbone:
    torch.manual_seed(0)
    return untrained("idefics2", SHAPE, 64, "cpu", torch.float32, "sdpa")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return prepared(made(), "lora")


@pytest.fixture(scope="module")
def batch(backbone: Backbone) -> Batch:
    data = make_data()
    collate = Collator(backbone.processor, data.categories, STAGE_ONE, negatives=NEGATIVES)
    return collate({"labelled": data.random_batch(2)}, step=0)


def counted(backbone: Backbone, batch: Batch) -> float:
    with FlopCounterMode(display=False) as counter:
        Objective(backbone, STAGE_ONE)(batch).loss.backward()
    return float(counter.get_total_flops())


def test_adapters_on_frozen_weights_pass_gradients_and_keep_none(backbone: Backbone, batch: Batch) -> None:
    found = StepFlops(backbone).of(batch)
    # nothing below the lowest adapters asks for a gradient, which shows in a model of four layers
    assert 0.6 < found / counted(backbone, batch) < 1.1


def test_trained_weights_cost_their_gradients(batch: Batch) -> None:
    whole = Backbone(made().model, None, train=("text", "connector", "vision"))
    everything = StepFlops(whole).of(batch)
    # torch counts whole squares of attention, and padding
    assert 0.8 < everything / counted(whole, batch) < 1.1
    whole.requires_grad_(False)
    assert StepFlops(whole).of(batch) == pytest.approx(everything / 3, rel=0.06)


def test_peaks_are_known_by_the_name_of_the_card() -> None:
    assert peak_tflops("NVIDIA H100 PCIe") == 756
    assert peak_tflops("NVIDIA H100 80GB HBM3") == 989
    assert peak_tflops("NVIDIA GeForce RTX 4090") is None
