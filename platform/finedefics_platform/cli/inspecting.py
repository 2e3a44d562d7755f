"""`finedefics data inspect`: what a dataset or a file of options holds, in figures and as a contact sheet."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from finedefics.errors import wrong_use

from .console import Reporter, reporter
from .provenance import told

if TYPE_CHECKING:
    from finedefics_platform.base.progress import Progress
    from finedefics_platform.data.inspection import Inspection
    from finedefics_platform.data.store import Dataset

_SHOWN = 12  # names in one line, and rows of a table; --json has all
_VALUES = 6  # of an attribute
PICTURES = 240  # on a contact sheet: about three megabytes


def inspect(
    dataset: Annotated[
        str, typer.Argument(help="A dataset (name, name@digest, path of a version) or a file of options.")
    ],
    html: Annotated[
        str | None, typer.Option("--html", help="Write a contact sheet: one file with small pictures.")
    ] = None,
    pictures: Annotated[
        int, typer.Option("--pictures", min=1, help="Pictures on the contact sheet, spread over categories.")
    ] = PICTURES,
    seed: Annotated[int, typer.Option("--seed", help="Decides which pictures.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show what a dataset holds: splits, sizes, attributes, what looks alike, quarantine, provenance.

    Given a published file of multiple-choice questions, it counts those.

    Example: `finedefics data inspect birds --html birds.html`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.data.inspection import inspect as count
    from finedefics_platform.data.store import open_dataset

    if html is not None and Path(html).is_dir():
        raise wrong_use("this is a folder", place=f"--html {html}", cure="give a file: sheet.html")
    out = reporter(json)
    if Path(dataset).is_file():
        _inspect_options(out, dataset)
        return
    opened = open_dataset(open_workspace(), dataset)
    found = count(opened, out)
    show(out, found)
    sheet = write_sheet(opened, found, html, pictures, seed=seed, progress=out) if html else None
    if sheet:
        out.say(f"contact sheet: {escape(sheet)}")
    out.done(**found.as_dict(), html=sheet)


def _inspect_options(out: Reporter, file: str) -> None:
    from collections import Counter

    from finedefics.evaluation.options import read_options

    read = read_options(file)
    sizes = Counter(len(item.options) for item in read.items)
    pictures = len({item.image for item in read.items})
    out.say(f"[bold]{escape(file)}[/]: a file of multiple-choice questions")
    out.say(
        f"{len(read.items)} questions on {pictures} pictures of {len(read.categories)} categories, with "
        + ", ".join(f"{size} options ({number})" for size, number in sorted(sizes.items()))
    )
    out.say(f"next: finedefics evaluate RUN --data DATASET --options {escape(file)}")
    out.done(
        file=file,
        categories=len(read.categories),
        items=len(read.items),
        pictures=pictures,
        options={str(size): number for size, number in sorted(sizes.items())},
    )


def write_sheet(
    dataset: "Dataset",
    found: "Inspection",
    file: str,
    pictures: int = PICTURES,
    *,
    seed: int = 0,
    progress: "Progress",
) -> str:
    """Write a contact sheet of an inspected version; returns where it is.

    Raises:
        FinedeficsError: the file cannot be written, or one of the dataset's is damaged.
    """
    from finedefics_platform.base.storage import Location
    from finedefics_platform.reporting.contact_sheet import write_contact_sheet

    from .sheet import contact_sheet

    place = Location.of(file)
    write_contact_sheet(contact_sheet(dataset, found, pictures, seed=seed, progress=progress), place)
    return str(place.local or place.uri)


def show(out: Reporter, found: "Inspection") -> None:
    """An inspection for a person."""
    out.say(f"[bold]{found.dataset}[/]  {escape(found.path)}")
    out.table(
        "Pictures",
        ["split", "labelled", "unlabelled", "inferred", "described", "categories"],
        [[s.split, s.labelled, s.unlabelled, s.inferred, s.described, s.categories] for s in found.splits],
    )
    _show_categories(out, found)
    _show_sizes(out, found)
    if found.attributes:
        out.table(
            f"Attributes: {len(found.attributes)}",
            ["attribute", "of the described", "values", "most frequent"],
            [
                [
                    escape(one.name),
                    f"{100 * one.coverage:.0f} %",
                    one.distinct,
                    escape(", ".join(f"{value} {number}" for value, number in one.values[:_VALUES])),
                ]
                for one in found.attributes[:_SHOWN]
            ],
        )
        _more(out, "attributes", len(found.attributes))
    if found.nearest:
        out.table(
            "Nearest categories",
            ["category", "is most like"],
            [
                [escape(name), escape(", ".join(others))]
                for name, others in list(found.nearest.items())[:_SHOWN]
            ],
        )
        _more(out, "categories", len(found.nearest))
    _show_near_duplicates(out, found)
    if found.quarantined:
        out.table(
            "Quarantine",
            ["reason", "pictures", "such as"],
            [
                [escape(reason), number, escape(", ".join(found.quarantined_examples.get(reason, ())))]
                for reason, number in found.quarantined.items()
            ],
        )
    provenance = [
        [name, rows, *(told(found.provenance.get(name, {})))] for name, rows in found.tables.items()
    ]
    out.table("Tables", ["table", "rows", "step", "made from"], [[*map(_cell, row)] for row in provenance])


def _show_categories(out: Reporter, found: "Inspection") -> None:
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


def _show_sizes(out: Reporter, found: "Inspection") -> None:
    sizes = found.sizes
    out.table(
        f"Sizes: {sizes.bytes / 2**20:.1f} MiB, {sizes.bytes_a_picture / 1024:.0f} KiB a picture",
        ["pixels", *sizes.width],
        [["width", *sizes.width.values()], ["height", *sizes.height.values()]],
    )


def _show_near_duplicates(out: Reporter, found: "Inspection") -> None:
    near = found.near_duplicates
    across = [pair for pair in near.pairs if pair.first.split != pair.second.split]
    if near.held_out_like_train:
        out.say(
            f"[yellow]{near.held_out_like_train} held-out pictures look like a training picture[/]: look at "
            "them, for what was trained on judges nothing"
        )
    if across:
        out.table(
            "Look alike, in different splits",
            ["picture", "and", "bits that differ"],
            [
                [
                    f"{pair.first.split}: {escape(pair.first.source)}",
                    f"{pair.second.split}: {escape(pair.second.source)}",
                    "equal" if pair.equal else pair.distance,
                ]
                for pair in across[:_SHOWN]
            ],
        )
    if near.within_a_split:
        out.say(f"{near.within_a_split} pictures look like another one of their own split")
    if not near.complete:
        out.say("[yellow]not all pictures were compared[/]: too many look alike")


def _more(out: Reporter, what: str, number: int) -> None:
    if number > _SHOWN:
        out.say(f"… and {number - _SHOWN} more {what} (--json has all)")


def _some(names: tuple[str, ...]) -> str:
    more = f" … and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return escape(", ".join(names[:_SHOWN]) + more)


def _cell(value: object) -> str:
    return escape(str(value))
