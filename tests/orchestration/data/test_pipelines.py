"""Ingest, describe and mine on a real Ray cluster, and the commands around them."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bird_folder import encoded, put

from finedefics.errors import FinedeficsError
from finedefics_platform.base.progress import SILENT
from finedefics_platform.base.tasks import run_tasks
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.cli.main import main
from finedefics_platform.data.describing import describe
from finedefics_platform.data.ingesting import ingest
from finedefics_platform.data.inspection import inspect
from finedefics_platform.data.mining import mine
from finedefics_platform.data.store import Dataset, open_dataset

ROOT = Path(__file__).parents[3]


def quarantine(dataset: Dataset) -> dict[str, str]:
    return {row["source"]: row["reason"] for row in dataset.table("quarantine").to_pylist()}


def test_from_folder_to_negatives(ray_cluster: Any, workspace: Workspace, folder: Path) -> None:
    ingest(workspace, "birds", folder, row_group_rows=4)
    describe(workspace, "birds")
    dataset = mine(workspace, "birds")

    assert open_dataset(workspace, "birds").digest == dataset.digest
    assert dataset.manifest["counts"]["train"] == {"": 2, "crow": 4, "lark": 4, "wren": 4}
    train = {sample.sample_id: sample for sample in dataset.samples("train")}
    captioned = [sample for sample in train.values() if sample.category_id is None]
    assert [(s.description, s.negatives) for s in captioned] == [("a black bird", ("lark", "wren"))] * 2
    wren = next(sample for sample in train.values() if sample.category_id == "wren")
    assert (wren.description, wren.negatives) == ("brown crown and wren tail", ("lark", "crow", "dodo"))
    texts = {category.category_id: category.description for category in dataset.categories()}
    assert texts == {
        "crow": "black crown and crow tail",
        "dodo": "grey and gone",
        "lark": "brown crown and lark tail",
        "wren": "brown crown and wren tail",
    }
    # the bytes are those of the files, and the splits stand one after the other
    rows = dataset.table("samples").to_pylist()
    assert all(row["image"] == (folder / row["source"]).read_bytes() for row in rows)
    assert [row["split"] for row in rows] == ["train"] * 14 + ["val"] * 3 + ["test"] * 6
    assert [(g.rows, g.split, g.labelled) for g in dataset.row_groups("train")] == [
        (4, "train", True),
        (4, "train", True),
        (4, "train", True),
        (2, "train", False),
    ]
    assert inspect(dataset).without_pictures == ("dodo",)
    assert dataset.mined_negatives() == 3, "there are no more categories"


def test_what_cannot_be_used_is_quarantined_with_its_reason(
    ray_cluster: Any, workspace: Workspace, tmp_path: Path
) -> None:
    root = tmp_path / "broken"
    good = {f"train/wren/{i}.png": encoded(i) for i in range(3)} | {"test/wren/9.png": encoded(9)}
    good["train/wren/moving.gif"] = encoded(53, "GIF")
    noisy = encoded(50, "JPEG")
    bad = {
        "train/wren/cut.jpg": noisy[: len(noisy) // 2],
        "train/wren/short.jpg": noisy[:-150],  # whole headers: only decoding finds it
        "train/wren/cut.png": encoded(51)[:-40],
        "train/wren/flipped.png": encoded(52)[:60] + b"????" + encoded(52)[64:],
        "train/wren/empty.jpg": b"",
        "train/wren/text.jpg": b"not a picture at all",
        "train/wren/leak.png": encoded(9),
        "train/wren/twin.png": encoded(1),
        "val/wren/either.png": encoded(60),
        "val/lark/either.png": encoded(60),
        "train/stray.png": encoded(61),
    }
    for source, content in (good | bad).items():
        put(root, source, content)
    with pytest.raises(FinedeficsError) as caught:
        ingest(workspace, "broken", root)
    assert (
        f"{root}: 11 of the 16 pictures cannot be used, 4 of them like train/wren/cut.jpg: damaged picture ("
        in str(caught.value)
    )
    assert workspace.datasets.files() == []
    dataset = ingest(workspace, "broken", root, allow_rejected=0.7)
    reasons = quarantine(dataset)
    assert {row["source"] for row in dataset.table("samples", ["source"]).to_pylist()} == set(good)
    assert set(reasons) == set(bad)
    for name in ("cut.jpg", "short.jpg", "cut.png", "flipped.png"):
        assert reasons[f"train/wren/{name}"].startswith("damaged picture (")
    assert reasons["train/wren/empty.jpg"] == "empty file"
    assert reasons["train/wren/text.jpg"] == "not a picture"
    assert dataset.manifest["provenance"]["samples"]["stored as PNG"] == {"GIF": 1}
    assert reasons["train/wren/leak.png"] == "the same picture is in test (test/wren/9.png)"
    assert reasons["train/wren/twin.png"] == "a copy of train/wren/1.png"
    assert reasons["val/lark/either.png"] == "the same picture is labelled lark and wren"
    assert reasons["train/stray.png"] == "lies outside a category's folder"
    assert inspect(dataset).quarantined["damaged picture"] == 4


def test_a_named_picture_that_is_missing_is_quarantined(
    ray_cluster: Any, workspace: Workspace, folder: Path
) -> None:
    (folder / "images/train/000.png").unlink()
    dataset = ingest(workspace, "birds", folder)
    assert quarantine(dataset) == {"images/train/000.png": "cannot be read (there is no such file)"}


def test_nothing_usable_is_an_error(ray_cluster: Any, workspace: Workspace, tmp_path: Path) -> None:
    put(tmp_path / "all", "train/wren/a.jpg", b"")
    with pytest.raises(
        FinedeficsError, match=r"none of the 1 pictures can be used \(the first: empty file\)"
    ):
        ingest(workspace, "birds", tmp_path / "all")
    assert workspace.datasets.files() == []


def test_finished_steps_are_reused_and_a_change_is_seen(
    ray_cluster: Any, workspace: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [step(workspace) for step in steps(folder)]
    with monkeypatch.context() as patch:
        for module in ("ingestion", "samples", "describing.run", "mining"):
            patch.setattr(f"finedefics_platform.data.{module}.run_tasks", refuse)
        assert [step(workspace).digest for step in steps(folder)] == [dataset.digest for dataset in made]
    assert open_dataset(workspace, "birds").digest == made[-1].digest
    put(folder, "images/train/000.png", encoded(777))
    changed = ingest(workspace, "birds", folder)
    assert changed.digest != made[0].digest
    assert open_dataset(workspace, "birds").digest == changed.digest


def test_the_same_content_gives_the_same_version_whatever_the_tasks(
    ray_cluster: Any, workspace: Workspace, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = [step(workspace).digest for step in steps(folder)]
    elsewhere = tmp_path / "copy"
    shutil.copytree(folder, elsewhere)
    monkeypatch.setattr("finedefics_platform.data.ingestion._CHECKED_AT_ONCE", 3)
    other = open_workspace(tmp_path / "other")
    assert [step(other).digest for step in steps(elsewhere)] == first


def test_describing_anew_drops_the_negatives_it_outdates(
    ray_cluster: Any, workspace: Workspace, folder: Path
) -> None:
    ingested = ingest(workspace, "birds", folder)
    mined = mine(workspace, ingested.reference, keep=1)
    assert all(len(row["candidates"]) <= 1 for row in mined.table("negatives").to_pylist())
    assert (ingested.mined_negatives(), mined.mined_negatives()) == (0, 1)
    described = describe(workspace, mined.reference)
    assert (described.has("descriptions"), described.has("negatives")) == (True, False)


def test_pictures_without_annotation_are_counted(
    ray_cluster: Any, workspace: Workspace, tmp_path: Path
) -> None:
    for index in range(2):
        put(tmp_path / "plain", f"train/wren/{index}.png", encoded(index))
    ingest(workspace, "plain", tmp_path / "plain")
    described = describe(workspace, "plain", describer="annotations")
    assert described.manifest["provenance"]["descriptions"]["without_description"] == 2
    with pytest.raises(FinedeficsError, match="no second category"):
        mine(workspace, "plain")


def test_results_keep_the_order_of_the_items_and_errors_arrive_whole(ray_cluster: Any) -> None:
    def square(numbers: Any) -> list[int]:
        return [number**2 for number in numbers]

    def fail(numbers: Any) -> list[int]:
        raise FinedeficsError("broken", place="here", cure="mend it", exit_code=2)

    assert run_tasks(range(20), square, chunk=3, label="", progress=SILENT) == [n**2 for n in range(20)]
    assert run_tasks([], square, chunk=3, label="", progress=SILENT) == []
    with pytest.raises(FinedeficsError, match="here: broken; mend it") as caught:
        run_tasks(range(4), fail, chunk=2, label="", progress=SILENT)
    assert caught.value.exit_code == 2


def test_commands(
    ray_cluster: Any, workspace: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("FINEDEFICS_HOME", str(workspace.root))
    assert main(["data", "ingest", str(folder), "--name", "birds", "--json"]) == 0
    last = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (last["event"], last["rows"]["samples"]) == ("done", 23)
    assert main(["data", "describe", "birds"]) == 0
    assert main(["data", "mine", "birds", "--keep", "2"]) == 0
    assert main(["data", "inspect", "birds", "--json"]) == 0
    *_, last = (json.loads(line) for line in capfd.readouterr().out.splitlines() if line.startswith("{"))
    assert last["without_pictures"] == ["dodo"]
    assert last["splits"][0] == {
        "split": "train",
        "labelled": 12,
        "unlabelled": 2,
        "described": 14,
        "inferred": 0,
        "categories": 3,
    }
    assert main(["data", "inspect", "birds"]) == 0
    assert "dodo" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["ingest", "nowhere", "--name", "x"], 2, "nowhere: there is no such folder or file;"),
        (
            ["ingest", ".", "--name", "x", "--reader", "video"],
            2,
            "unknown reader; choose one of: aircraft, cars, cub, dogs, flowers, folder, pets",
        ),
        (["ingest", ".", "--name", "x", "--columns", "image"], 2, "--columns: 'image' is no column; write"),
        (["inspect", "cars"], 2, "cars: there is no such dataset;"),
        (["mine"], 2, "missing argument"),
    ],
)
def test_wrong_commands_say_so_in_one_line(
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Any,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.setenv("FINEDEFICS_HOME", str(workspace.root))
    assert main(["data", *arguments]) == code
    error = capfd.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_cluster_that_does_not_answer_is_named_at_once(
    tmp_path: Path, folder: Path, unused_port: int
) -> None:
    environment = {
        **os.environ,
        "RAY_ADDRESS": f"127.0.0.1:{unused_port}",
        "FINEDEFICS_HOME": str(tmp_path / "w"),
    }
    command = [sys.executable, str(ROOT / "jobs/ingest.py"), str(folder), "--name", "birds"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"error: 127.0.0.1:{unused_port}: Ray is not available" in done.stderr.splitlines()[-1]


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def steps(folder: Path) -> list[Any]:
    return [
        lambda workspace: ingest(workspace, "birds", folder),
        lambda workspace: describe(workspace, "birds"),
        lambda workspace: mine(workspace, "birds"),
    ]


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("a finished step was done again")
