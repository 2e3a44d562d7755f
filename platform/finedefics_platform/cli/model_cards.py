"""`finedefics models export` and `card`: a registered version for others to load and read."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from .console import reporter

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Reference = Annotated[str, typer.Argument(help="name@alias, name/version, or name (its champion).")]
Licence = Annotated[
    str | None,
    typer.Option("--license", help="Identifier for the card, such as apache-2.0; default: to be filled in."),
]


def export(
    reference: Reference,
    folder: Annotated[Path, typer.Argument(help="Folder to make.")],
    licence: Licence = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the folder, once the new one is complete.")
    ] = False,
    json: Json = False,
) -> None:
    """Write a version as a folder that transformers loads by itself, with its categories and a model card.

    Example: `finedefics models export birds@champion ./birds-3 --license apache-2.0`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.models.exporting import CARD
    from finedefics_platform.models.exporting import export as write

    out = reporter(json)
    version, target = write(open_workspace(), reference, folder, licence=licence, force=force)
    out.say(f"[green]{version.reference}[/] is in {escape(str(folder))}, its card in {CARD}")
    if licence is None:
        out.say("[yellow]no licence is named in the card[/]: fill it in before you share the folder")
    out.done(reference=version.reference, folder=str(target), card=str(target / CARD))


def card(
    reference: Reference,
    output: Annotated[
        Path | None, typer.Option("--output", help="Write it to this file; default: print it.")
    ] = None,
    licence: Licence = None,
    force: Annotated[bool, typer.Option("--force", help="Write over the file that is there.")] = False,
    json: Json = False,
) -> None:
    """Print the model card of a version, or write it to a file: figures, data, recipe, limits.

    Example: `finedefics models card birds@champion --output README.md`
    """
    from finedefics.errors import wrong_use
    from finedefics_platform.base.storage import Location
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.models.exporting import card_of

    if output is not None and output.exists() and not force:
        raise wrong_use(
            "there is something already",
            place=str(output),
            cure="name a new file, or replace it with --force",
        )
    out = reporter(json)
    text = card_of(open_workspace(), reference, licence=licence)
    if output is not None:
        Location.of(output).write_text(text)
        out.say(f"the card is in {escape(str(output))}")
    elif not json:
        typer.echo(text)
    out.done(reference=reference, card=text, file=None if output is None else str(output))
