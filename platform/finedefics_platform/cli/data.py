"""`finedefics data …`: from a folder of pictures to a dataset that training can use."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from .console import Reporter, reporter
from .describe import describe

if TYPE_CHECKING:
    from finedefics_platform.data.inspection import Inspection
    from finedefics_platform.data.store import Dataset

app = typer.Typer(help="Ingest, describe, mine and inspect datasets.", no_args_is_help=True)

Reference = Annotated[str, typer.Argument(help="A dataset: name, name@digest, or the path of a version.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]

_SHOWN = 12  # names in one line; --json has all


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
    _finish(out, made, next_step="describe")


app.command()(describe)


@app.command()
def mine(
    dataset: Reference,
    miner: Annotated[str, typer.Option("--miner", help="How similarity is judged.")] = "attributes",
    keep: Annotated[int, typer.Option("--keep", min=1, help="Candidates kept for every picture.")] = 16,
    json: Json = False,
) -> None:
    """Rank the most similar wrong categories of every picture.

    Example: `finedefics data mine birds --keep 16`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.data import mining

    out = reporter(json)
    made = mining.mine(open_workspace(), dataset, miner=miner, keep=keep, progress=out)
    without = made.manifest["provenance"]["negatives"]["without_candidates"]
    if without:
        out.say(f"[yellow]{without} pictures have no candidates[/]: no attributes are known of them")
    _finish(out, made, next_step="inspect", without_candidates=without)


@app.command()
def inspect(dataset: Reference, json: Json = False) -> None:
    """Show what a dataset holds: splits, categories, quarantine and where its tables come from.

    Example: `finedefics data inspect birds`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.data.inspection import inspect as count
    from finedefics_platform.data.store import open_dataset

    out = reporter(json)
    found = count(open_dataset(open_workspace(), dataset))
    _show(out, found)
    out.done(**found.as_dict())


def _finish(out: Reporter, made: "Dataset", *, next_step: str, **fields: int) -> None:
    from finedefics_platform.data.inspection import quarantine_reasons

    rows = {name: table["rows"] for name, table in sorted(made.manifest["tables"].items())}
    out.say(f"[green]{made.reference}[/]: " + ", ".join(f"{n} {name}" for name, n in rows.items()))
    for reason, number in quarantine_reasons(made).items():
        out.say(f"[yellow]quarantined {number}[/]: {escape(reason)}")
    out.say(f"next: finedefics data {next_step} {made.name}")
    out.done(dataset=made.reference, path=str(made.root), rows=rows, **fields)


def _show(out: Reporter, found: "Inspection") -> None:
    out.say(f"[bold]{found.dataset}[/]  {escape(found.path)}")
    out.table(
        "Pictures",
        ["split", "labelled", "unlabelled", "described", "categories"],
        [[s.split, s.labelled, s.unlabelled, s.described, s.categories] for s in found.splits],
    )
    lines = {
        "no labelled picture in train": found.new,
        "no labelled picture at all": found.without_pictures,
        "neither text nor attributes": found.without_text,
    }
    out.table(
        f"Categories: {found.categories}",
        ["of them with", "number", "which"],
        [[label, len(names), _some(names)] for label, names in lines.items()],
    )
    if found.quarantined:
        out.table(
            "Quarantine", ["reason", "pictures"], [[escape(k), n] for k, n in found.quarantined.items()]
        )
    provenance = [
        [name, rows, *(_told(found.provenance.get(name, {})))] for name, rows in found.tables.items()
    ]
    out.table("Tables", ["table", "rows", "step", "made from"], provenance)


def _some(names: tuple[str, ...]) -> str:
    more = f" … and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return escape(", ".join(names[:_SHOWN]) + more)


def _told(provenance: dict[str, object]) -> tuple[str, str]:
    shown = {key: value for key, value in provenance.items() if key not in ("step", "layout", "pictures")}
    return str(provenance.get("step", "")), escape(", ".join(f"{k} {v}" for k, v in shown.items()))
