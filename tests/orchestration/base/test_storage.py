"""Places, whole things and leases, on a disk and in a real S3-speaking server; writers are killed."""

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from object_store import object_store

from finedefics.errors import FinedeficsError
from finedefics_platform.base.storage import Location, cached, commit, committed, discard, fetch, lease
from finedefics_platform.base.workspace import open_workspace


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with object_store() as uri:
        yield uri


@pytest.fixture(params=["disk", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Location:
    """A place of the test's own in each kind of store."""
    monkeypatch.setenv("FINEDEFICS_CACHE", str(tmp_path / "cache"))
    if request.param == "disk":
        return Location.of(tmp_path / "store")
    return Location.of(request.getfixturevalue("bucket")) / tmp_path.name


def test_a_file_is_written_read_listed_and_deleted(root: Location) -> None:
    file = root / "a" / "b.json"
    with pytest.raises(FileNotFoundError):
        file.read_bytes()
    file.write_json({"x": 1})
    assert file.read_json() == {"x": 1}
    assert (file.is_file(), file.is_folder(), (root / "a").is_folder()) == (True, False, True)
    assert file.size() == len(file.read_bytes())
    assert [place.name for place in root.children()] == ["a"]
    assert root.files() == ["a/b.json"]
    assert file.relative_to(root) == "a/b.json"
    assert root.relative_to(file) is None
    root.delete()
    assert not file.exists()
    root.delete()  # nothing is there any more


def test_a_place_travels_pickled_and_opens_elsewhere(root: Location) -> None:
    (root / "x").write_text("hello")
    assert pickle.loads(pickle.dumps(root / "x")).read_text() == "hello"
    assert cached(root / "x").read_text() == "hello"


def test_a_committed_folder_is_seen_whole_or_not_at_all(root: Location) -> None:
    target = root / "thing"
    with commit(target) as draft:
        (draft / "sub").mkdir()
        (draft / "sub" / "one").write_text("1")
        assert committed(target) is None
    assert (fetch(target) / "sub" / "one").read_text() == "1"
    place = committed(target)
    assert place is not None
    assert (place / "sub/one").read_text() == "1"
    assert (fetch(place / "sub") / "one").read_text() == "1"
    for nothing in (place / "none", root / "none" / "sub"):
        with pytest.raises(FileNotFoundError):
            fetch(nothing)


def test_what_fails_leaves_nothing(root: Location) -> None:
    def fail() -> None:
        with commit(root / "thing") as draft:
            (draft / "one").write_text("1")
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fail()
    assert committed(root / "thing") is None
    with pytest.raises(FileNotFoundError):
        fetch(root / "thing")
    assert root.files() == []


def test_the_first_of_two_stays_unless_it_is_to_be_replaced(root: Location) -> None:
    target = root / "thing"
    for text in ("first", "second"):
        with commit(target) as draft:
            (draft / "one").write_text(text)
    assert (fetch(target) / "one").read_text() == "first"
    with commit(target, replace=True) as draft:
        (draft / "two").write_text("third")
        assert (fetch(target) / "one").read_text() == "first", "the old one stands until the new one does"
    assert sorted(path.name for path in fetch(target).iterdir()) == ["two"]
    discard(target)
    assert committed(target) is None


def test_a_damaged_object_is_found_when_it_is_fetched(bucket: str, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("FINEDEFICS_CACHE", str(tmp_path / "cache"))
    target = Location.of(bucket) / "damaged"
    with commit(target) as draft:
        (draft / "one").write_text("content")
    place = committed(target)
    assert place is not None
    (place / "one").write_text("contend")
    with pytest.raises(FinedeficsError, match="not what was committed"):
        fetch(target)
    assert not list((tmp_path / "cache").glob("folders/*/*"))


KILLED = """
import sys, time
from finedefics_platform.base.storage import Location, commit
target = Location.of(sys.argv[1])
if sys.argv[2] == "file":
    write = Location.upload
    def slow(self, file):
        write(self, file)
        print("sent", flush=True)
        time.sleep(60)
    Location.upload = slow
with commit(target, replace=True) as draft:
    for number in range(3):
        (draft / str(number)).write_text("new" * 1000)
    if sys.argv[2] == "draft":
        print("filled", flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("before", [None, "old"])
@pytest.mark.parametrize(
    ("root", "moment"),
    [("disk", "draft"), ("s3", "draft"), ("s3", "file")],  # on a disk a rename is the only moment
    indirect=["root"],
)
def test_a_killed_writer_leaves_no_half_made_thing(root: Location, moment: str, before: str | None) -> None:
    """SIGKILL while the folder is filled, and between the first file that is sent and the manifest."""
    target = root / "thing"
    if before:
        with commit(target) as draft:
            (draft / "0").write_text(before)
    writer = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(target), moment], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline().strip() in ("filled", "sent")
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    if before is None:
        assert committed(target) is None
        with commit(target) as draft:
            (draft / "0").write_text("again")
        assert (fetch(target) / "0").read_text() == "again"
    else:
        assert {path.name: path.read_text() for path in fetch(target).iterdir()} == {"0": before}


def _work(uri: str, out: str, number: int) -> None:
    with lease(Location.of(uri), "the work"), open(out, "a") as file:
        file.write(f"in {number}\n")
        file.flush()
        time.sleep(0.3)
        file.write(f"out {number}\n")


def test_of_several_processes_one_at_a_time_has_the_lease(root: Location, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    out = tmp_path / "out"
    workers = [context.Process(target=_work, args=(str(root / "lease"), str(out), n)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    lines = out.read_text().splitlines()
    assert len(lines) == 8
    for entered, left in zip(lines[::2], lines[1::2], strict=True):
        assert entered.split() == ["in", left.split()[1]]
    assert (root / "lease").files() == []


def test_whoever_has_the_lease_is_named(root: Location) -> None:
    with (
        lease(root / "lease", "run x"),
        pytest.raises(FinedeficsError, match=rf"run x is being done by .*process {os.getpid()}, since"),
        lease(root / "lease", "run x", wait=False),
    ):
        pass
    with lease(root / "lease", "run x", wait=False):
        pass


HOLDS = """
import sys, time
from finedefics_platform.base.storage import Location, lease
with lease(Location.of(sys.argv[1]), "the work"):
    print("held", flush=True)
    time.sleep(60)
"""


def _killed_holder(root: Location) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(root / "lease")], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == "held"
    holder.send_signal(signal.SIGKILL)
    holder.wait()


def test_the_lease_of_a_killed_process_of_this_machine_is_free_at_once(root: Location) -> None:
    _killed_holder(root)
    started = time.monotonic()
    with lease(root / "lease", "the work", wait=False) as held:
        held.check()
    assert time.monotonic() - started < 30


def test_the_lease_of_a_dead_machine_runs_out(root: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    _killed_holder(root)
    (claim,) = (root / "lease").children()
    claim.write_json({**claim.read_json(), "machine": "another"})
    with pytest.raises(FinedeficsError, match="is being done by"), lease(root / "lease", "it", wait=False):
        pass
    monkeypatch.setattr(sys.modules["finedefics_platform.base.storage.lease"], "TTL_SECONDS", 1.0)
    time.sleep(2.5)
    with lease(root / "lease", "it", wait=False):
        pass


def test_a_lease_that_was_taken_over_is_noticed(root: Location) -> None:
    with lease(root / "lease", "it") as held:
        held.check()
        (root / "lease").children()[0].delete()
        with pytest.raises(FinedeficsError, match="cut off from the storage"):
            held.check()


def test_a_holder_that_was_stopped_goes_on_unless_somebody_took_over(
    root: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["finedefics_platform.base.storage.lease"]
    for name, seconds in (("TTL_SECONDS", 0.5), ("BEAT_SECONDS", 1.0), ("_POLL_SECONDS", 0.2)):
        monkeypatch.setattr(module, name, seconds)
    with lease(root / "lease", "it") as held:
        time.sleep(3)  # every beat comes late, as after a stop
        held.check()
        (root / "lease" / "another.json").write_json(
            {**(root / "lease").children()[0].read_json(), "machine": "another"}
        )
        deadline = time.monotonic() + 20
        while held._thread.is_alive() and time.monotonic() < deadline:
            (root / "lease" / "another.json").write_json((root / "lease" / "another.json").read_json())
            time.sleep(0.2)
        with pytest.raises(FinedeficsError, match="cut off from the storage"):
            held.check()


def test_a_scheme_that_cannot_be_stored_to_is_refused() -> None:
    with pytest.raises(FinedeficsError, match="not a place that can be stored to") as caught:
        Location.of("http://user:secret@host/x")
    assert caught.value.exit_code == 2
    assert "secret" not in str(caught.value)
    with pytest.raises(FinedeficsError, match="not a place"):
        Location.of("s3://")


@pytest.mark.parametrize(
    ("uri", "kind", "path"),
    [
        ("gs://bucket/a/b", "gcs", "bucket/a/b"),
        ("abfs://box@account.dfs.core.windows.net/a/b", "abfs", "box/a/b"),
        ("abfss://box@account.dfs.core.windows.net/a b", "abfs", "box/a b"),
    ],
)
def test_other_object_stores_are_opened_by_their_own_file_systems(uri: str, kind: str, path: str) -> None:
    place = Location.of(uri)
    assert (place.filesystem.type_name, place.path) == (kind, path)
    assert (place / "c").path == f"{path}/c"
    assert (place / "c").relative_to(place) == "c"


def test_an_address_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(FinedeficsError, match="cannot be used") as caught:
        Location.of("abfs://account/box").exists()
    assert caught.value.exit_code == 2


def test_a_bucket_that_is_not_there_is_said_in_one_line(bucket: str) -> None:
    with pytest.raises(FinedeficsError, match="nosuchbucket"):
        (Location.of("s3://nosuchbucket") / "x").write_text("x")


def test_a_workspace_names_its_places_without_its_root(root: Location) -> None:
    workspace = open_workspace(root)
    place = workspace.models / "x"
    assert workspace.name_of(place) == "workspace:models/x"
    assert workspace.place_of("workspace:models/x") == place
    assert workspace.place_of(workspace.name_of(Location.of("s3://other/y"))) == Location.of("s3://other/y")
    assert workspace.id == open_workspace(root).id
    assert json.loads((root / "workspace.json").read_text())["id"] == workspace.id
