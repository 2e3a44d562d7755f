"""A workspace is copied to another place and the original removed: every command works and writes its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from registered import answers, evaluation_of, trained_run

from finedefics.base_model import untrained_backbone
from finedefics.data.generated import random_birds
from finedefics.records import Category
from finedefics.scoring import Recogniser
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.config.experiment import Evaluation, parse_experiment
from finedefics_platform.data.store import Dataset
from finedefics_platform.models.categories import add
from finedefics_platform.models.promotion import promote
from finedefics_platform.models.registration import register_run
from finedefics_platform.operate.checks.movable import check_movable, naming
from finedefics_platform.tracking.tracker import Tracker

# In a process of its own, as in life: MLflow remembers for a process where a run's artefacts are.
COMMANDS = """
import json, sys
from finedefics_platform.cli.main import main

for command in json.loads(sys.argv[1]):
    print(json.dumps(["exit", main([*command, "--json"]), *command]), flush=True)
"""
DOWNLOAD = """
from pathlib import Path
from mlflow.artifacts import download_artifacts
from PIL import Image
from finedefics.scoring import Recogniser
from finedefics_platform.base.workspace import open_workspace
from finedefics_platform.models.references import index_of, open_model
from finedefics_platform.models.registry import get_version
from finedefics_platform.tracking.mlflow_client import open_client

workspace = open_workspace()
client, version = open_client(workspace), get_version(workspace, "birds@champion")
opened = open_model(workspace, "birds@champion")
pictures = [Image.open(sys.argv[2])]
print(Recogniser.load(opened.model, index_of(opened)).recognise(pictures, "alignment", 1)[0][0][1])
print(Path(client.download_artifacts(version.run_id, "note.txt")).read_text())
print((Path(download_artifacts(version.source)) / "MLmodel").is_file(), version.source)
"""


def carried_out(
    commands: list[str], home: Path, elsewhere: Path, and_then: str = "", given: Path | None = None
) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """What each command says as events, all of them ending well, and the lines that a program prints after
    them; started in another folder than anything lies in."""
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS + and_then, json.dumps([c.split() for c in commands]), str(given)],
        cwd=elsewhere,
        env={**os.environ, "FINEDEFICS_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, list[dict[str, Any]]] = {}
    events: list[dict[str, Any]] = []
    others = []
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            events.append(json.loads(line))
        elif line.startswith('["exit"'):
            _, code, *command = json.loads(line)
            assert code == 0, (command, events)
            said[" ".join(command)], events = events, []
        else:
            others.append(line)
    return said, others


@pytest.fixture
def original(tmp_path: Path, drawn_workspace: Workspace, drawn_dataset: Dataset) -> Workspace:
    """A dataset, two registered runs of a tiny model, one champion, a category added, an artefact."""
    workspace = open_workspace(tmp_path / "the original")
    assert drawn_workspace.datasets.local is not None
    assert workspace.datasets.local is not None
    shutil.copytree(drawn_workspace.datasets.local / "drawn", workspace.datasets.local / "drawn")
    torch.manual_seed(0)
    backbone = untrained_backbone()
    backbone.save_pretrained(tmp_path / "made" / "model")
    categories = [Category("tern", "Tern", description="white belly"), Category("auk", "Auk")]
    Recogniser(backbone, categories).index.save(tmp_path / "made" / "index")
    for number in range(2):
        trained = trained_run(workspace, f"joint-{number}", model=tmp_path / "made" / "model")
        evaluated = evaluation_of(
            workspace, trained, answers(300 + number), index=tmp_path / "made" / "index"
        )
        register_run(workspace, "birds", trained, evaluated)
        tracker = Tracker(workspace, "models")
        (trained.place / "note.txt").write_text(f"note {number}")
        tracker.artifact(tracker.parent("train", key=trained.key), trained.place / "note.txt")
        tracker.flush()
    promote(workspace, "birds", 1, reason="the first", by="ann")
    add(workspace, "birds/1", "Pine Grosbeak", "red belly")
    return workspace


def test_every_command_works_on_a_copy_whose_original_is_gone(original: Workspace, tmp_path: Path) -> None:
    assert original.root.local is not None
    copy, elsewhere = tmp_path / "copies" / "the copy", tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert list(naming(original.root.local)) == []
    assert check_movable(original).status == "ok"
    shutil.copytree(original.root.local, copy)
    shutil.rmtree(original.root.local)
    ((image, _),) = random_birds(1, seed=2)
    image.save(elsewhere / "bird.png")
    commands = [
        "models promote birds 2 --reason better",
        "models rollback birds --reason back",
        "categories add birds/1 --name wren",
        "runs list",
        "runs show joint-1",
        "runs compare joint-0 joint-1",
        "report joint-0 joint-1",
        "data list",
        "data show drawn@latest",
        "models list",
        "models show birds@champion",
        "categories list birds@champion",
        "jobs list",
        "gc",
    ]
    told, (named, note, found) = carried_out(
        commands, copy, elsewhere, and_then=DOWNLOAD, given=elsewhere / "bird.png"
    )
    assert told["data list"][0]["latest"]["reference"].startswith("drawn@")
    names = [event["name"] for event in told["categories list birds@champion"] if "name" in event]
    assert sorted(names) == ["Auk", "Pine Grosbeak", "Tern", "wren"]
    assert named in ("Auk", "Tern")
    assert note == "note 0", "the champion after the rollback is the first"
    assert found == f"True {(copy / 'models' / 'registered').as_uri()}" + found.partition("registered")[2]
    assert not original.root.local.exists(), "nothing was written to the old place"
    assert list(naming(copy)) == []


def test_a_file_that_names_the_place_is_named(original: Workspace) -> None:
    assert original.root.local is not None
    place = original.root
    (original.studies / "one" / "study.json").write_json({"model": f"{place}/models/x"})
    (original.studies / "two" / "study.json").write_json({"model": f"{place}2/models/x", "of": f"{place}-2"})
    (original.root.local / "link").symlink_to(original.root.local / "models")
    tracker = Tracker(original, "models")
    tracker.tags(tracker.parent("train", key="named"), {"folder": f"{place}/runs"})
    tracker.flush()
    found = check_movable(original)
    assert found.status == "warn"
    for name in ("studies/one/study.json", "link", "mlflow.db: tags finedefics.folder"):
        assert name in found.found
    assert "studies/two" not in found.found, "another folder whose name begins like it"


@pytest.mark.slow
def test_what_training_and_evaluating_leave_is_found_again_in_a_copy(
    ray_cluster: Any, drawn_workspace: Workspace, drawn_dataset: Dataset, tiny_model: Path, tmp_path: Path
) -> None:
    from finedefics_platform.evaluation.run import evaluate
    from finedefics_platform.training.run import train

    workspace = open_workspace(tmp_path / "original")
    assert drawn_workspace.datasets.local is not None
    assert workspace.datasets.local is not None
    assert workspace.models.local is not None
    shutil.copytree(drawn_workspace.datasets.local / "drawn", workspace.datasets.local / "drawn")
    shutil.copytree(tiny_model, workspace.models.local / "tiny")
    stage = {"name": "a", "steps": 2, "feeds": {"labelled": 2}, "terms": {"answer": 1}}
    document = {
        "name": "moved",
        "data": {"dataset": "drawn", "negatives": 2},
        "model": {"path": str(workspace.models.local / "tiny")},
        "resources": {"workers": 0},
        "stages": [stage],
    }
    experiment = parse_experiment(document, place="test")
    trained = train(workspace, experiment, tracker=Tracker(workspace, "moved"))
    settings = Evaluation(split="val", answers=("alignment",))
    evaluated = evaluate(workspace, trained.model, "drawn", settings, labelled=trained.labelled)
    register_run(workspace, "birds", trained, evaluated)
    assert workspace.root.local is not None
    assert check_movable(workspace).found == f"nothing in {workspace.root} names its own place"
    copy, elsewhere = tmp_path / "copy", tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(workspace.root.local, copy)
    again = json.dumps({**document, "model": {"path": str(copy / "models" / "tiny")}})
    (elsewhere / "experiment.yaml").write_text(again)
    told, _ = carried_out(
        [
            f"train {elsewhere / 'experiment.yaml'}",
            f"train --resume {trained.key}",
            f"evaluate {trained.key} --data drawn --split val --answers alignment",
            "evaluate birds@candidate --data drawn --split val --answers alignment",
        ],
        copy,
        elsewhere,
    )
    reused = [events[-1].get("reused") for events in told.values()]
    assert reused == [[trained.key], [trained.key], [evaluated.place.name], [evaluated.place.name]]
    assert not workspace.root.local.exists()
