"""What a model of 7 or 8 billion random weights does on one GPU: Stage I steps and answers, one JSON object.

    python -m benchmarks.gpu_step > gpu.json                    # every cell
    python -m benchmarks.gpu_step --only model=idefics2 --only answer=none --only zero=0
    python -m benchmarks.gpu_step --tiny                        # the same paths at toy size, on any device

Plain PyTorch, and DeepSpeed where a cell shards; no Ray, nothing downloaded. The cells are in
`benchmarks.gpu.cells`: Idefics2 and Qwen2.5-VL, pictures of 448 to 980 pixels, adapters, adapters beside four
bits and whole weights, attention implementations, activation checkpointing, ZeRO 2 and 3 on one process, the
released schedule, and answers. A cell has figures, or the reason why it has none ("out of memory", "kernel
not installed"); a figure that was not taken is never printed. What a figure is worth, its card says: the
object names the device.

Model FLOPs utilisation is model FLOPs over seconds over the card's peak. `finedefics.flops` says what is
counted: what the samples need however the step is scheduled, in adapters' and whole weights' backward passes,
and nothing that is computed again.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from contextlib import redirect_stdout
from typing import Any

import torch

from benchmarks.gpu.answering import measure_answer
from benchmarks.gpu.cells import EDGES, TINY_EDGES, Cell, chosen, table, taken
from benchmarks.gpu.training import gradient_check, measure_step
from benchmarks.samples import make_data
from finedefics.flops import peak_tflops


def run(
    *,
    tiny: bool,
    only: Iterable[str] = (),
    rows: int = 8,
    steps: int = 5,
    micro: int | None = None,
    pictures: int = 32,
    peak: float | None = None,
) -> dict[str, Any]:
    """Every chosen cell, measured; what `main` prints.

    Args:
        only: ``key=value``: cells with these settings alone.
        rows: samples a training step.
        steps: timed in each cell, after those that warm up.
        micro: tokens whose activations a step holds at a time.
        pictures: that are answered together.
        peak: dense bfloat16 TFLOP/s of the card; looked up by default.

    Raises:
        ValueError: no cell has these settings.
        SystemExit: real sizes without a CUDA device.
    """
    only = list(only)
    cells = chosen(table(TINY_EDGES if tiny else EDGES), only)
    cuda = torch.cuda.is_available()
    if not cuda and not tiny:
        raise SystemExit("error: the 7B and 8B models need a CUDA device; --tiny runs the same paths here")
    name = torch.cuda.get_device_name() if cuda else "cpu"
    peak = peak or peak_tflops(name)
    data = make_data()

    def measure(cell: Cell) -> dict[str, Any]:
        if cell.answer:
            return measure_answer(cell, data=data, tiny=tiny, pictures=pictures, repeats=steps)
        return measure_step(cell, data=data, tiny=tiny, rows=rows, steps=steps, micro=micro, peak=peak)

    torch.manual_seed(0)
    return {
        "device": name,
        "torch": torch.__version__,
        "dtype": "bfloat16" if cuda else "float32",
        "sizes": "toy" if tiny else "real",
        "rows": rows,
        "micro_tokens": micro,
        "steps": steps,
        "peak_tflops": peak,
        "gradient_distance": "taken with all cells" if only else gradient_check("cuda" if cuda else "cpu"),
        "cells": taken(cells, measure),
    }


def main() -> None:
    """Parse the command line, print one JSON object."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_step", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--tiny", action="store_true", help="toy sizes, on any device")
    parser.add_argument("--only", action="append", default=[], metavar="KEY=VALUE", help="such cells alone")
    parser.add_argument("--rows", type=int, default=8, help="samples a training step")
    parser.add_argument("--steps", type=int, default=5, help="steps timed, after two that warm up")
    parser.add_argument("--micro-tokens", type=int, help="tokens whose activations a step holds at a time")
    parser.add_argument("--pictures", type=int, default=32, help="pictures that are answered together")
    parser.add_argument("--peak-tflops", type=float, help="dense bfloat16 peak of the card")
    given = parser.parse_args()
    try:
        with redirect_stdout(sys.stderr):  # libraries report there, and one object is all that is printed
            found = run(
                tiny=given.tiny,
                only=given.only,
                rows=given.rows,
                steps=given.steps,
                micro=given.micro_tokens,
                pictures=given.pictures,
                peak=given.peak_tflops,
            )
    except ValueError as error:
        parser.error(str(error))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
