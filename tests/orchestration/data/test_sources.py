"""Sources give one dataset wherever they lie: a folder, archives, an object store; read by real tasks."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bird_folder import encoded, put
from native_layouts import pack, upload, write_cars, write_pets

from finedefics.data.readers import read_source
from finedefics.errors import FinedeficsError
from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.cli.main import main
from finedefics_platform.data.checking import UNREADABLE
from finedefics_platform.data.ingesting import _address, ingest
from finedefics_platform.data.ingestion import Rejected
from finedefics_platform.data.sources import open_source, parse_columns
from finedefics_platform.data.store import Dataset, open_dataset

DRIVER = """
import json, sys
from finedefics_platform.base.workspace import open_workspace
from finedefics_platform.data.ingesting import ingest
home, sources = open_workspace(sys.argv[1]), json.loads(sys.argv[2])
made = [ingest(home, f'there-{n}', allow_rejected=1, **source) for n, source in enumerate(sources)]
print(json.dumps([dataset.digest for dataset in made]))
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FINEDEFICS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def stored(dataset: Dataset) -> list[tuple[str, str, str | None]]:
    rows = dataset.table("samples", ["content_hash", "split", "category_id"]).to_pylist()
    return sorted(tuple(row.values()) for row in rows)


@pytest.fixture
def elsewhere(ray_cluster: Any, bucket: str, cache: Path) -> Callable[..., list[str]]:
    """Ingests in a driver of its own, whose tasks know the object store as those of a submitted job do."""

    def run(home: Location, *sources: dict[str, Any]) -> list[str]:
        variables = {k: v for k, v in os.environ.items() if k.startswith("AWS_")}
        variables["FINEDEFICS_CACHE"] = str(cache)
        environment = {
            **os.environ,
            "RAY_ADDRESS": ray_cluster.get_runtime_context().gcs_address,
            "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": {"env_vars": variables}}),
        }
        command = [sys.executable, "-c", DRIVER, str(home), json.dumps(sources)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return [str(digest) for digest in json.loads(done.stdout.splitlines()[-1])]

    return run


def test_one_dataset_from_a_folder_archives_and_an_object_store(
    ray_cluster: Any,
    workspace: Workspace,
    tmp_path: Path,
    bucket: str,
    elsewhere: Callable[..., list[str]],
) -> None:
    root = write_cars(tmp_path / "source")
    zipped, packed = pack(root, "zip", "top"), pack(root, "tar.gz")
    folder = upload(root, f"{bucket}/cars")
    shutil.copyfile(packed, tmp_path / "once.tgz")
    upload_file(tmp_path / "once.tgz", f"{bucket}/archives/once.tgz")
    write_parquet(tmp_path / "parquet/birds.parquet")
    table = upload(tmp_path / "parquet", f"{bucket}/parquet") + "/birds.parquet"
    made = [ingest(workspace, "cars", place, allow_rejected=1) for place in (root, zipped, packed)]
    asked = [{"source": place} for place in (folder, f"{bucket}/archives/once.tgz")]
    asked.append({"source": table, "columns": {"image": "img", "label": "kind", "split": "part"}})
    digests = elsewhere(workspace.root, *asked)
    made += [open_dataset(workspace, f"there-{number}@{digest}") for number, digest in enumerate(digests)]
    *cars, birds = made
    assert len(stored(cars[0])) == 5
    assert all(stored(one) == stored(cars[0]) for one in cars[1:])
    provenance = cars[3].manifest["provenance"]["samples"]
    assert (provenance["reader"], provenance["source"]) == ("cars", folder)
    assert provenance["val"] == "0.1 of each category's train pictures, by seed"
    reasons = {row["source"]: row["reason"] for row in cars[3].table("quarantine").to_pylist()}
    assert reasons["cars_train/00004.jpg"] == "not named in cars_train_annos.mat"
    assert birds.manifest["counts"] == {"train": {"lark": 3, "wren": 3}}


def upload_file(file: Path, uri: str) -> None:
    folder = file.with_name("alone")
    folder.mkdir()
    file.rename(folder / uri.rpartition("/")[2])
    upload(folder, uri.rpartition("/")[0])


def test_gifs_under_a_wrong_name_are_stored_as_png(
    ray_cluster: Any, workspace: Workspace, tmp_path: Path
) -> None:
    dataset = ingest(workspace, "pets", write_pets(tmp_path / "source"), allow_rejected=0.2)
    assert dataset.manifest["provenance"]["samples"]["stored as PNG"] == {"GIF": 2}
    rows = {row["source"]: row["image"] for row in dataset.table("samples").to_pylist()}
    assert rows["images/Abyssinian_5.jpg"].startswith(b"\x89PNG")
    assert rows["images/Abyssinian_1.jpg"] == encoded(11, "JPEG")
    assert {c.name: c.super_category for c in dataset.categories()} == {
        "Abyssinian": "cat",
        "American Bulldog": "dog",
    }


def write_parquet(file: Path) -> Path:
    rows = [{"img": encoded(n), "kind": "wren" if n % 2 else "lark", "part": "train"} for n in range(6)]
    rows += [{"img": b"", "kind": "wren", "part": "test"}, {"img": None, "kind": "wren", "part": "test"}]
    file.parent.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def test_a_parquet_file_with_pictures_in_it(ray_cluster: Any, workspace: Workspace, tmp_path: Path) -> None:
    columns = parse_columns("image=img,label=kind,split=part")
    file = write_parquet(tmp_path / "source/birds.parquet")
    dataset = ingest(workspace, "birds", file, columns=columns, allow_rejected=0.25)
    images = {row["source"]: row["image"] for row in dataset.table("samples").to_pylist()}
    assert images["birds.parquet/0000003"] == encoded(3)
    reasons = {row["source"]: row["reason"] for row in dataset.table("quarantine").to_pylist()}
    assert reasons == {"birds.parquet/0000006": "empty file", "birds.parquet/0000007": "empty file"}
    assert dataset.manifest["provenance"]["samples"]["columns"] == columns


def test_the_command_reads_a_table_with_named_columns(
    ray_cluster: Any, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("FINEDEFICS_HOME", str(workspace.root))
    for number in range(3):
        put(tmp_path, f"pics/{number}.png", encoded(number))
    (tmp_path / "birds.csv").write_text(
        "path,species\npics/0.png,Wren\npics/1.png,Wren\npics/2.png,Wren\n,Wren\n"
    )
    arguments = [str(tmp_path / "birds.csv"), "--name", "birds", "--columns", "image=path,label=species"]
    assert main(["data", "ingest", *arguments, "--allow-rejected", "0.1"]) == 1
    assert (
        "1 of the 4 pictures cannot be used, 1 of them like birds.csv: line 5: `path` is empty;"
        in capfd.readouterr().err
    )
    assert main(["data", "ingest", *arguments, "--allow-rejected", "0.25", "--json"]) == 0
    last = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (last["rows"]["samples"], last["rows"]["quarantine"]) == (3, 1)


def test_an_archive_of_a_store_is_copied_once_and_anew_when_it_changes(
    tmp_path: Path, bucket: str, cache: Path
) -> None:
    put(tmp_path / "source", "wren/a.png", encoded(1))
    put(tmp_path / "source", "lark/b.png", encoded(2))
    place = f"{bucket}/changing/birds.zip"
    upload_file(pack(tmp_path / "source", "zip"), place)
    source = open_source(place)
    assert read_source(source)[0] == "folder"
    again = pickle.loads(pickle.dumps(source.tree))
    assert again.read("wren/a.png") == encoded(1)
    assert len(list(cache.glob("files/*/birds.zip"))) == 1
    assert source.tree.where("wren/a.png") == f"{place}/wren/a.png"
    put(tmp_path / "source", "wren/a.png", encoded(3, "JPEG"))  # a store tells times by the second
    shutil.rmtree(tmp_path / "alone")
    upload_file(pack(tmp_path / "source", "zip"), place)
    assert open_source(place).tree.read("wren/a.png") == encoded(3, "JPEG")


def test_places_that_are_none(bucket: str) -> None:
    for place, said in (
        (f"{bucket}/nowhere.zip", "there is no such archive"),
        (f"{bucket}/nowhere", "the layout is none that is known"),
        (f"{bucket}/nowhere.csv", "the layout is none that is known"),
        ("ftp://host/folder", "not a place that can be stored to"),
        ("s3://key:secret@bucket/x", "keys do not belong into an address"),
    ):
        with pytest.raises(FinedeficsError, match=said) as caught:
            read_source(open_source(place))
        assert caught.value.exit_code == 2
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["image", "=x", "image=", "image=a,image=b"])
def test_columns_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(FinedeficsError, match="is no column; write image=NAME") as caught:
        parse_columns(text)
    assert caught.value.exit_code == 2
    assert parse_columns("") == {}
    assert parse_columns("image = path , label=a=b") == {"image": "path", "label": "a=b"}


def test_a_table_that_is_a_link_has_its_pictures_beside_the_link(tmp_path: Path) -> None:
    """As the hub's cache and versioning tools lay files out."""
    put(tmp_path, "snapshot/a.png", encoded(1))
    put(tmp_path, "blobs/3fe2", b"image,label\na.png,wren\n")
    (tmp_path / "snapshot/labels.csv").symlink_to(tmp_path / "blobs/3fe2")
    source = open_source(tmp_path / "snapshot/labels.csv")
    name, listing = read_source(source)
    assert (name, [entry.source for entry in listing.entries]) == ("table", ["a.png"])
    assert pickle.loads(pickle.dumps(source.tree)).read("a.png") == encoded(1)


def test_pictures_that_could_not_be_read_leave_a_step_unfinished(tmp_path: Path) -> None:
    """Rights that are mended change neither size nor time, so nothing would ever look again."""
    put(tmp_path, "wren/a.png", encoded(1))
    put(tmp_path, "wren/b.png", encoded(2))
    tree = open_source(tmp_path).tree
    reason = f"{UNREADABLE} (Permission denied)"
    assert _address("step", [Rejected("wren/a.png", "train", reason)], tree) == "step-incomplete"
    assert _address("step", [Rejected("wren/gone.png", "train", reason)], tree) == "step"
    assert _address("step", [Rejected("wren/b.png", "train", "not a picture")], tree) == "step"
