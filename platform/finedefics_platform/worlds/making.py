"""Making what a drawn world consists of: whole or not at all, with its progress shown."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from finedefics.base_model import BaseRecipe, Sizes, build_base
from finedefics.data.generated import World, WorldPlan, write_world
from finedefics_platform.base.progress import SILENT, Progress
from finedefics_platform.base.storage import Location, commit


def draw_world(world: World, place: Location, plan: WorldPlan, progress: Progress = SILENT) -> None:
    """Write a world as an image folder."""
    with progress.progress("drawing pictures", None), commit(place) as draft:
        write_world(world, draft, plan)


def teach_base(
    world: World,
    place: Location,
    recipe: BaseRecipe,
    sizes: Sizes,
    seed: int,
    *,
    replace: bool = False,
    progress: Progress = SILENT,
) -> None:
    """Teach a world's base model and write it as a Hugging Face folder."""
    with _Bars(progress) as watch, _no_warnings(), commit(place, replace=replace) as draft:
        build_base(world, draft, recipe, sizes=sizes, seed=seed, watch=watch)


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
