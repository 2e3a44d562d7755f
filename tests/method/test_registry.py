"""Components are found by name in our own modules, in installed packages, and in a user's file."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from finedefics.errors import FinedeficsError
from finedefics.registry import Registry, file_modules, split_spec

THINGS: Registry[str] = Registry("thing", group="finedefics.test_things")
THINGS.register("own")("ours")

PLUGIN = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "more-things"
version = "1.0"

[project.entry-points."finedefics.test_things"]
shiny = "more_things:SHINY"
own = "more_things:NOT_OURS"
broken = "more_things.nowhere:NOTHING"
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A real package, built and installed aside."""
    source, site = tmp_path / "source", tmp_path / "site"
    (source / "more_things").mkdir(parents=True)
    (source / "pyproject.toml").write_text(PLUGIN)
    (source / "more_things" / "__init__.py").write_text("SHINY = 'from a package'\nNOT_OURS = 'no'\n")
    command = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([sys.executable, *command, "--target", str(site), str(source)], check=True)
    monkeypatch.syspath_prepend(str(site))
    return site


def test_an_installed_package_brings_a_component(plugin: Path) -> None:
    things: Registry[str] = Registry("thing", group="finedefics.test_things")
    things.register("own")("ours")
    assert things["shiny"] == "from a package"
    assert list(things) == ["broken", "own", "shiny"]
    assert things["own"] == "ours", "a package changed what a known name means"
    with pytest.raises(FinedeficsError, match=r"package more-things: the thing 'broken' cannot be loaded"):
        things["broken"]


def test_a_file_brings_a_component(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "things", SimpleNamespace(THINGS=THINGS))
    file = tmp_path / "mine.py"
    file.write_text("from things import THINGS\n\nTHINGS.register('mine')('from a file')\n")
    assert THINGS[str(file)] == THINGS[str(file)] == "from a file"
    assert "mine" not in list(THINGS), "a file is named by its path"
    assert any(module.__file__ == str(file) for module in file_modules())
    before = THINGS.identity(str(file))
    file.write_text(file.read_text().replace("from a file", "changed"))
    assert THINGS[str(file)] == "changed"
    assert THINGS.identity(str(file)) != before


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = 1", "registers 0 components"),
        ("import nowhere_at_all", "cannot be loaded"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_brings_none_is_refused(tmp_path: Path, code: str | None, said: str) -> None:
    file = tmp_path / "bad.py"
    if code is not None:
        file.write_text(code)
    with pytest.raises(FinedeficsError, match=said):
        THINGS[str(file)]


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(FinedeficsError, match=r"unknown thing; choose one of: own"):
        THINGS["other"]


def test_a_spec_has_a_name_and_an_argument() -> None:
    assert split_spec("clip:google/siglip") == ("clip", "google/siglip")
    assert split_spec("names:openai:gpt") == ("names", "openai:gpt")
    assert split_spec("attributes") == ("attributes", None)
