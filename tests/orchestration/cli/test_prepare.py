"""From a folder to a dataset that can be trained on, in one command; and what it says of bad folders."""

import json
from pathlib import Path
from typing import Any

import pytest
from bird_folder import encoded, put, write_birds

from finedefics_platform.base.workspace import Workspace
from finedefics_platform.cli.main import main
from finedefics_platform.cli.prepare import ALLOW_REJECTED
from finedefics_platform.config.experiment import load_experiment
from finedefics_platform.data import ingesting
from finedefics_platform.data.store import dataset_names, open_dataset

OTHER_SCRIPTS = ("鷦鷯", "шишкарь", "Grüner Specht")


@pytest.fixture
def here(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with an empty workspace."""
    monkeypatch.setenv("FINEDEFICS_HOME", str(workspace.root))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def events(capfd: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capfd.readouterr().out.splitlines() if line.startswith("{")]


def plain_folder(root: Path, kinds: tuple[str, ...], *, each: int = 10, first: int = 0) -> Path:
    for number, kind in enumerate(kinds):
        for index in range(each):
            put(root, f"{kind}/{index}.png", encoded(first + number * each + index))
    return root


def test_a_described_folder_is_described_mined_shown_and_resumed(
    ray_cluster: Any, workspace: Workspace, here: Path, capfd: Any
) -> None:
    write_birds(here / "birds")
    assert main(["data", "prepare", "birds", "--name", "parts", "--json"]) == 0
    done = events(capfd)[-1]
    assert (done["event"], done["pictures"], done["described"]) == ("done", 23, 23)
    assert (done["undescribed"], done["unmined"], done["next"]) == (None, None, "finedefics init parts")
    assert Path(done["html"]).read_text().startswith("<!doctype html>")
    dataset = open_dataset(workspace, "parts")
    assert dataset.reference == done["dataset"]
    assert dataset.mined_negatives() > 0

    assert main(["data", "prepare", "birds", "--name", "parts", "--json"]) == 0
    again = events(capfd)
    assert [one["step"] for one in again if one["event"] == "skipped"] == ["ingest", "describe", "mine"]
    assert again[-1]["dataset"] == done["dataset"]

    assert main(["data", "prepare", "birds", "--name", "parts", "--html", "sheet.html"]) == 0
    told = capfd.readouterr().out
    assert (here / "sheet.html").is_file()
    for line in (
        "23 pictures of 4 categories: train 14, val 3, test 6; 2 without a label",
        "23 of 23 described by annotations, 2 attributes",
        "crown: 100 % of the described; brown 14, black 9",
        "similar categories by --miner attributes",
        "next: finedefics init parts",
        "then: finedefics train parts.yaml, and finedefics evaluate RUN --data parts",
    ):
        assert line in told
    assert main(["init", "birds", "--model", "base"]) == 0
    assert set(load_experiment("parts.yaml").stages[0].feeds) == {"labelled", "captioned", "text"}


@pytest.mark.parametrize("known", [True, False])
def test_what_was_asked_for_is_kept_when_prepared_again(
    ray_cluster: Any, workspace: Workspace, here: Path, capfd: Any, known: bool
) -> None:
    """Whether or not the data could say something itself."""
    if known:
        write_birds(here / "parts")
    else:
        plain_folder(here / "parts", ("wren", "lark"), each=6)
    command = ["data", "prepare", "parts", "--name", "parts", "--json"]
    assert main(command) == 0
    samples = open_dataset(workspace, "parts").table("samples", ["sample_id"])["sample_id"].to_pylist()
    rows = [
        {"sample_id": one, "attributes": {"crown": ("red", "blue")[i % 2]}} for i, one in enumerate(samples)
    ]
    (here / "notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["data", "describe", "parts", "--describer", "file:notes.jsonl"]) == 0
    described = open_dataset(workspace, "parts")
    assert main(command) == 0
    done = events(capfd)[-1]
    assert (done["undescribed"], done["described"]) == (None, len(samples))
    kept = open_dataset(workspace, "parts")
    assert kept.files("descriptions") == described.files("descriptions")
    assert kept.reference == done["dataset"]


def test_photographs_alone_go_on_with_what_works(
    ray_cluster: Any, workspace: Workspace, here: Path, capfd: Any
) -> None:
    plain_folder(here / "plain", OTHER_SCRIPTS)
    assert main(["data", "prepare", "plain", "--name", "plain"]) == 0
    told = capfd.readouterr().out
    assert "30 pictures of 3 categories: train 21, val 3, test 6" in told
    assert (
        "not described: the source says nothing of its pictures or categories; name one: --describer" in told
    )
    assert "no similar categories: neither attributes nor descriptions are known" in told
    assert "next: finedefics init plain" in told
    assert {c.name for c in open_dataset(workspace, "plain").categories()} == set(OTHER_SCRIPTS)
    assert main(["init", "plain"]) == 0
    stage = load_experiment("plain.yaml").stages[0]
    assert (set(stage.feeds), load_experiment("plain.yaml").data.negatives) == ({"labelled"}, 0)


def test_one_category_is_prepared_and_said_to_be_one(
    ray_cluster: Any, workspace: Workspace, here: Path, capfd: Any
) -> None:
    plain_folder(here / "one", ("wren",))
    assert main(["data", "prepare", "one", "--name", "one"]) == 0
    told = capfd.readouterr().out
    assert "no similar categories: there is no second category to take a picture for" in told
    assert "then: finedefics train one.yaml; nothing is held out that could judge it" in told
    assert main(["init", "one"]) == 0
    assert set(load_experiment("one.yaml").stages[0].terms) == {"answer"}


def test_equal_pictures_in_train_and_test_are_told(
    ray_cluster: Any, workspace: Workspace, here: Path, capfd: Any
) -> None:
    for split, kind, numbers in (
        ("train", "wren", range(20)),
        ("train", "lark", range(20, 30)),
        ("test", "wren", (30, 31, 3)),  # 3 is in train as well
        ("test", "lark", (32, 33)),
    ):
        for number in numbers:
            put(here / "leak", f"{split}/{kind}/{number}.png", encoded(number))
    assert main(["data", "prepare", "leak", "--name", "leak"]) == 0
    told = capfd.readouterr().out
    assert "34 pictures of 2 categories: train 29, test 5" in told
    assert "1 in quarantine: the same picture is in test, such as train/wren/3.png" in told


def test_names_that_differ_by_case_are_refused_in_one_line(here: Path, capfd: Any) -> None:
    plain_folder(here / "cased", ("Wren", "wren", "lark"), each=3)
    assert main(["data", "prepare", "cased", "--name", "cased"]) != 0
    (error,) = capfd.readouterr().err.splitlines()
    assert "'Wren'" in error
    assert "'wren'" in error
    assert "rename one of the two" in error


def test_more_refused_pictures_than_allowed_stop_it(
    ray_cluster: Any, workspace: Workspace, here: Path, capfd: Any
) -> None:
    plain_folder(here / "broken", ("wren", "lark"), each=4)
    for number in range(3):
        put(here / "broken", f"wren/bad{number}.jpg", b"not a picture")
    put(here / "broken", "lark/empty.jpg", b"")
    arguments = ["data", "prepare", "broken", "--name", "broken"]
    for command in (arguments, ["data", "ingest", "broken", "--name", "broken"]):
        assert main([*command, "--allow-rejected", "0.1"]) == 1
        last = capfd.readouterr().err.splitlines()[-1]
        assert "4 of the 12 pictures cannot be used, 3 of them like wren/bad0.jpg: not a picture" in last
        assert last.endswith("allow more than 10% with --allow-rejected")
    assert dataset_names(workspace) == []
    assert main([*arguments, "--allow-rejected", "0.34"]) == 0
    assert open_dataset(workspace, "broken").manifest["tables"]["quarantine"]["rows"] == 4
    assert ALLOW_REJECTED == ingesting.ALLOW_REJECTED, "commands and calls stop at one share"


@pytest.mark.parametrize(
    ("source", "options", "code", "message"),
    [
        ("empty", [], None, "empty"),
        ("header.csv", [], None, "header.csv"),
        ("nowhere", [], None, "nowhere"),
        ("plain", ["--describer", "nobody"], 2, "unknown describer; choose one of: annotations"),
        ("plain", ["--embedder", "x", "--miner", "attributes"], 2, "a miner and an embedder are named"),
        ("plain", ["--allow-rejected", "2"], 2, "invalid value for '--allow-rejected'"),
    ],
)
def test_wrong_requests_say_so_in_one_line(
    ray_cluster: Any, here: Path, capfd: Any, source: str, options: list[str], code: int | None, message: str
) -> None:
    (here / "empty").mkdir()
    (here / "header.csv").write_text("image,label\n")
    plain_folder(here / "plain", ("wren", "lark"), each=3)
    found = main(["data", "prepare", source, "--name", "x", *options])
    assert found == code if code else found in (1, 2)
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
