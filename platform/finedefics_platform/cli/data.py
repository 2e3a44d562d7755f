"""`finedefics data …`: from a folder of pictures to a dataset that training can use."""

from typing import TYPE_CHECKING, Annotated

import typer

from .console import reporter
from .data_list import list_command, show
from .describe import describe
from .inspecting import inspect
from .label import label
from .made import finish
from .mine import mine
from .next_steps import after_ingest
from .prepare import ALLOW_REJECTED, prepare

if TYPE_CHECKING:
    pass

app = typer.Typer(help="Ingest, describe, mine, label, list and inspect datasets.", no_args_is_help=True)

Reference = Annotated[str, typer.Argument(help="A dataset: name, name@digest, or the path of a version.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]

app.command()(prepare)
app.command("list")(list_command)
app.command()(show)


@app.command()
def ingest(
    source: Annotated[
        str, typer.Argument(help="A folder, an archive or a table: a path, or s3://… and the like.")
    ],
    name: Annotated[str, typer.Option("--name", help="Name of the dataset; a version of it is added.")],
    reader: Annotated[
        str, typer.Option("--reader", help="How the source is laid out: a name, or a .py file that reads it.")
    ] = "auto",
    columns: Annotated[
        str, typer.Option("--columns", help="Of a table: image=NAME,label=NAME,split=…,description=….")
    ] = "",
    seed: Annotated[int, typer.Option("--seed", help="Decides the split where the source has none.")] = 0,
    allow_rejected: Annotated[
        float,
        typer.Option("--allow-rejected", min=0, max=1, help="Share of the pictures that may be refused."),
    ] = ALLOW_REJECTED,
    json: Json = False,
) -> None:
    """Make a versioned dataset from pictures.

    The layout is recognised: <category>/<picture> or <split>/<category>/<picture> (and optionally
    annotations.jsonl, categories.jsonl, class_attributes.csv); CUB-200, Stanford Cars and Dogs, Oxford Pet
    and Flowers, FGVC-Aircraft as they are published, unpacked or as an archive; a CSV, TSV, JSON-lines or
    Parquet table; a CSV of the Finedefics release, whose hard negatives `finedefics data mine NAME --miner
    provided` takes. Pictures that cannot be used are quarantined with the reason.

    Example: `finedefics data ingest ~/pictures/birds --name birds`

    Example: `finedefics data ingest s3://bucket/birds.csv --name birds --columns image=path,label=species`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.data import ingesting
    from finedefics_platform.data.sources import parse_columns

    out = reporter(json)
    made = ingesting.ingest(
        open_workspace(),
        name,
        source,
        reader=reader,
        columns=parse_columns(columns),
        seed=seed,
        allow_rejected=allow_rejected,
        progress=out,
    )
    finish(out, made, after_ingest(made))


app.command()(describe)
app.command()(mine)
app.command()(label)
app.command()(inspect)
