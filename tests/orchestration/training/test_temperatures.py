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
CASES = [f"float32:{stage}:1" for stage in (0, 1, 2, 3)] + [f"bfloat16:{stage}:1" for stage in (1, 2, 3)]
CLIPPED = "bfloat16:1:1e-4"  # far below any gradient's norm


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What both ranks of a group of two logged, by case."""
    out = tmp_path_factory.mktemp("temperatures") / "found.json"
    done = subprocess.run(
        [sys.executable, str(GROUP), str(out), "2", *CASES, CLIPPED],
        env=os.environ | {"TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())


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


@pytest.mark.parametrize("case", [case for case in CASES if case != "float32:0:1"])
def test_temperatures_are_learned_alike_everywhere(learned: dict[str, Any], case: str) -> None:
    plain, found = learned["float32:0:1"][0]["seen"][-1], learned[case][0]["seen"][-1]
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
