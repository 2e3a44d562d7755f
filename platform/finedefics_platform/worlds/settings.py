"""What a drawn world asks of a model, as its user writes it; and what is made of it: pictures and a base.

Both are addressed by the digest of what goes into them, made on first use, and found again afterwards.
"""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from pydantic import Field, model_validator

from finedefics.base_model import BaseRecipe, Sizes
from finedefics.data.generated import World, WorldPlan, check_shape, make_world, true_labels
from finedefics.errors import FinedeficsError
from finedefics_platform.base.digest import digest_of
from finedefics_platform.base.progress import SILENT, Progress
from finedefics_platform.base.storage import Location, committed, fetch
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.documents import override_by_text, read_yaml
from finedefics_platform.config.section import Section, parse_document
from finedefics_platform.worlds.making import draw_world, teach_base


class BaseSettings(Section):
    """How the base model of a world is taught.

    The defaults are the demo's. Studies teach a base in every world, and at 24 species do with half of it:
    ``birds: 1500, vision_steps: 300, language_steps: 250, begins: true``. A world of 96 or 200 species has
    more texts to be learned and wants more `language_steps`.
    """

    birds: int = Field(3000, ge=1, description="Pictures of no species that it learns to see from.")
    vision_steps: int = Field(600, ge=1, description="Of learning to see attributes.")
    language_steps: int = Field(450, ge=1, description="Of captions and texts of species together.")
    begins: bool = Field(False, description="Its tokenizer puts a beginning before a text, as Idefics2's.")
    text_hidden: int = Field(
        96, ge=8, description="Width of the language model; a multiple of 8.", multiple_of=8
    )
    text_layers: int = Field(3, ge=1, description="Depth of the language model.")
    vision_hidden: int = Field(
        64, ge=8, description="Width of the vision tower; a multiple of 8.", multiple_of=8
    )
    vision_layers: int = Field(3, ge=1, description="Depth of the vision tower.")
    language_batch: int = Field(24, ge=1, description="Captions and texts (so many of each) a step.")
    seed: int = Field(0, ge=0, description="Of weights, birds and order.")


class WorldSettings(Section):
    """A world: its species, its pictures, its captions and its base model.

    The defaults are the demo's world. Two settings that differ in captions alone have the same species and
    the same pictures of every split, so a comparison over them is paired.
    """

    families: int = Field(6, ge=1, description="Super-categories, whose members look alike.")
    species_per_family: int = Field(4, ge=1, description="Siblings differ in one to three attributes.")
    new_per_family: int = Field(1, ge=0, description="Species of a family that never get a label.")
    labelled: int = Field(4, ge=0, description="Labelled training pictures of a known species.")
    captioned: int = Field(12, ge=0, description="Captioned pictures of a new species.")
    captioned_known: int = Field(0, ge=0, description="Captioned, unlabelled pictures of a known species.")
    generic_captioned: int = Field(0, ge=0, description="Captioned pictures of birds of no species, in all.")
    val: int = Field(4, ge=0, description="Pictures a species.")
    test: int = Field(16, ge=0, description="Pictures a species.")
    caption_attributes: int | None = Field(None, ge=1, description="A caption tells so many of 7 attributes.")
    wrong_captions: float = Field(0.0, ge=0, le=1, description="Share that tells of a sibling instead.")
    paraphrased: bool = Field(False, description="Captions have each value in one of its wordings.")
    long_tail: float = Field(
        0.0,
        ge=0,
        description="The species of rank r has labelled / r^long_tail labelled pictures, one at least.",
    )
    base: BaseSettings = Field(BaseSettings(), description="The base model of the world.")

    @model_validator(mode="after")
    def _can_be_drawn(self) -> "WorldSettings":
        try:
            check_shape(self.families, self.species_per_family, self.new_per_family)
            _ = self.plan
        except FinedeficsError as error:
            raise ValueError(f"{error.thing}; {error.cure}") from error
        if self.wrong_captions and self.species_per_family == 1:
            raise ValueError("wrong_captions tell of a sibling, and species_per_family is 1")
        return self

    @property
    def plan(self) -> WorldPlan:
        """What is drawn of the world's species."""
        return WorldPlan(**self.model_dump(include=set(WorldPlan.__dataclass_fields__)))

    @property
    def recipe(self) -> BaseRecipe:
        """How the base is taught: its captions tell as much as the world's."""
        kept = self.base.model_dump(include=set(BaseRecipe.__dataclass_fields__))
        return BaseRecipe(**{**kept, "caption_attributes": self.caption_attributes})

    @property
    def sizes(self) -> Sizes:
        """Of the base."""
        return Sizes(**self.base.model_dump(include=set(Sizes.__dataclass_fields__)))

    def world(self, seed: int) -> World:
        """The species of a seed; FinedeficsError (exit code 2) where so many do not fit."""
        return make_world(
            seed,
            families=self.families,
            species_per_family=self.species_per_family,
            new_per_family=self.new_per_family,
        )


def load_settings(path: str | Path | None, overrides: Iterable[str] = ()) -> WorldSettings:
    """Settings of a YAML file (the defaults without one) with ``a.b=c`` assignments applied.

    Raises:
        FinedeficsError: the file is missing, or a key or value is wrong or impossible (exit code 2).
    """
    document = {} if path is None else read_yaml(path, "world")
    for assignment in overrides:
        override_by_text(document, assignment)
    return parse_document(WorldSettings, document, place=str(path or "the world's settings"))


def world_data(
    workspace: Workspace, seed: int, settings: WorldSettings, progress: Progress = SILENT
) -> tuple[World, Path]:
    """The world of a seed, and its image folder on this machine (drawn unless it is there already)."""
    world = settings.world(seed)
    looks = [asdict(world)["species"], sorted(world.new)]
    place = workspace.worlds / f"birds-{seed}-{digest_of([looks, asdict(settings.plan)])}"
    if committed(place) is None:
        draw_world(world, place, settings.plan, progress)
    return world, fetch(place)


def world_base(
    workspace: Workspace,
    world: World,
    settings: WorldSettings,
    progress: Progress = SILENT,
    *,
    rebuild: bool = False,
) -> Location:
    """The world's base model, a committed folder; taught on first use, or again with ``rebuild``.

    Worlds of the same texts share it, whatever pictures they have. Taught again, the old one stays until the
    new one takes its place.
    """
    texts = [[each.name, each.description] for each in world.species]
    parts = [texts, asdict(settings.recipe), asdict(settings.sizes), settings.base.seed]
    place = workspace.models / f"birds-base-{world.seed}-{digest_of(parts)}"
    if rebuild or committed(place) is None:
        teach_base(
            world,
            place,
            settings.recipe,
            settings.sizes,
            settings.base.seed,
            replace=rebuild,
            progress=progress,
        )
    return place


def world_truth(world: World, settings: WorldSettings) -> dict[str, str]:
    """The species' name of every picture without a label, by its file in the folder of `world_data`."""
    return true_labels(world, settings.plan)
