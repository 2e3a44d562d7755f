"""`finedefics categories …`: what a model can name, and how it learns of more from a text alone."""

from typing import Annotated

import typer
from rich.markup import escape

from .console import reporter

app = typer.Typer(help="List and add the categories a model can name.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Model = Annotated[str, typer.Argument(help="Registered model: birds, birds@champion or birds/3.")]


@app.command("list")
def list_command(model: Model, json: Json = False) -> None:
    """List the categories of a model's index and those added in this workspace.

    Example: `finedefics categories list birds@champion`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.models.categories import known

    out = reporter(json)
    found = known(open_workspace(), model)
    rows = [("index", c) for c in found.index] + [("added", c) for c in found.added]
    for source, category in rows:
        out.event(
            "category",
            category_id=category.category_id,
            name=category.name,
            description=category.description,
            source=source,
        )
    shown = [(escape(c.name), escape(c.description or ""), source) for source, c in rows]
    out.table(f"Categories of {model}", ("name", "description", "from"), shown)
    out.done(model=model, index=len(found.index), added=len(found.added))


@app.command()
def add(
    model: Model,
    name: Annotated[str, typer.Option("--name", help="The category's name.")],
    description: Annotated[
        str | None, typer.Option("--description", help="What it looks like; worth more than the name.")
    ] = None,
    json: Json = False,
) -> None:
    """Teach a model a category by a text: no training, no picture, and no change to the registered version.

    `finedefics predict` has it at once, in this workspace and with every version of the model; the model as
    MLflow serves it keeps the categories it was registered with.

    Example: `finedefics categories add birds --name grosbeak --description "a red bird, stout beak"`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.models.categories import add as carry_out

    out = reporter(json)
    added = carry_out(open_workspace(), model, name, description)
    out.say(f"[green]{escape(added.name)}[/] is among the categories of {model} in this workspace")
    if not added.description:
        out.say("[yellow]without a description[/] only its name speaks for it")
    out.done(model=model, category_id=added.category_id, name=added.name, description=added.description)


@app.command()
def remove(
    model: Model,
    name: Annotated[str, typer.Option("--name", help="A category that was added.")],
    json: Json = False,
) -> None:
    """Take back a category that was added; those of the index stay.

    Example: `finedefics categories remove birds --name grosbeak`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.models.categories import remove as carry_out

    out = reporter(json)
    removed = carry_out(open_workspace(), model, name)
    out.say(f"{escape(removed.name)} was removed")
    out.done(model=model, category_id=removed.category_id, name=removed.name)
