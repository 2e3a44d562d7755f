"""Benchmarks: every result has the promised shape, single ones run by name. Nothing here asserts a speed."""

import json
from collections import defaultdict
from functools import partial
from pathlib import Path

import pytest
import torch

import benchmarks.__main__ as command
from benchmarks.registry import BENCHMARKS, Result, benchmark, in_turn, speedup
from benchmarks.released_schedule import ReleasedSchedule
from benchmarks.samples import FAMILY, NEGATIVES, SIZES, make_data
from benchmarks.stage_one import STAGE_ONE, Timed, optimizer_of, our_loss, take_step
from finedefics.base_model import untrained_backbone
from finedefics.collation import Collator
from finedefics.objective import Objective

NAMES = {
    "job_log_lines_lost",
    "submit_to_first_step",
    "predict_one_seconds",
    "serve_warm_ms",
    "serve_throughput_64",
    "serve_lost_64",
    "stage1_speedup_exact",
    "stage1_speedup_exact_batch8",
    "stage1_speedup_sampler",
    "stage1_speedup_sampler_batch8",
    "stage1_speedup_one_pass",
    "stage1_speedup_one_pass_batch8",
    "packing_ms_1024",
    "packing_vs_sorting",
    "text_padding",
    "contrastive_memory",
    "step_memory_checkpointed",
    "false_conflicts",
    "mining_vs_bare_torch",
    "missed_conflicts",
    "alignment_vs_describe",
    "alignment_vs_describe_language",
    "alignment_vs_describe_long",
    "alignment_calibrated_cost",
    "evaluate_decode_once",
    "likelihood_vs_generation",
    "stream_vs_dataloader",
    "stream_amplification",
    "stream_rank_memory",
    "data_wait_share",
    "collate_scaling",
}


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results.json")
    return command.RESULTS


def test_all_benchmarks_are_registered_once() -> None:
    assert set(BENCHMARKS) == NAMES
    with pytest.raises(ValueError, match="'text_padding' is registered twice"):
        benchmark("text_padding")(dict)


def test_one_runs_by_name_and_leaves_the_others_results(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results.write_text('{"kept": 1}')
    assert command.main(["text_padding"]) == 0
    stored = json.loads(results.read_text())
    assert set(stored) == {"kept", "text_padding"}
    found = stored["text_padding"]
    assert set(found) == {"value", "unit", "better", "aim", "spread", "how"}
    assert found["spread"][0] <= found["value"] <= found["spread"][1]
    assert found["better"] == "lower"
    assert "\n" not in found["how"]
    assert "text_padding" in capsys.readouterr().out


def test_an_unknown_name_is_wrong_use(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["text_paddin"]) == 2
    assert "text_paddin: unknown benchmark; use: " in capsys.readouterr().err
    assert not results.exists()


def test_contestants_take_turns_after_a_round_to_warm_up() -> None:
    calls: list[str] = []
    seconds = in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert calls == ["a", "b"] * 4
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}


def test_a_speedup_is_the_median_of_ratios_within_rounds() -> None:
    found = speedup([2.0, 9.0, 4.0], [1.0, 1.0, 1.0], aim=3, how="")
    assert (found.value, found.spread) == (4.0, (2.0, 9.0))
    assert found.reached
    assert not Result(0.2, "share", "lower", 0.1, (0.2, 0.2), "").reached


def test_both_schedules_have_one_loss_and_one_gradient() -> None:
    torch.manual_seed(0)
    data, backbone = make_data(), untrained_backbone(SIZES)
    samples = data.separate_batch(6)
    theirs = ReleasedSchedule(backbone, data.categories, NEGATIVES)
    ours = Objective(backbone, STAGE_ONE)
    collate = Collator(backbone.processor, data.categories, STAGE_ONE, negatives=NEGATIVES)
    gradients = []
    for loss in (theirs(theirs.collate(samples))[0], ours(collate({"labelled": samples}, step=0)).loss):
        backbone.zero_grad(set_to_none=True)
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in backbone.parameters() if p.grad is not None]))
    assert (gradients[0] - gradients[1]).norm() < 1e-4 * gradients[0].norm()


def test_every_part_of_a_step_is_timed_and_the_loss_is_the_objectives() -> None:
    torch.manual_seed(0)
    data, backbone = make_data(), untrained_backbone(SIZES)
    collate = Collator(backbone.processor, data.categories, STAGE_ONE, negatives=NEGATIVES)
    batch = collate({"labelled": data.separate_batch(2)}, step=0)
    timed = Timed(backbone, STAGE_ONE)
    timed.spent = defaultdict(float)
    assert timed(batch).loss == Objective(backbone, STAGE_ONE)(batch).loss
    take_step(timed, partial(our_loss, timed, batch), optimizer_of(timed))
    assert set(timed.spent) == {
        "pictures", "objects and texts", "answers", "contrast", "backward", "optimizer",
    }  # fmt: skip


def test_a_confusable_batch_holds_every_rows_hard_negatives() -> None:
    samples = make_data().confusable_batch(8 * FAMILY)
    inside = {sample.category_id for sample in samples}
    assert len(inside) == len(samples)
    assert all(set(sample.negatives) <= inside for sample in samples)
