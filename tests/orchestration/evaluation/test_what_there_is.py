"""An evaluation asks what there is, says what it asked, and refuses at once what cannot be asked."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bird_folder import encoded, put
from safetensors.torch import load_file, save_file

from finedefics.errors import FinedeficsError
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.cli.main import main
from finedefics_platform.cli.train import _next_step
from finedefics_platform.config.experiment import Evaluation
from finedefics_platform.data.ingesting import ingest
from finedefics_platform.data.store import open_dataset
from finedefics_platform.evaluation import run as evaluation
from finedefics_platform.evaluation.checks import check_weights, evaluable_splits
from finedefics_platform.evaluation.run import evaluate
from finedefics_platform.models.evidence import collect

CHEAP = Evaluation(answers=("alignment",))
KINDS = ("鷦鷯", "Grüner Specht", "crow")  # names in other scripts are names


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, ray_cluster: Any) -> Workspace:
    """Datasets that nobody described or mined: `three` categories, `one` category, `untested`."""
    root = tmp_path_factory.mktemp("there-is")
    workspace = open_workspace(root / "workspace")
    number = 0
    for name, kinds, splits in (
        ("three", KINDS, ("train", "val", "test")),
        ("one", KINDS[:1], ("train", "test")),
        ("untested", KINDS, ("train", "val")),
        ("train-only", KINDS, ("train",)),
    ):
        for kind in kinds:
            for split in splits:
                for _ in range(2):
                    put(root / name, f"{split}/{kind}/{number:03}.png", encoded(number))
                    number += 1
        ingest(workspace, name, root / name)
    return workspace


def test_fewer_categories_than_options_and_nothing_mined(
    place: Workspace, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("FINEDEFICS_HOME", str(place.root))
    asked = ["evaluate", str(tiny_model), "--data", "three", "--answers", "alignment"]
    assert main([*asked, "--json"]) == 0
    *_, last = (json.loads(line) for line in capfd.readouterr().out.splitlines() if line.startswith("{"))
    said = last["summary"]
    assert said["protocol"] == {"answers": ["alignment"], "calibration": "auto", "options": 3, "seed": 0}
    assert (said["pictures"], said["options_random"], said["categories"]) == (6, 6, 3)
    assert said["chance"] == {"all": pytest.approx(1 / 3), "options": pytest.approx(1 / 3)}
    assert {row["category_id"] for row in last["categories"]["alignment"]} == set(category_ids(place))
    assert sum(row["n"] for row in last["categories"]["alignment"]) == 6
    wrong = sum(pair["count"] for pair in last["confused"]["alignment"])
    assert wrong == sum(round(row["n"] * (1 - row["accuracy"])) for row in last["categories"]["alignment"])
    assert main([*asked, "--per-category"]) == 0
    told = capfd.readouterr().out
    assert f"files: {last['folder']} (" in told
    assert "hardest categories" not in told
    assert "3 options: there are no more categories" in told
    assert "6 of 6 pictures were asked on random options" in told
    assert "3 options, some random" in told
    assert "not shown to be better than guessing among options (33.3 %): alignment (labelled)" in told


def category_ids(place: Workspace) -> list[str]:
    return [category.category_id for category in open_dataset(place, "three").categories()]


def test_asking_for_as_many_as_there_are_is_the_same_evaluation(place: Workspace, tiny_model: Path) -> None:
    made = evaluate(place, tiny_model, "three", CHEAP)
    assert evaluate(place, tiny_model, "three", CHEAP.model_copy(update={"options": 3})).place == made.place
    pairs = evaluate(place, tiny_model, "three", CHEAP.model_copy(update={"options": 2}))
    assert (pairs.summary["options_random"], pairs.summary["chance"]["options"]) == (6, 0.5)


def test_a_published_file_is_asked_as_it_stands(place: Workspace, tiny_model: Path, tmp_path: Path) -> None:
    rows = open_dataset(place, "three").table("samples", ["source", "split"]).to_pylist()
    sources = [row["source"] for row in rows if row["split"] == "test"]
    foci: dict[str, list[dict[str, Any]]] = {}
    for source in sources[:4]:
        truth = source.split("/")[1]
        wrong = next(kind for kind in KINDS if kind != truth)
        item = {"image": f"images/{Path(source).name}", "options": [truth, wrong], "groundtruth": truth}
        foci.setdefault(truth, []).append(item)
    file = tmp_path / "options.json"
    file.write_text(json.dumps(foci))
    made = evaluate(place, tiny_model, "three", CHEAP, options=file)
    said = made.summary
    assert (said["pictures"], said["protocol"]["options"], said["options_random"]) == (4, 2, 0)
    assert said["options_file"]["matched"] == said["options_file"]["items"] == 4
    assert said["options_file"]["name"] == f"options.json@{said['protocol']['options_of']}"
    assert made.place != evaluate(place, tiny_model, "three", CHEAP).place
    two = CHEAP.model_copy(update={"options": 2})
    usual, _ = collect(evaluate(place, tiny_model, "three", two), (), "now")
    own, _ = collect(made, (), "now")
    assert (own.ground.options, usual.ground.options) == (2, 2)
    assert own.ground.key != usual.ground.key, "figures on other options are not compared"
    assert "of options.json@" in str(own.ground)
    file.write_text(json.dumps(foci, indent=1))
    assert evaluate(place, tiny_model, "three", CHEAP, options=file).place == made.place


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("one", CHEAP, "1 category, and an evaluation asks which of several"),
        ("untested", CHEAP, "no labelled picture in the split test; evaluate on another split: --split val"),
        ("train-only", CHEAP, "no labelled picture in the split test; nothing is held out: put labelled"),
        (
            "train-only",
            CHEAP.model_copy(update={"split": "val"}),
            "no labelled picture in the split val; nothing is held out",
        ),
        ("three", Evaluation(answers=("ensemble",), split="val"), "chosen on val"),
        ("three", CHEAP.model_copy(update={"unknown": "on", "split": "val"}), "thresholds are chosen on val"),
        ("three", CHEAP.model_copy(update={"rotations": "all"}), "alignment shows its options, so none"),
    ],
)
def test_what_cannot_be_asked_is_said_before_anything_starts(
    place: Workspace, monkeypatch: pytest.MonkeyPatch, name: str, settings: Evaluation, message: str
) -> None:
    def started(*_: Any, **__: Any) -> Any:
        raise AssertionError("a model was read or a cluster started")

    for what in ("model_digest", "model_folder", "run_in_shares"):
        monkeypatch.setattr(evaluation, what, started)
    with pytest.raises(FinedeficsError, match=message) as caught:
        evaluate(place, "no model at all", name, settings)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["./nowhere"], "error: ./nowhere: there is no such folder"),
        (["no/such/model"], "error: no/such/model: there is no such folder"),
        (
            ["some/model"],
            "error: some/model: neither a run, a registered model nor a folder, and on the hub no ",
        ),
        (["./nowhere", "--register", "a b"], "error: 'a b': not a model name"),
        (["./nowhere", "--register", ""], "error: '': not a model name"),
        (["./nowhere", "--rotations", "1"], "error: --rotations: '1' is no number of orders; give all, or 2"),
        (
            ["./nowhere", "--rotations", "all"],
            "error: evaluation.rotations: none of the answers names, align",
        ),
        (["--encoder", "clip:x", "--rotations", "2"], "error: --rotations: an encoder has no language model"),
    ],
)
def test_a_wrong_request_is_one_line_before_anything_starts(
    place: Workspace, monkeypatch: pytest.MonkeyPatch, capfd: Any, asked: list[str], message: str
) -> None:
    def started(*_: Any, **__: Any) -> Any:
        raise AssertionError("an evaluation was begun")

    monkeypatch.setattr(evaluation, "evaluate", started)
    monkeypatch.setenv("FINEDEFICS_HOME", str(place.root))
    assert main(["evaluate", *asked, "--data", "three"]) == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert line.startswith(message)


@pytest.mark.slow
def test_nothing_follows_the_one_line_of_an_error_in_a_process(
    place: Workspace, tiny_model: Path, tmp_path: Path, ray_cluster: Any
) -> None:
    broken = shutil.copytree(tiny_model, tmp_path / "diverged")
    weights = load_file(broken / "model.safetensors")
    ruined = {name: tensor * float("nan") for name, tensor in weights.items()}
    save_file(ruined, broken / "model.safetensors", metadata={"format": "pt"})
    command = [
        sys.executable,
        "-m",
        "finedefics_platform.cli.main",
        "evaluate",
        str(broken),
        "--data",
        "three",
    ]
    address = ray_cluster.get_runtime_context().gcs_address
    env = {**os.environ, "FINEDEFICS_HOME": str(place.root), "RAY_ADDRESS": address}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "is not finite" in done.stderr.strip().splitlines()[-1]


def test_weights_that_cannot_be_read_are_named(tmp_path: Path, tiny_model: Path) -> None:
    check_weights(tiny_model)
    (tmp_path / "model.safetensors").write_bytes(b"half a download")
    with pytest.raises(FinedeficsError, match=r"model\.safetensors: the weights cannot be read \(.*download"):
        check_weights(tmp_path)


def test_an_ensemble_without_a_val_split_is_refused(place: Workspace) -> None:
    with pytest.raises(FinedeficsError, match="no labelled picture in the split val, on which"):
        evaluate(place, "no model", without_val(place), Evaluation(answers=("ensemble",)))


def without_val(place: Workspace) -> str:
    folder = place.root.local
    assert folder is not None
    for number, kind in enumerate(KINDS):
        for split in ("train", "test"):
            put(
                folder.parent / "unweighed",
                f"{split}/{kind}/{number}.png",
                encoded(5000 + number * 2 + len(split)),
            )
    return ingest(place, "unweighed", folder.parent / "unweighed").reference


def test_training_prints_only_a_next_step_that_works(place: Workspace) -> None:
    said = {name: _next_step(open_dataset(place, name), "run-1", name) for name in ("three", "untested")}
    assert said["three"] == "next: finedefics evaluate run-1 --data three"
    assert said["untested"] == "next: finedefics evaluate run-1 --data untested --split val"
    for name in ("one", "train-only"):
        assert evaluable_splits(open_dataset(place, name)) == ()
        assert f"nothing in {name} can judge it" in _next_step(open_dataset(place, name), "run-1", name)
