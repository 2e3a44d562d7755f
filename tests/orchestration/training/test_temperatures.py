"""Learnable temperatures learn: at the recipe's rates, in every dtype and ZeRO stage, clipped or not."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finedefics_platform.config.stage import Temperatures

GROUP = Path(__file__).with_name("temperatures_group.py")
QUICK = ["float32:0:1", "float32:3:1", "bfloat16:1:1", "bfloat16:3:1"]
MORE = ["float32:1:1", "float32:2:1", "bfloat16:2:1"]  # run on demand
CASES = [*QUICK, *(pytest.param(case, marks=pytest.mark.slow) for case in MORE)]
PLAIN = QUICK[0]
CLIPPED = "bfloat16:1:1e-4"  # far below any gradient's norm


def _learn(folder: Path, cases: list[str]) -> dict[str, Any]:
    """What both ranks of a group of two logged, by case."""
    done = subprocess.run(
        [sys.executable, str(GROUP), str(folder / "found.json"), "2", *cases],
        env=os.environ | {"TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "found.json").read_text())


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return _learn(tmp_path_factory.mktemp("temperatures"), [*QUICK, CLIPPED])


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return _learn(tmp_path_factory.mktemp("more-temperatures"), MORE)


@pytest.fixture
def learned(request: pytest.FixtureRequest, case: str, quick: dict[str, Any]) -> dict[str, Any]:
    """Results of the case at hand, and of the plain one."""
    return {**quick, **(request.getfixturevalue("more") if case in MORE else {})}


@pytest.mark.parametrize("case", [*CASES, CLIPPED])
def test_temperatures_move_at_every_step(learned: dict[str, Any], case: str) -> None:
    mine, other = learned[case]
    assert mine == other
    seen = mine["seen"]
    assert seen[0] == pytest.approx([0.07, 0.07], rel=1e-6)
    for which in (0, 1):
        values = [step[which] for step in seen]
        assert abs(values[-1] / values[0] - 1) > 0.05, (values[0], values[-1])
        assert len(set(values)) > 70, sorted(set(values))


@pytest.mark.parametrize("case", CASES[1:])
def test_temperatures_are_learned_alike_everywhere(learned: dict[str, Any], case: str) -> None:
    plain, found = learned[PLAIN][0]["seen"][-1], learned[case][0]["seen"][-1]
    # weights in bfloat16 give other gradients, so there it is the size of the way that is alike
    assert found == pytest.approx(plain, rel=1e-4 if case.startswith("float32") else 0.05)


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_brings_the_exact_temperatures_back(learned: dict[str, Any], case: str) -> None:
    assert learned[case][0]["resumed"] == pytest.approx(learned[case][0]["seen"][-1], rel=1e-6)


def test_a_rate_of_fixed_temperatures_is_refused() -> None:
    assert Temperatures(learnable=True, learning_rate=1e-3).learning_rate == 1e-3
    assert Temperatures(**Temperatures().model_dump()) == Temperatures()
    with pytest.raises(ValueError, match="has no effect on fixed temperatures"):
        Temperatures(learning_rate=1e-3)
