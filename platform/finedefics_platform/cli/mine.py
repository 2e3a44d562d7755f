"""`finedefics data mine`: the most similar wrong categories of every picture."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from .console import reporter
from .made import finish

if TYPE_CHECKING:
    from finedefics_platform.base.workspace import Workspace


def mine(
    dataset: Annotated[str, typer.Argument(help="A dataset: name, name@digest, or the path of a version.")],
    miner: Annotated[
        str | None,
        typer.Option(
            "--miner",
            help="By what is known in words: attributes, provided (by the source), confusions:EVALUATION "
            "(of a model's answers on val), or a .py file.",
        ),
    ] = None,
    embedder: Annotated[
        str | None,
        typer.Option(
            "--embedder",
            help="By similarity: clip:MODEL (picture to text), vision:MODEL (picture to the mean of a "
            "category's), tuned:MODEL (a tuned model, as its run or registered name), descriptions, or a .py "
            "file.",
        ),
    ] = None,
    keep: Annotated[int, typer.Option("--keep", min=1, help="Candidates kept for every picture.")] = 16,
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            help="Of the embedder: float32, bfloat16 or float16; default: float32, of tuned: as stored.",
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Pictures that go through the embedder together.")
    ] = 32,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option("--gpus-per-worker", min=0, help="Default: 1 where the cluster has a GPU."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Rank the most similar wrong categories of every picture.

    Without a choice the best that the data allows is taken, and said: hard negatives that the source names,
    else attributes, else descriptions. An embedder of pictures is taken when it is named.

    Example: `finedefics data mine birds --embedder clip:google/siglip2-base-patch16-224`
    """
    from finedefics.embedders import Settings
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.data.mining import mine as run

    from .next_steps import after_mine

    out = reporter(json)
    workspace = open_workspace()
    made = run(
        workspace,
        dataset,
        miner=miner,
        embedder=None if embedder is None else tuned_folder(workspace, embedder),
        keep=keep,
        settings=Settings(dtype, batch_size),
        gpus_per_worker=gpus_per_worker,
        progress=out,
    )
    about = made.manifest["provenance"]["negatives"]
    without = about["without_candidates"]
    if without:
        out.say(
            f"[yellow]{without} pictures have no candidates[/]: too little is known of them "
            f"for {escape(about['chosen'])}"
        )
    out.say(f"look at it: finedefics data inspect {made.name} --html {made.name}.html")
    finish(out, made, after_mine(made), without_candidates=without)


def tuned_folder(workspace: "Workspace", embedder: str) -> str:
    """``tuned:`` with the place, as it is written down, of the model that a run's key or a registered name
    stands for."""
    kind, colon, reference = embedder.partition(":")
    if kind != "tuned" or not colon or not reference:
        return embedder
    from finedefics_platform.models.references import open_model

    return f"tuned:{workspace.name_of(open_model(workspace, reference).place)}"
