"""Every ZeRO stage takes the step that one process without DeepSpeed takes on the whole batch."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

GROUP = Path(__file__).with_name("global_batch_zero_group.py")
TOLERANCE = 1e-5  # single precision against double; seen: 2.6e-6
CASES = {  # by processes: kind of adapters, ZeRO stage, and where the batch is divided the tokens held
    2: ("full:0", "full:1", "full:2", "full:3", "lora:2", "lora:3:160", "dora:3:160"),
    4: ("full:1", "full:3"),
}
SLOW = {
    2: ("full:3:160", "lora:1:600", "lora:3", "dora:1", "dora:2:600", "dora:3"),
    4: ("full:0", "full:2", "lora:3:160", "dora:3:160"),
}
Found = dict[str, dict[str, Any]]


def params(cases: dict[int, tuple[str, ...]], *marks: Any) -> Iterator[Any]:
    for processes, names in cases.items():
        yield pytest.param((processes, names), marks=marks, id=f"{processes} processes")


@pytest.fixture(scope="module", params=[*params(CASES), *params(SLOW, pytest.mark.slow)])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What each case saw, and one process without DeepSpeed for its kind of adapters."""
    processes, cases = request.param
    folder = tmp_path_factory.mktemp("zero")
    done = subprocess.run(
        [sys.executable, str(GROUP), str(folder), str(processes), *cases],
        env=os.environ | {"TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {file.stem: torch.load(file, weights_only=False) for file in folder.glob("*.pt")}


def cases_of(found: Found) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Every case by its name, with what one process saw."""
    return [(case, seen, found[case.split(":")[0]]) for case, seen in found.items() if ":" in case]


def test_the_loss_is_that_of_one_process(found: Found) -> None:
    for case, seen, plain in cases_of(found):
        mean = sum(rank["loss"] for rank in seen["ranks"]) / len(seen["ranks"])
        assert mean == pytest.approx(plain["loss"], rel=TOLERANCE), case
        for rank in seen["ranks"]:
            assert rank["terms"] == seen["ranks"][0]["terms"], case
            # a term that is nearly 0 has only rounding left
            assert rank["terms"] == pytest.approx(plain["terms"], rel=TOLERANCE, abs=1e-7), case


def test_every_gradient_is_that_of_one_process(found: Found) -> None:
    for case, seen, plain in cases_of(found):
        gradients, expected = seen["gradients"], plain["gradients"]
        assert gradients.keys() == expected.keys(), case
        largest = max(float(gradient.norm()) for gradient in expected.values())

        def distance(a: Tensor, b: Tensor, largest: float = largest) -> float:
            # the bias of attention keys has no gradient but rounding: judged against the largest one
            return float((a.double() - b.double()).norm() / max(float(b.norm()), 1e-4 * largest))

        apart = {name: distance(gradients[name], gradient) for name, gradient in expected.items()}
        assert max(apart.values()) < TOLERANCE, (case, max(apart, key=apart.__getitem__))
