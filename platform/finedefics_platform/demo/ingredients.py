"""What the demo starts from: a drawn world as an image folder, and the base model that knows it from text."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from finedefics.base_model import BaseRecipe, build_base
from finedefics.data.generated import World, WorldPlan, make_world, write_world
from finedefics_platform.base.digest import digest_of
from finedefics_platform.base.progress import SILENT, Progress
from finedefics_platform.base.storage import Location, commit, committed, fetch
from finedefics_platform.base.workspace import Workspace


@dataclass(frozen=True)
class Scale:
    """How much of everything the demo makes.

    Attributes:
        plan: pictures a species.
        recipe: how long the base model is taught.
        steps: optimizer steps of every arm, over all its stages.
        trials: trials of the search.
        search_steps: steps of a trial.
    """

    plan: WorldPlan = field(default_factory=WorldPlan)
    recipe: BaseRecipe = field(default_factory=BaseRecipe)
    steps: int = 80
    trials: int = 4
    search_steps: int = 32


FULL = Scale()
SMALL = Scale(
    plan=WorldPlan(labelled=4, captioned=8, val=2, test=6),
    recipe=BaseRecipe(birds=2000, vision_steps=400, language_steps=300),
    steps=48,
    trials=2,
    search_steps=12,
)


def world_folder(
    workspace: Workspace, seed: int, plan: WorldPlan, progress: Progress = SILENT
) -> tuple[World, Path]:
    """The world of a seed, and its image folder on this machine (drawn unless it is there already)."""
    place = workspace.demo / f"world-{seed}-{digest_of([seed, asdict(plan)])}"
    if committed(place) is None:
        draw_world(seed, place, plan, progress)
    return make_world(seed), fetch(place)


def draw_world(
    seed: int, place: Location, plan: WorldPlan | None = None, progress: Progress = SILENT
) -> World:
    """Write the world of a seed as an image folder."""
    world = make_world(seed)
    with progress.progress("drawing pictures", None), commit(place) as draft:
        write_world(world, draft, plan or WorldPlan())
    return world


def base_model(
    workspace: Workspace,
    world: World,
    recipe: BaseRecipe,
    *,
    rebuild: bool = False,
    progress: Progress = SILENT,
) -> Location:
    """The world's base model, a committed folder; taught on first use, or again with ``rebuild``.

    Taught again, the old one stays until the new one takes its place.
    """
    place = workspace.models / f"birds-base-{world.seed}-{digest_of([world.seed, asdict(recipe)])}"
    if rebuild or committed(place) is None:
        teach_base(world, place, recipe, replace=rebuild, progress=progress)
    return place


def teach_base(
    world: World,
    place: Location,
    recipe: BaseRecipe,
    *,
    replace: bool = False,
    progress: Progress = SILENT,
) -> None:
    """Teach a world's base model and write it as a Hugging Face folder."""
    with _Bars(progress) as watch, _no_warnings(), commit(place, replace=replace) as draft:
        build_base(world, draft, recipe, watch=watch)


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Saving makes Accelerate import DeepSpeed, which would warn of a missing GPU across the bar."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


class _Bars:
    """Turns (label, done, total) into one progress bar after the other."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._label = ""
        self._done = 0
        self._open: list = []

    def __enter__(self) -> Callable[[str, int, int], None]:
        return self._watch

    def __exit__(self, *_: object) -> None:
        self._close()

    def _watch(self, label: str, done: int, total: int) -> None:
        if label != self._label:
            self._close()
            bar = self._progress.progress(label, total)
            self._open = [bar, bar.__enter__()]
            self._label, self._done = label, 0
        self._open[1](done - self._done)
        self._done = done

    def _close(self) -> None:
        if self._open:
            self._open[0].__exit__(None, None, None)
            self._open = []
