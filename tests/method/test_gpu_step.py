"""The GPU script's paths at toy size: they run anywhere; what it counts, compares and refuses is right."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.cells import ANSWERS, ATTENTION, EDGES, MODELS, Cell, chosen, table, taken
from benchmarks.gpu.shapes import SHAPES, TINY, prepared, untrained
from benchmarks.gpu.training import NotMeasured, gradient_check, timed
from benchmarks.gpu_step import run
from benchmarks.samples import make_data
from finedefics.backbones.family import linear_weights
from finedefics.collation import Collator
from finedefics.flops import StepFlops, peak_tflops
from finedefics.objective import Objective
from finedefics.terms import ObjectiveSettings, TermSettings

ROOT = Path(__file__).parents[2]
ANSWER = ObjectiveSettings({"answer": TermSettings(1.0, ("labelled",))})
SMALL = ["--tiny", "--steps", "1", "--rows", "2", "--pictures", "2", "--peak-tflops", "1"]


def test_gradients_agree_between_schedules_and_with_float32() -> None:
    torch.manual_seed(0)
    distance = gradient_check("cpu")
    assert distance["schedules_float32"] < 1e-4
    assert distance["packed_bfloat16"] < 0.05
    assert distance["released_bfloat16"] < 0.05


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_flops_are_those_torch_counts(model: str, checkpointing: bool) -> None:
    """`FlopCounterMode` counts matrix products as they run, on one sequence without a padded position."""
    from torch.utils.flop_counter import FlopCounterMode

    torch.manual_seed(0)
    shape, data = TINY[model], make_data()
    backbone = untrained(model, shape, 96, "cpu", torch.float32, "eager")
    backbone.model.set_attn_implementation("eager")
    collate = Collator(backbone.processor, data.categories, ANSWER, negatives=0)
    batch = collate({"labelled": data.random_batch(1)}, step=0)
    with FlopCounterMode(display=False) as towers:
        (tokens,) = backbone.encode_images(batch.images)
    seen = StepFlops(backbone).of_pictures(batch.images, len(tokens))
    assert seen == pytest.approx(towers.get_total_flops(), rel=1e-3)
    length = batch.sequences.useful
    unseen = 2 * shape.text_layers * shape.text_hidden * length**2  # the half above attention's diagonal
    for tuning in ("full", "lora"):
        prepared(backbone, tuning).train()
        objective = Objective(backbone, ANSWER)
        if checkpointing:
            backbone.checkpoint_layers(True)
        with FlopCounterMode(display=False) as counter:
            objective(batch).loss.backward()
        found = StepFlops(backbone).of(batch) + 3 * unseen
        if checkpointing:  # all but each layer's last product again, which no utilisation counts
            text = sum(weight.numel() for weight in linear_weights(backbone.part("text")))
            again = text - shape.text_layers * shape.text_hidden * shape.text_intermediate
            found += 2 * again * length + 2 * unseen
        # below the lowest adapters nothing asks for a gradient, which shows in a model of four layers
        aside = 0.01 if tuning == "full" else 0.05
        assert found / counter.get_total_flops() == pytest.approx(1, abs=aside)


@pytest.mark.parametrize(("model", "billions"), [("idefics2", 8.4), ("qwen2_5_vl", 8.29)])
def test_shapes_have_the_checkpoints_weights(model: str, billions: float) -> None:
    backbone = untrained(model, SHAPES[model], 448, "meta", torch.bfloat16, "sdpa")
    assert sum(p.numel() for p in backbone.parameters()) == pytest.approx(billions * 1e9, rel=0.01)
    prepared(backbone, "lora")
    trained = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in name and (".text_model." in name or ".language_model." in name) for name in trained)


def test_the_table_has_every_axis() -> None:
    cells = table()
    for model in MODELS:
        own = [cell for cell in cells if cell.model == model]
        assert {cell.edge for cell in own} == set(EDGES)
        assert {cell.attention for cell in own} == set(ATTENTION)
        assert {cell.tuning for cell in own} == {"lora", "qlora", "full"}
        assert {cell.answer for cell in own} == {None, *ANSWERS}
        assert {(cell.zero, cell.tuning) for cell in own} >= {
            (2, "lora"),
            (3, "lora"),
            (2, "full"),
            (3, "full"),
        }
        assert {cell.checkpointing for cell in own} == {False, True}
    assert len(set(cells)) == len(cells)
    # a process group stays once it is there: nothing is measured without shards after that
    assert [cell.zero > 0 for cell in cells] == sorted(cell.zero > 0 for cell in cells)
    assert chosen(cells, ["zero=2", "zero=3", "tuning=full"]) == [
        cell for cell in cells if cell.zero and cell.tuning == "full"
    ]
    with pytest.raises(ValueError, match="no setting 'resolution'"):
        chosen(cells, ["resolution=448"])
    with pytest.raises(ValueError, match="no cell has edge=7"):
        chosen(cells, ["edge=7"])


def test_a_cell_has_figures_or_a_reason_and_the_rest_is_taken() -> None:
    cells = [Cell("idefics2", edge) for edge in range(6)]
    errors: dict[int, BaseException] = {
        0: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 96 GiB"),
        1: ImportError("No module named 'bitsandbytes'"),
        2: NotMeasured("kernel not installed: flash-attn"),
        4: KeyboardInterrupt(),
    }

    def measure(cell: Cell) -> dict:
        if cell.edge in errors:
            raise errors[cell.edge]
        return {"seconds": 1.0}

    rows = taken(cells, measure)
    assert [row["cell"]["edge"] for row in rows] == list(range(6))
    assert all(("measured" in row) != ("reason" in row) for row in rows)
    reasons = [row.get("reason") for row in rows]
    assert reasons[:3] == [
        "out of memory",
        "not installed: No module named 'bitsandbytes'",
        "kernel not installed: flash-attn",
    ]
    assert reasons[3:] == [None, "interrupted", "interrupted"]


def test_a_cards_peak_is_its_own() -> None:
    assert peak_tflops("NVIDIA A100-SXM4-80GB") == 312
    assert peak_tflops("NVIDIA H100 80GB HBM3") == 989
    assert peak_tflops("NVIDIA H100 PCIe") == 756
    assert [peak_tflops(f"NVIDIA {card}") for card in ("A10G", "L40", "GH200 480GB", "B200")] == [None] * 4


def test_a_cell_is_refused_while_an_earlier_ones_tensors_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 3 * 2**30)
    (row,) = taken([Cell("idefics2", 448)], lambda cell: {"seconds": 1.0})
    assert row["reason"].startswith("3.0 GiB of an earlier cell")


def test_qlora_holds_the_weights_in_four_bits() -> None:
    pytest.importorskip("bitsandbytes")
    backbone = prepared(untrained("idefics2", TINY["idefics2"], 64, "cpu", torch.float32, "sdpa"), "qlora")
    parts = [backbone.part(name).named_parameters() for name in ("vision", "connector", "text")]
    held = [p for part in parts for name, p in part if "proj" in name and name.endswith("weight")]
    held = [p for p in held if not p.requires_grad]
    assert held
    assert {p.dtype for p in held} == {torch.uint8}


def test_a_step_whose_loss_is_no_number_has_no_figure() -> None:
    with pytest.raises(NotMeasured, match="not finite"):
        timed(lambda: torch.tensor(float("nan")), 1, "cpu")


def test_cells_are_measured_at_toy_size() -> None:
    only = ["model=qwen2_5_vl", "edge=64", "zero=0", "checkpointing=true"]
    only += ["tuning=full", "answer=none"]
    found = run(tiny=True, only=only, rows=2, steps=1)
    (full,) = found["cells"]
    assert full["measured"]["samples_per_second"] > 0
    assert full["measured"]["mfu"].startswith("the card's peak is not known")
    assert full["measured"]["peak_memory_gib"] == "counted on CUDA only"
    (asked,) = run(tiny=True, only=["model=idefics2", "answer=alignment"], steps=1, pictures=2)["cells"]
    assert asked["measured"]["pictures_per_second"] > 0


def taken_by_the_command(*only: str, timeout: int) -> list[dict]:
    command = [sys.executable, "-W", "ignore", "-c"]
    command += ["import sys; from benchmarks.gpu_step import main; main(); assert 'ray' not in sys.modules"]
    command += [*SMALL, *(word for each in only for word in ("--only", each))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    cells: list[dict] = json.loads(done.stdout)["cells"]
    return cells


def test_the_command_prints_one_object_without_ray() -> None:
    (cell,) = taken_by_the_command("model=idefics2", "answer=alignment", timeout=300)
    assert cell["measured"]["pictures_per_second"] > 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_cell_runs_sharded_ones_too_but_those_whose_kernels_a_cpu_lacks() -> None:
    for cell in taken_by_the_command(timeout=1200):
        lacking = cell["cell"]["attention"] in ("flex_attention", "flash_attention_2")
        assert ("reason" if lacking else "measured") in cell, cell
        if not lacking and not cell["cell"]["answer"]:
            assert 0 < cell["measured"]["mfu"] < 1, cell
