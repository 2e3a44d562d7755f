"""A step that runs out of the card's memory says which one, what it held and what to lower."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from finedefics.errors import FinedeficsError
from finedefics.packing import pack
from finedefics_platform.config.compute import Compute
from finedefics_platform.training.memory import named_when_exhausted

IMAGE = 9


@pytest.mark.parametrize(
    ("compute", "cure"),
    [
        (Compute(), r"set compute\.micro_tokens \(its widest row has 5\)"),
        (Compute(micro_tokens=64), r"set compute\.checkpointing=true or lower compute\.micro_tokens=64"),
        (Compute(micro_tokens=64, checkpointing=True), r"lower compute\.micro_tokens=64"),
        (Compute(micro_tokens=5, checkpointing=True), r"smaller pictures"),
    ],
)
def test_out_of_memory_names_the_step_its_tokens_and_the_cure(compute: Compute, cure: str) -> None:
    sequences, _ = pack([[1, IMAGE, IMAGE, 2, 3]], [0], pad=0)
    embedded, _ = pack([[4, 5]], [-1], pad=0)
    batch: Any = SimpleNamespace(step=6, size=2, sequences=sequences, embedded=embedded)
    with (
        pytest.raises(FinedeficsError, match=cure) as raised,
        named_when_exhausted(batch, "stage one, rank 0", compute, IMAGE),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    assert "stage one, rank 0: out of memory at step 7: 2 rows, 2 image and 5 text tokens" in str(
        raised.value
    )
    assert "goes on from its last checkpoint" in str(raised.value)
