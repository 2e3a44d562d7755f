"""A run in an object store: a real S3-speaking server, and a Ray cluster of its own that reaches it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from object_store import object_store

from finedefics_platform.base.storage import fetch
from finedefics_platform.base.workspace import open_workspace
from finedefics_platform.data.store import Dataset
from finedefics_platform.training.run import events_of, open_run

pytestmark = pytest.mark.slow


def train(file: Path, home: str, kill_at: int | None = None) -> tuple[list[dict[str, Any]], str]:
    """``finedefics train FILE --json`` in a workspace; what it said, and its errors."""
    command = [sys.executable, "-m", "finedefics_platform.cli.main", "train", str(file), "--json"]
    driver = subprocess.Popen(
        command,
        env={**os.environ, "FINEDEFICS_HOME": home},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    assert driver.stderr is not None
    said = []
    for line in driver.stdout:
        said.append(json.loads(line))
        if said[-1]["event"] == "step" and said[-1]["step"] == kill_at:
            driver.send_signal(signal.SIGTERM)
    errors = driver.stderr.read()
    assert driver.wait(60) == (0 if kill_at is None else 143), errors
    return said, errors


def test_a_run_is_interrupted_and_goes_on_in_an_object_store(
    drawn_dataset: Dataset, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINEDEFICS_CACHE", str(tmp_path / "cache"))
    document = {
        "name": "far",
        "data": {"dataset": str(drawn_dataset.root), "negatives": 2},
        "model": {"path": str(tiny_model)},
        "stages": [{"name": "name", "steps": 40, "feeds": {"labelled": 4}, "terms": {"answer": 1}}],
        "tracking": {"checkpoint_every": 2},
    }
    file = tmp_path / "experiment.yaml"
    file.write_text(json.dumps(document))
    with object_store() as bucket:
        home = f"{bucket}/home"
        said, errors = train(file, home, kill_at=6)
        key = next(event["run"] for event in said if event["event"] == "step")
        assert f"run {key}: terminated; run again" in errors
        workspace = open_workspace(home)
        assert not (workspace.runs / key / "result.json").exists()
        assert events_of(workspace, key)
        said, _ = train(file, home)
        assert any(event["event"] == "resumed" for event in said)
        run = open_run(workspace, key)
        steps = [event["total_step"] for event in run.events() if event["event"] == "step"]
        assert steps == list(range(1, 41))
        assert (fetch(run.model) / "model.safetensors").is_file()
        assert not (run.model.parent / "checkpoints").exists()
