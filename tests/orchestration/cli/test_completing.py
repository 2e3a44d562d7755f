"""The shell completes names of the workspace, and imports nothing heavy for it."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from finedefics_platform.base.workspace import Workspace
from finedefics_platform.cli import completing
from finedefics_platform.cli.main import main

# What a shell asks for, one line after the other, in one process.
ASKING = """
import contextlib, io, json, os, sys
from finedefics_platform.cli.main import main

for line in json.loads(sys.argv[1]):
    os.environ |= {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    os.environ["_FINEDEFICS_COMPLETE"] = "complete_bash"
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        main([])
    print(json.dumps(said.getvalue().split()))
print(json.dumps(sorted({"torch", "ray", "mlflow", "transformers", "deepspeed"} & set(sys.modules))))
"""


@pytest.fixture
def home(workspace: Workspace) -> Path:
    """Folders as commands leave them, and what completion reads of the tables of MLflow."""
    for folder in (
        "runs/joint-1a2b",
        "runs/both-3c4d",
        "searches/small-5e6f",
        "studies/steps",
        "studies/arms-7a8b",
        "datasets/birds/tables",
        "datasets/birds/0123abcd",
        "datasets/parts",
        "mlflow",
    ):
        (Path(workspace.root.uri) / folder).mkdir(parents=True)
    database = sqlite3.connect(Path(workspace.root.uri) / "mlflow" / "mlflow.db")
    with database:
        database.executescript(
            "CREATE TABLE tags (key, value, run_uuid);"
            "CREATE TABLE registered_models (name);"
            "CREATE TABLE registered_model_aliases (name, alias, version);"
            "CREATE TABLE model_versions (name, version);"
            "INSERT INTO tags VALUES ('finedefics.key', 'gone-9999', 'r');"
            "INSERT INTO registered_models VALUES ('birds'), ('birds-decisions');"
            "INSERT INTO registered_model_aliases VALUES ('birds', 'champion', 1);"
            "INSERT INTO model_versions VALUES ('birds', 1), ('birds', 2), ('birds-decisions', 1);"
        )
    database.close()
    return Path(workspace.root.uri)


def test_names_are_completed_as_a_shell_asks_for_them(home: Path) -> None:
    wanted = {
        "finedefics tr": {"train"},
        "finedefics runs sh": {"show"},
        "finedefics runs show ": {"joint-1a2b", "both-3c4d", "small-5e6f", "arms-7a8b", "gone-9999"},
        "finedefics runs delete jo": {"joint-1a2b"},
        "finedefics train --resume ": {"joint-1a2b", "both-3c4d"},
        "finedefics data show ": {"birds", "parts"},
        "finedefics data mine birds@": {"birds@0123abcd"},
        "finedefics evaluate ": {"birds", "birds@champion", "birds/1", "birds/2", "joint-1a2b", "both-3c4d"},
        "finedefics evaluate joint-1a2b --data p": {"parts"},
        "finedefics models promote b": {"birds", "birds@champion", "birds/1", "birds/2"},
        "finedefics categories add birds@": {"birds@champion"},
        "finedefics study show ": {"arms-7a8b"},
        "finedefics report birds@": {"birds@champion"},
        "finedefics runs compare joint-1a2b b": {"both-3c4d"},
        "finedefics runs show zzz": set(),
    }
    done = subprocess.run(
        [sys.executable, "-c", ASKING, json.dumps(list(wanted))],
        env={**os.environ, "FINEDEFICS_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    *said, heavy = map(json.loads, done.stdout.splitlines())
    assert {line: set(names) for line, names in zip(wanted, said, strict=True)} == wanted
    assert heavy == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_script_that_is_installed_completes_in_bash(home: Path) -> None:
    script = Path(sys.executable).with_name("finedefics")
    program = (
        f'eval "$({script} --show-completion bash)"; COMP_WORDS=(finedefics data show b); COMP_CWORD=3; '
        f'_finedefics_completion {script}; echo "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(
        ["bash", "-c", program],
        env={**os.environ, "FINEDEFICS_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.stdout, done.returncode) == ("birds\n", 0), done.stderr


def test_where_nothing_is_nothing_is_completed_and_nothing_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for names in (completing.recorded_runs, completing.datasets, completing.models, completing.studies):
        assert names("") == []
    monkeypatch.setenv("FINEDEFICS_HOME", "s3://bucket/place")
    assert completing.models("") == [], "a store is slower than a person types"
    monkeypatch.setenv("FINEDEFICS_HOME", "ftp://nothing")
    assert completing.models("") == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["", "runs", "runs show", "data list", "train", "models promote", "gc"])
def test_h_is_help_everywhere(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "-h"]) == 0
    assert "Usage: finedefics" in capsys.readouterr().out
