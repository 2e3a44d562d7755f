"""The ablation of a step's modes: what differs between its arms, and how worlds are put together."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import ablation
from benchmarks.ablation import MODES, Plan, run_world, summary
from finedefics.base_model import BaseRecipe

TINY = Plan(BaseRecipe(birds=16, vision_steps=1, language_steps=1), steps=2, labelled=1, captioned=1, test=1)
FEW = replace(TINY, new=False)


def test_a_world_has_figures_of_every_mode_and_the_modes_differ_in_their_work() -> None:
    found = run_world(0, TINY)
    assert list(found) == list(MODES)
    tokens = {mode: figures["tokens a step"] for mode, figures in found.items()}
    assert tokens["no hard negatives"] < tokens["exact"]
    assert tokens["one pass"] < tokens["exact"]
    assert tokens["sampler, one pass"] < tokens["sampler"]
    for figures in found.values():
        assert all(
            0 <= figures[f"{a}, {g}"] <= 100 for a in ("alignment", "names") for g in ("new", "labelled")
        )


def test_differences_are_paired_within_worlds() -> None:
    worlds = [
        {mode: {"alignment, new": start + 5 * place + wobble * place} for place, mode in enumerate(MODES)}
        for start, wobble in ((10, 1), (70, -1), (40, 0))
    ]
    found = summary(worlds)
    second = found["no hard negatives"]["alignment, new"]
    assert second["mean"] == pytest.approx(45)
    assert second["difference"] == pytest.approx(5)
    # t(0.975, 2 degrees of freedom) = 4.3027; the differences are 6, 4 and 5
    assert second["half_width"] == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    assert found["exact"]["alignment, new"]["half_width"] == 0


def test_the_command_writes_every_world_and_the_means(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ablation, "RESULTS", tmp_path / "ablation.json")
    assert ablation.main(["few", "--worlds", "1", "--processes", "1"], {"new": TINY, "few": FEW}) == 0
    stored = json.loads((tmp_path / "ablation.json").read_text())
    assert list(stored) == ["few"]
    assert list(stored["few"]["modes"]) == list(MODES)
    assert set(stored["few"]["worlds"][0]["exact"]) == {"tokens a step", "alignment, all", "names, all"}
    assert "sampler, one pass" in capsys.readouterr().out
    for wrong in (["--worlds", "0"], ["fwe"]):
        with pytest.raises(SystemExit, match="2"):
            ablation.main(wrong)
