"""What users get wrong is found before anything is started or lost, and told in one line with its cure."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from registered import EXPERIMENT, trained_run

from finedefics.errors import FinedeficsError
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.cli import main as shell
from finedefics_platform.cli.failures import explain
from finedefics_platform.config.documents import parse_yaml
from finedefics_platform.config.experiment import load_experiment
from finedefics_platform.data.store import Dataset
from finedefics_platform.search.document import load_search
from finedefics_platform.training.run import open_run, run_key


@pytest.fixture
def here(
    tmp_path: Path,
    drawn_workspace: Workspace,
    drawn_dataset: Dataset,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder with an experiment and a search, and the drawn dataset in the workspace."""
    monkeypatch.setenv("FINEDEFICS_HOME", str(drawn_workspace.root.local))
    monkeypatch.chdir(tmp_path)
    document = {**EXPERIMENT, "data": {"dataset": "drawn", "negatives": 0}, "resources": {"workers": 0}}
    document["model"] = {"path": str(tiny_model)}
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(document))
    search = {"name": "s", "experiment": "one.yaml", "space": {"seed": {"choice": [0, 1]}}}
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(search))
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of an error of wrong use."""
    assert shell.main(list(arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: "), error
    assert error.count("\n") == 1, error
    return error


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray may not be started: whatever does so is late in finding a mistake."""

    def start(*_: Any, **__: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("finedefics_platform.base.cluster_session._connect", start)
    monkeypatch.setattr("ray.is_initialized", lambda: False)


NOWHERE = "/nowhere/at/all"
MODELS = {
    "train": ["train", "one.yaml", "--set", f"model.path={NOWHERE}"],
    "tune": ["tune", "search.yaml", "--set", f"model.path={NOWHERE}"],
    "evaluate": ["evaluate", NOWHERE, "--data", "drawn", "--split", "val"],
    "encoder": ["evaluate", "--encoder", f"vision:{NOWHERE}", "--data", "drawn", "--split", "val"],
    "mine": ["data", "mine", "drawn", "--embedder", f"clip:{NOWHERE}"],
    "describe": ["data", "describe", "drawn", "--describer", f"transformers:{NOWHERE}"],
    "label": ["data", "label", "drawn", "--labeller", f"reading:{NOWHERE}"],
    "init": ["init", "drawn", "--model", NOWHERE],
}


@pytest.mark.parametrize("command", MODELS)
def test_a_model_that_is_not_there_is_found_before_ray_starts(
    command: str, here: Path, no_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"error: {NOWHERE}: there is no" in told(capsys, *MODELS[command])


def test_a_folder_without_a_model_is_told_alike(
    here: Path, no_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "bare").mkdir()
    for arguments in (
        ["train", "one.yaml", "--set", "model.path=./bare"],
        ["data", "describe", "drawn", "--describer", "transformers:./bare"],
        ["evaluate", "./bare", "--data", "drawn", "--split", "val"],
    ):
        assert "bare: " in (error := told(capsys, *arguments))
        assert "no model in" in error.replace("no model is in", "no model in")


def test_more_rows_a_step_than_there_are_pictures_are_refused(
    here: Path, no_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    error = told(capsys, "train", "one.yaml", "--set", "stages.0.feeds.labelled=100000")
    assert "feeds.labelled: 100,000 rows a step are asked for, and drawn@" in error
    assert "has 32; ask for at most 32" in error


def test_a_source_that_is_one_file_and_a_name_that_is_none(
    here: Path, no_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "bird.jpg").write_bytes(b"one picture")
    error = told(capsys, "data", "ingest", "bird.jpg", "--name", "birds")
    assert "bird.jpg: this file is neither an archive nor a table of pictures; give a folder" in error
    assert "this is a folder; give a file" in told(capsys, "data", "inspect", "drawn", "--html", str(here))
    error = told(capsys, "data", "ingest", "nowhere", "--name", "my birds")
    assert error == "error: 'my birds': not a name for a dataset; use letters, digits and . - _\n"


def test_a_file_of_another_kind_is_told_by_its_command(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, line in (
        (
            ["train", "search.yaml"],
            "search.yaml: this is the file of a search (it has `space`); use `finedefics tune`",
        ),
        (["study", "run", "one.yaml"], "one.yaml: this is the file of an experiment (it has `stages`); use"),
        (["jobs", "submit", "search.yaml"], "search.yaml: this is the file of a search"),
    ):
        assert f"error: {line}" in told(capsys, *arguments)
    assert "`stages` is wrong: list should have at least 1 item, not 0" in told(
        capsys, "train", "one.yaml", "--set", "stages=[]"
    )
    assert "`stages.0.feeds.label` is wrong: " in told(
        capsys, "train", "one.yaml", "--set", "stages.0.feeds.label=3"
    )


def test_a_key_that_stands_twice_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "one.yaml").write_text((here / "one.yaml").read_text() + "\nseed: 1\nname: two\nseed: 2\n")
    error = told(capsys, "train", "one.yaml")
    assert "one.yaml: the key `name` stands there twice (lines" in error
    with pytest.raises(FinedeficsError, match=r"`b` stands there twice \(lines 2 and 3\)"):
        parse_yaml("a:\n  b: 1\n  b: 2\n", place="x")
    assert parse_yaml("a: {b: 1}\nc: {b: 2}\n", place="x") == {"a": {"b": 1}, "c": {"b": 2}}
    assert parse_yaml("a: &x {b: 1}\nc:\n  <<: *x\n  b: 2\n", place="x")["c"] == {"b": 2}


def test_an_assignment_reaches_the_searchs_own_keys(here: Path) -> None:
    assignments = ["trials=9", "mode=min", "search.seed=5", "seed=7", "stages.0.steps=3"]
    search, experiment = load_search(here / "search.yaml", assignments)
    assert (search.trials, search.mode, search.seed) == (9, "min", 5)
    assert (experiment["seed"], experiment["stages"][0]["steps"]) == (7, 3)
    search, _ = load_search(here / "search.yaml", ["space.seed.choice=[3]"])
    assert search.space["seed"].choice == (3,)
    with pytest.raises(FinedeficsError, match="unknown key `spice`"):
        load_search(here / "search.yaml", ["search.spice=1"])


def test_a_metric_that_no_check_reports_is_found_before_a_trial(
    here: Path, no_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    every = ["--set", "evaluation.every=2"]
    assert "no validation check reports `loss`" in told(
        capsys, "tune", "search.yaml", "--set", "metric=loss", *every
    )
    assert "nothing is checked during training" in told(capsys, "tune", "search.yaml")


def test_a_start_over_gives_nothing_up_while_the_cluster_is_away(
    here: Path, drawn_workspace: Workspace, drawn_dataset: Dataset
) -> None:
    experiment = load_experiment("one.yaml")
    run = trained_run(drawn_workspace, run_key(drawn_workspace, experiment, drawn_dataset), tracked=False)
    before = {way: (run.place / way).read_bytes() for way in run.place.files()}
    done = subprocess.run(
        [sys.executable, "-m", "finedefics_platform.cli.main", "train", "one.yaml", "--force"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "RAY_ADDRESS": "127.0.0.1:9"},
    )
    assert done.returncode == 1
    assert "error: 127.0.0.1:9: " in done.stderr
    assert "Traceback" not in done.stderr
    assert {way: (run.place / way).read_bytes() for way in run.place.files()} == before
    assert open_run(drawn_workspace, run.key).model == run.model


def test_an_interrupted_search_is_kept_while_the_cluster_is_away(
    here: Path, drawn_workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise FinedeficsError("Ray is not available", place="127.0.0.1:9", cure="correct RAY_ADDRESS")

    monkeypatch.setattr("finedefics_platform.search.run.ensure_ray", away)
    for turn in range(2):  # the first call tells where such a search lies, the second finds something there
        assert shell.main(["tune", "search.yaml", "--force", "--set", "evaluation.every=2"]) == 1
        assert "Ray is not available" in capsys.readouterr().err
        begun = [place / "tune-begun" / "state" for place in drawn_workspace.searches.children()]
        assert begun
        if turn == 0:
            for state in begun:
                state.write_text("half of it")
    assert all(state.is_file() for state in begun)


def test_what_a_task_failed_with_is_told_and_not_where_ray_saw_it() -> None:
    from ray.exceptions import RayTaskError

    wrapped = RayTaskError(
        "work", "ray::work() (pid=1)", ArithmeticError("the header is too large\nand more")
    )
    for error in (wrapped, wrapped.as_instanceof_cause()):
        assert explain(error, "evaluate").thing == "ArithmeticError: the header is too large"


def test_weights_that_are_cut_off_are_told_in_one_line(tiny_model: Path, tmp_path: Path) -> None:
    from finedefics.backbones import load_backbone

    shutil.copytree(tiny_model, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(FinedeficsError, match=r"cut: no loadable image-text-to-text model \(.*header"):
        load_backbone(tmp_path / "cut")
