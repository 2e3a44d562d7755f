"""`finedefics world | base`: a drawn world as an image folder, and the base model that knows its texts."""

from typing import TYPE_CHECKING, Annotated

import typer

from .console import reporter

if TYPE_CHECKING:
    from finedefics_platform.base.storage import Location

Settings = Annotated[
    str | None, typer.Option("--settings", help="Of the world (YAML); the demo's world without it.")
]
Set = Annotated[list[str] | None, typer.Option("--set", help="Override a setting: --set captioned=0.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def world(
    folder: Annotated[str, typer.Argument(help="Where the image folder is written; must not exist.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Equal seeds give equal worlds.")] = 0,
    settings: Settings = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Draw a world of fine-grained birds as an image folder with annotations.

    Example: `finedefics world birds-folder --seed 1`, then `finedefics data ingest birds-folder --name birds`

    Captions that tell three of seven attributes: `finedefics world birds-folder --set caption_attributes=3`
    """
    from finedefics_platform.worlds.making import draw_world
    from finedefics_platform.worlds.settings import load_settings

    out = reporter(json)
    loaded = load_settings(settings, set_ or [])
    made, place = loaded.world(seed), _fresh(folder)
    draw_world(made, place, loaded.plan, out)
    out.say(f"{len(made.species)} species, {len(made.new)} of them without a label: {place}")
    out.done(folder=str(place), species=len(made.species), new=sorted(made.new))


def base(
    folder: Annotated[str, typer.Argument(help="Where the model is written; must not exist.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the world whose texts it learns.")] = 0,
    settings: Settings = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Teach the tiny base model of a drawn world, as an ordinary Hugging Face folder.

    Example: `finedefics base birds-base --seed 1`

    For a larger world: `finedefics base birds-base --settings world.yaml --set base.language_steps=900`
    """
    from finedefics_platform.worlds.making import teach_base
    from finedefics_platform.worlds.settings import load_settings

    out = reporter(json)
    loaded = load_settings(settings, set_ or [])
    made, place = loaded.world(seed), _fresh(folder)
    teach_base(made, place, loaded.recipe, loaded.sizes, loaded.base.seed, progress=out)
    out.say(f"base model: {place}")
    out.done(folder=str(place))


def _fresh(folder: str) -> "Location":
    from finedefics.errors import wrong_use
    from finedefics_platform.base.storage import Location

    place = Location.of(folder)
    if place.exists():
        raise wrong_use("this exists already", place=str(place), cure="name a folder that does not exist")
    return place
