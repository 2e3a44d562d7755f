"""Every ZeRO stage takes the step that one process without DeepSpeed takes on the whole batch."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

GROUP = Path(__file__).with_name("global_batch_zero_group.py")
ZERO_STAGES = ("0", "1", "2", "3")
TOLERANCE = 1e-5  # single precision against double; seen: 2.6e-6
Found = dict[str, dict[str, Any]]


@pytest.fixture(scope="module", params=[2, 4], ids="{} processes".format)
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What each ZeRO stage saw, and one process without it ("plain")."""
    folder = tmp_path_factory.mktemp("zero")
    done = subprocess.run(
        [sys.executable, str(GROUP), str(folder), str(request.param), *ZERO_STAGES],
        env=os.environ | {"TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    names = ("plain", *ZERO_STAGES)
    return {name: torch.load(folder / f"{name}.pt", weights_only=False) for name in names}


@pytest.mark.parametrize("zero_stage", ZERO_STAGES)
def test_the_loss_is_that_of_one_process(found: Found, zero_stage: str) -> None:
    ranks, plain = found[zero_stage]["ranks"], found["plain"]
    mean = sum(rank["loss"] for rank in ranks) / len(ranks)
    assert mean == pytest.approx(plain["loss"], rel=TOLERANCE)
    for rank in ranks:
        assert rank["terms"] == ranks[0]["terms"]
        assert rank["terms"] == pytest.approx(plain["terms"], rel=TOLERANCE)


@pytest.mark.parametrize("zero_stage", ZERO_STAGES)
def test_every_gradient_is_that_of_one_process(found: Found, zero_stage: str) -> None:
    gradients, expected = found[zero_stage]["gradients"], found["plain"]["gradients"]
    assert gradients.keys() == expected.keys()
    largest = max(float(gradient.norm()) for gradient in expected.values())

    def distance(a: Tensor, b: Tensor) -> float:
        # the bias of attention keys has no gradient but rounding: judged against the largest one
        return float((a.double() - b.double()).norm() / max(float(b.norm()), 1e-4 * largest))

    apart = {name: distance(gradients[name], gradient) for name, gradient in expected.items()}
    assert max(apart.values()) < TOLERANCE, max(apart, key=apart.__getitem__)
