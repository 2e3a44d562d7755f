"""A drawn world and its base model: settings, addresses, whole or not at all."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from object_store import object_store

from finedefics.errors import FinedeficsError
from finedefics_platform.base.content import model_digest
from finedefics_platform.base.storage import fetch
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.worlds.settings import (
    BaseSettings,
    WorldSettings,
    load_settings,
    world_base,
    world_data,
    world_truth,
)

BASE = BaseSettings(birds=40, vision_steps=1, language_steps=1)
SETTINGS = WorldSettings(families=2, labelled=1, captioned=1, val=1, test=1, base=BASE)


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
    world = SETTINGS.world(5)
    with pytest.raises(KeyboardInterrupt):
        world_base(workspace, world, SETTINGS, Interrupted())
    assert workspace.models.children() == [], "half of a base model is none"
    place = world_base(workspace, world, SETTINGS)
    before = model_digest(fetch(place))
    with pytest.raises(KeyboardInterrupt):
        world_base(workspace, world, SETTINGS, Interrupted(), rebuild=True)
    assert model_digest(fetch(place)) == before
    mark = fetch(place) / "mark"
    mark.write_text("of the old one")
    assert world_base(workspace, world, SETTINGS) == place
    assert mark.is_file()
    assert world_base(workspace, world, SETTINGS, rebuild=True) == place
    assert not mark.exists()
    assert model_digest(fetch(place)) == before


def test_world_and_base_in_an_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINEDEFICS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with object_store() as bucket:
        workspace = open_workspace(f"{bucket}/home")
        world, folder = world_data(workspace, 5, SETTINGS)
        assert folder.is_relative_to(tmp_path / "cache")
        pictures = [path for path in folder.rglob("*") if path.suffix in (".jpg", ".jpeg", ".png")]
        assert len(pictures) >= len(world.species) * 3
        assert world_data(workspace, 5, SETTINGS) == (world, folder)
        place = world_base(workspace, world, SETTINGS)
        assert place.uri.startswith(f"{bucket}/home/models/birds-base-5-")
        assert len(model_digest(fetch(place))) == 16
        assert {path.name for path in tmp_path.iterdir()} == {"cache"}


def test_what_differs_in_captions_shares_the_base_that_captions_alike(workspace: Workspace) -> None:
    world, folder = world_data(workspace, 5, SETTINGS)
    generic = SETTINGS.model_copy(update={"captioned": 0, "generic_captioned": 3})
    same, other = world_data(workspace, 5, generic)
    assert same == world
    assert other != folder
    base = world_base(workspace, world, SETTINGS)
    assert world_base(workspace, world, generic) == base
    partial = SETTINGS.model_copy(update={"caption_attributes": 2})
    assert partial.recipe.caption_attributes == 2
    assert world_base(workspace, world, partial) != base
    truth = world_truth(world, SETTINGS)
    assert set(truth.values()) == world.new
    assert all((folder / file).is_file() for file in truth)


def test_a_base_is_of_its_world_and_not_of_its_seed_alone(workspace: Workspace) -> None:
    small = world_base(workspace, SETTINGS.world(5), SETTINGS)
    large = SETTINGS.model_copy(update={"families": 3})
    assert world_base(workspace, large.world(5), large) != small


def test_settings_of_a_file_with_overrides(tmp_path: Path) -> None:
    file = tmp_path / "world.yaml"
    file.write_text("families: 24\nbase: {birds: 1500}\n")
    loaded = load_settings(file, ["captioned=3", "base.language_steps=900"])
    assert (loaded.families, loaded.captioned) == (24, 3)
    assert (loaded.recipe.birds, loaded.recipe.language_steps) == (1500, 900)
    assert load_settings(None) == WorldSettings()


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("families=700", "names for 2304"),
        ("caption_attributes=8", "a bird has 7"),
        ("captioned=-1", "greater than or equal to 0"),
        ("wrong_captions=2", "less than or equal to 1"),
        ("new_per_family=9", "a family has 4"),
        ("birds=3", "unknown key `birds`"),
        ("base.text_hidden=97", "multiple of 8"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(override: str, says: str) -> None:
    with pytest.raises(FinedeficsError, match=says) as refused:
        load_settings(None, [override])
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)


def test_nobody_is_told_of_a_sibling_that_there_is_not() -> None:
    with pytest.raises(FinedeficsError, match="species_per_family is 1"):
        load_settings(None, ["species_per_family=1", "wrong_captions=0.1"])
