"""What a workspace could do without goes when it is told to, and nothing that somebody needs or makes."""

import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from finedefics_platform.base.storage import Location, lease
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.cli import main as shell
from finedefics_platform.operate.cleaning import dispensable, remove

DAY = 24 * 3600


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("FINEDEFICS_HOME", str(tmp_path / "home"))
    return open_workspace()


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., list[dict[str, Any]]]:
    """What `finedefics gc --json` says."""

    def command(*options: str) -> list[dict[str, Any]]:
        assert shell.main(["gc", "--json", *options]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return command


def put(folder: Location, days: float, **files: str) -> Location:
    """A folder with files that were written so many days ago."""
    for name, content in files.items():
        (folder / name).write_text(content)
        path = (folder / name).local
        assert path is not None
        written = time.time() - days * DAY
        os.utime(path, (written, written))
    return folder


def test_what_was_cut_off_long_ago_goes_and_nothing_else(
    workspace: Workspace, told: Callable[..., list[dict[str, Any]]]
) -> None:
    about = {"model": "m", "dataset": "d@1", "split": "test", "answers": ["names"], "by": "ann@host"}
    parts = workspace.evaluation_parts
    old = put(parts / "old", 8, asked="x" * 100, about=json.dumps(about))
    (old / "about").local.rename(str(old / "about.json"))  # type: ignore[union-attr]
    put(parts / "new", 1, asked="x")
    put(parts / "made", 30, asked="x")  # slow, and somebody makes it
    put(parts / "finished", 0, asked="x" * 10)  # killed between its last two steps
    finished = put(workspace.evaluations / "finished", 30, items="x")
    features = put(Location.of(workspace.features) / "maker", 9, pictures="x" * 1000)
    run = put(workspace.runs / "joint-1a2b", 90, result="x")
    everything = [old, parts / "new", parts / "made", parts / "finished", finished, features, run]

    with lease(workspace.evaluation_lease("made"), "evaluation made"):
        *found, last = told()
        assert [each["place"].rpartition("/")[2] for each in found] == ["old", "finished"]
        assert found[0]["about"] == about
        assert found[0]["bytes"] == 100 + len(json.dumps(about))
        assert found[0]["age_seconds"] == pytest.approx(8 * DAY, abs=60)
        assert last == {"event": "done", "found": 2, "bytes": found[0]["bytes"] + 10, "removed_bytes": 0}
        assert all(place.exists() for place in everything), "a look removes nothing"

        assert told("--yes")[-1]["removed_bytes"] == last["bytes"]
        assert [place.exists() for place in everything] == [False, True, True, False, True, True, True]

        assert told("--yes", "--older-than", "12h", "--caches")[-1]["found"] == 2
        assert [place.exists() for place in everything] == [False, False, True, False, True, False, True]
    assert told("--yes")[-1]["found"] == 1, "whoever made it is gone"


def test_what_is_taken_up_after_the_look_stays(workspace: Workspace) -> None:
    place = put(workspace.evaluation_parts / "old", 8, asked="x")
    (found,) = dispensable(workspace)
    with lease(workspace.evaluation_lease("old"), "evaluation old"):
        assert not remove(workspace, found)
        assert place.exists()
    assert remove(workspace, found)
    assert not place.exists()
    assert dispensable(workspace, timedelta(0)) == []


def test_a_length_of_time_is_asked_for(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert shell.main(["gc", "--older-than", "soon"]) == 2
    assert capsys.readouterr().err == "error: --older-than soon: not a length of time; write 7d, 12h or 30m\n"
    assert shell.main(["gc"]) == 0
    assert "Nothing to clean" in capsys.readouterr().out
