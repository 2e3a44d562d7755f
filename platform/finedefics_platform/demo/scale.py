"""How much of everything the demo makes."""

from dataclasses import dataclass, field

from finedefics_platform.worlds.settings import BaseSettings, WorldSettings

CONTROL = "control"
SERVED = "both"  # its words, embeddings and settings stand for the method; it is what is promoted
ARMS = ("instruction", CONTROL, "object_category", "self_labelled", "two_stage", "joint", SERVED)


@dataclass(frozen=True)
class Scale:
    """How much of everything the demo makes.

    Attributes:
        world: pictures a species, and how long the base model is taught.
        arms: the files of `arms/` that are trained.
        steps: optimizer steps of every arm, over all its stages.
        trials: trials of the search.
        search_steps: steps of a trial.
    """

    world: WorldSettings = field(default_factory=WorldSettings)
    arms: tuple[str, ...] = ARMS
    steps: int = 80
    trials: int = 4
    search_steps: int = 32


FULL = Scale()
SMALL = Scale(
    world=WorldSettings(
        labelled=4,
        captioned=8,
        val=2,
        test=6,
        base=BaseSettings(birds=2000, vision_steps=400, language_steps=300),
    ),
    arms=("instruction", CONTROL, "two_stage", "joint", SERVED),
    steps=48,
    trials=2,
    search_steps=12,
)
