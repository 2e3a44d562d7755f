"""`finedefics data …`: from a folder of pictures to a dataset that training can use."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from .console import Reporter, reporter
from .inspecting import inspect
from .mine import mine

if TYPE_CHECKING:
    from finedefics_platform.data.store import Dataset

app = typer.Typer(help="Ingest, describe, mine and inspect datasets.", no_args_is_help=True)

Reference = Annotated[str, typer.Argument(help="A dataset: name, name@digest, or the path of a version.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]

app.command()(inspect)


@app.command()
def ingest(
    folder: Annotated[str, typer.Argument(help="The source: a folder of pictures, or a released CSV.")],
    name: Annotated[str, typer.Option("--name", help="Name of the dataset; a version of it is added.")],
    reader: Annotated[str, typer.Option("--reader", help="How the source is laid out.")] = "folder",
    seed: Annotated[int, typer.Option("--seed", help="Decides the split where the source has none.")] = 0,
    json: Json = False,
) -> None:
    """Make a versioned dataset from a folder of pictures.

    Layout: <split>/<category>/<picture> or <category>/<picture>, and optionally annotations.jsonl and
    categories.jsonl. Pictures that cannot be used are quarantined with the reason. With --reader released
    the source is a pretrain.csv or finetune.csv of the Finedefics release; its hard negatives are kept for
    `finedefics data mine NAME --miner provided`.

    Example: `finedefics data ingest ~/pictures/birds --name birds`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.data import ingesting

    out = reporter(json)
    made = ingesting.ingest(open_workspace(), name, folder, reader=reader, seed=seed, progress=out)
    finish(out, made, next_step="describe")


@app.command()
def describe(
    dataset: Reference,
    describer: Annotated[
        str, typer.Option("--describer", help="Who describes the pictures.")
    ] = "annotations",
    json: Json = False,
) -> None:
    """Give every picture its attribute description.

    Example: `finedefics data describe birds`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.data import describing

    out = reporter(json)
    made = describing.describe(open_workspace(), dataset, describer=describer, progress=out)
    without = made.manifest["provenance"]["descriptions"]["without_description"]
    if without:
        out.say(f"[yellow]{without} pictures have no description[/]: the source says nothing of them")
    finish(out, made, next_step="mine", without_description=without)


app.command()(mine)


def finish(out: Reporter, made: "Dataset", *, next_step: str, **fields: int) -> None:
    """Say which version was made, what it holds and what comes next."""
    from finedefics_platform.data.inspection import quarantine_reasons

    rows = {name: table["rows"] for name, table in sorted(made.manifest["tables"].items())}
    out.say(f"[green]{made.reference}[/]: " + ", ".join(f"{n} {name}" for name, n in rows.items()))
    for reason, number in quarantine_reasons(made).items():
        out.say(f"[yellow]quarantined {number}[/]: {escape(reason)}")
    out.say(f"next: finedefics data {next_step} {made.name}")
    out.done(dataset=made.reference, path=str(made.root), rows=rows, **fields)
