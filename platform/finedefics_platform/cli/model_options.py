"""Options of every command that holds a model: how it is loaded, and how much of it is held at a time."""

from typing import Annotated

import typer

Dtype = Annotated[
    str | None,
    typer.Option("--dtype", help="float32, bfloat16 or float16; default: what the model was trained in."),
]
MicroTokens = Annotated[
    int | None,
    typer.Option("--micro-tokens", min=1, help="Most tokens held at a time; default: 65,536, or what fits."),
]
GpusPerWorker = Annotated[
    float | None,
    typer.Option(
        "--gpus-per-worker",
        min=0,
        help="Default: 1 where the cluster has a GPU; a model larger than one is spread over several.",
    ),
]
