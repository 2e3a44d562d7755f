"""What the demo starts from: a drawn world as an image folder, and the base model that knows it from text."""

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from finedefics.base_model import BaseRecipe, build_base
from finedefics.data.generated import World, WorldPlan, make_world, write_world
from finedefics_platform.base.digest import digest_of
from finedefics_platform.base.progress import SILENT, Progress
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
    search_steps=12,
)


def world_folder(
    workspace: Workspace, seed: int, plan: WorldPlan, progress: Progress = SILENT
) -> tuple[World, Path]:
    """The world of a seed, and its image folder (drawn unless it is there already)."""
    folder = workspace.local.demo / f"world-{seed}-{digest_of([seed, asdict(plan)])}"
    if folder.is_dir():
        return make_world(seed), folder
    return draw_world(seed, folder, plan, progress), folder


def draw_world(seed: int, folder: Path, plan: WorldPlan | None = None, progress: Progress = SILENT) -> World:
    """Write the world of a seed as an image folder."""
    world = make_world(seed)
    with progress.progress("drawing pictures", None):
        _whole(folder, lambda aside: write_world(world, aside, plan or WorldPlan()))
    return world


def base_model(
    workspace: Workspace,
    world: World,
    recipe: BaseRecipe,
    *,
    rebuild: bool = False,
    progress: Progress = SILENT,
) -> Path:
    """Folder of the world's base model; taught on first use, or again with ``rebuild``."""
    folder = workspace.local.models / f"birds-base-{world.seed}-{digest_of([world.seed, asdict(recipe)])}"
    if rebuild:
        shutil.rmtree(folder, ignore_errors=True)
    if not folder.is_dir():
        teach_base(world, folder, recipe, progress)
    return folder


def teach_base(world: World, folder: Path, recipe: BaseRecipe, progress: Progress = SILENT) -> None:
    """Teach a world's base model and write it as a Hugging Face folder."""
    with _Bars(progress) as watch, _no_warnings():
        _whole(folder, lambda aside: build_base(world, aside, recipe, watch=watch))


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Saving makes Accelerate import DeepSpeed, which would warn of a missing GPU across the bar."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _whole(folder: Path, make: Callable[[Path], None]) -> None:
    """Make a folder aside and rename it, so that it is there whole or not at all."""
    aside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    make(aside)
    aside.replace(folder)


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
