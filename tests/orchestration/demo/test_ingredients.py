"""The demo's world and base model: whole or not at all, on a disk and in an object store."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from object_store import object_store

from finedefics.base_model import BaseRecipe
from finedefics.data.generated import WorldPlan, make_world
from finedefics_platform.base.content import model_digest
from finedefics_platform.base.storage import fetch
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.demo.ingredients import base_model, world_folder

RECIPE = BaseRecipe(birds=40, vision_steps=1, language_steps=1)
PLAN = WorldPlan(labelled=1, captioned=1, val=1, test=1)


class Interrupted:
    """A progress under which somebody presses Ctrl-C as soon as the model learns to speak."""

    def event(self, name: str, /, **fields: Any) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    @contextmanager
    def progress(self, label: str, total: int | None) -> Iterator[Callable[[int], None]]:
        if "describe" in label:
            raise KeyboardInterrupt
        yield lambda count: None


def test_the_old_base_stays_until_the_new_one_stands(workspace: Workspace) -> None:
    world = make_world(5)
    with pytest.raises(KeyboardInterrupt):
        base_model(workspace, world, RECIPE, progress=Interrupted())
    assert workspace.models.children() == [], "half of a base model is none"
    place = base_model(workspace, world, RECIPE)
    before = model_digest(fetch(place))
    with pytest.raises(KeyboardInterrupt):
        base_model(workspace, world, RECIPE, rebuild=True, progress=Interrupted())
    assert model_digest(fetch(place)) == before
    mark = fetch(place) / "mark"
    mark.write_text("of the old one")
    assert base_model(workspace, world, RECIPE) == place
    assert mark.is_file()
    assert base_model(workspace, world, RECIPE, rebuild=True) == place
    assert not mark.exists()
    assert model_digest(fetch(place)) == before


def test_world_and_base_in_an_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINEDEFICS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with object_store() as bucket:
        workspace = open_workspace(f"{bucket}/home")
        world, folder = world_folder(workspace, 5, PLAN)
        assert folder.is_relative_to(tmp_path / "cache")
        pictures = [path for path in folder.rglob("*") if path.suffix in (".jpg", ".jpeg", ".png")]
        assert len(pictures) >= len(world.species) * 3
        assert world_folder(workspace, 5, PLAN) == (world, folder)
        place = base_model(workspace, world, RECIPE)
        assert place.uri.startswith(f"{bucket}/home/models/birds-base-5-")
        assert len(model_digest(fetch(place))) == 16
        assert {path.name for path in tmp_path.iterdir()} == {"cache"}
