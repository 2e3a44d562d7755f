"""Pictures a second of an answer, from their bytes to a name."""

import statistics
import time
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.cells import Cell
from benchmarks.gpu.shapes import untrained
from benchmarks.gpu.training import check_attention, shape_of
from benchmarks.samples import Data
from finedefics.pictures import decode_image
from finedefics.scoring import Recogniser
from finedefics.scoring.describe import Describe

LONG = 80  # tokens of a description, as long as those of the method's release


def measure_answer(cell: Cell, *, data: Data, tiny: bool, pictures: int, repeats: int) -> dict[str, Any]:
    """Figures of an answering cell, among the data's categories.

    A model of random weights ends a description anywhere, so each is written to `LONG` tokens.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    check_attention(cell.attention, device)
    torch.manual_seed(0)
    backbone = untrained(cell.model, shape_of(cell, tiny), cell.edge, device, dtype, cell.attention)
    asked = Recogniser(backbone, data.categories)
    images = [data.images[number % len(data.images)] for number in range(pictures)]
    answer = partial(asked.answer, images, str(cell.answer))
    if cell.answer == "describe":
        asked.language.ends = set()
        answer = partial(_described, asked, images)
    seconds = [_seconds(answer, device) for _ in range(repeats + 1)][1:]  # the first warms up
    each = statistics.median(seconds)
    return {"seconds": each, "pictures": pictures, "pictures_per_second": pictures / each}


def _described(asked: Recogniser, images: list[bytes]) -> None:
    with torch.no_grad():
        Describe(limit=LONG)(asked, asked.encode([decode_image(image, "picture") for image in images]))


def _seconds(call: Any, device: str) -> float:
    started = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
