"""How much of everything the demo makes."""

from dataclasses import dataclass, field

from finedefics_platform.worlds.settings import BaseSettings, WorldSettings


@dataclass(frozen=True)
class Scale:
    """How much of everything the demo makes.

    Attributes:
        world: pictures a species, and how long the base model is taught.
        steps: optimizer steps of every arm, over all its stages.
        trials: trials of the search.
        search_steps: steps of a trial.
    """

    world: WorldSettings = field(default_factory=WorldSettings)
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
    steps=48,
    trials=2,
    search_steps=12,
)
