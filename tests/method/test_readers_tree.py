"""Trees: the same files from a folder, a zip and tars, and what an archive must not do."""

import io
import os
import pickle
import stat
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bird_folder import put
from native_layouts import pack
from pyarrow import fs

from finedefics.data.opening import open_tree
from finedefics.data.tree import StoreTree, Tree
from finedefics.errors import FinedeficsError

FILES = {
    "train/wren/a.jpg": b"a wren",
    "train/家麻雀/b.jpg": b"a sparrow",
    "notes.txt": "\ufeffwords – and dashes\n".encode(),
    "empty.jpg": b"",
}
UNSEEN = (".hidden/x.jpg", "train/.DS_Store", "__MACOSX/train/a.jpg", "train/wren/._a.jpg")


def write(root: Path) -> Path:
    for path, content in FILES.items():
        put(root, path, content)
    for path in UNSEEN:
        put(root, path, b"not to be seen")
    return root


@pytest.fixture(params=["folder", "zip", "tar", "tar.gz", "tar.xz"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Tree:
    root = write(tmp_path / "source")
    if request.param == "folder":
        return open_tree(root)
    if request.param == "tar.xz":
        with tarfile.open(tmp_path / "source.tar.xz", "w:xz") as archive:
            archive.add(root, ".")
        return open_tree(tmp_path / "source.tar.xz")
    return open_tree(pack(root, request.param))


def test_files_are_listed_and_read(tree: Tree) -> None:
    assert list(tree.files()) == sorted(FILES)
    assert {path: tree.read(path) for path in tree.files()} == FILES
    assert tree.text("notes.txt") == "words – and dashes\n"
    assert tree.stamp("train/wren/a.jpg")[0] == 6
    assert tree.name.startswith("source")
    assert tree.refused == ()
    assert tree.find("a.jpg") == tree.find("wren/a.jpg") == "train/wren/a.jpg"
    assert tree.find("jpg") is None


def test_what_is_not_there_is_said(tree: Tree) -> None:
    for path in (
        "train/wren/b.jpg",
        "train/../notes.txt",
        "",
        "../source/notes.txt",
        "/etc/hostname",
        "a\0b",
        "train/.DS_Store",
    ):
        assert not tree.exists(path)
        with pytest.raises(FileNotFoundError):
            tree.read(path)
        with pytest.raises(FileNotFoundError):
            tree.stamp(path)
    with pytest.raises(FinedeficsError, match=r"missing\.txt: there is no such file; add it"):
        tree.text("missing.txt")


def test_a_tree_travels_pickled(tree: Tree) -> None:
    again = pickle.loads(pickle.dumps(tree))
    assert {path: again.read(path) for path in again.files()} == FILES


def test_a_name_is_found_in_either_form_of_unicode(tmp_path: Path) -> None:
    name = unicodedata.normalize("NFD", "étourneau/Á.jpg")
    put(tmp_path / "source", name, b"a starling")
    for place in (
        tmp_path / "source",
        pack(tmp_path / "source", "zip", "top"),
        pack(tmp_path / "source", "tar"),
    ):
        tree = open_tree(place)
        (listed,) = tree.files()
        for path in (unicodedata.normalize("NFC", listed), unicodedata.normalize("NFD", listed)):
            assert tree.read(path) == b"a starling"
            assert tree.written(path) == listed


def test_a_zip_whose_names_are_utf8_and_do_not_say_so(tmp_path: Path) -> None:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        archive.writestr("Gr@@nfink/y.jpg", b"y")
        archive.writestr("back\\slash.jpg", b"z")
    # a writer of UTF-8 that leaves the flag for it unset, and one of backslashes
    (tmp_path / "b.zip").write_bytes(raw.getvalue().replace(b"Gr@@nfink", "Grünfink".encode()))
    tree = open_tree(tmp_path / "b.zip")
    assert {path: tree.read(path) for path in tree.files()} == {
        "Grünfink/y.jpg": b"y",
        "back/slash.jpg": b"z",
    }


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "wren/a.jpg", b"a")
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/wren/caf\xe9.jpg"))).write_bytes(b"b")
    tree = open_tree(tmp_path)
    assert list(tree.files()) == ["wren/a.jpg"]
    assert tree.refused == (("wren/caf\ufffd.jpg", "its name is no valid text"),)


def _tar(file: Path, *members: tuple[str, bytes | str | int]) -> Path:
    """A tar of files (bytes), links (str) and devices (int)."""
    with tarfile.open(file, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.type = tarfile.SYMTYPE if isinstance(content, str) else tarfile.FIFOTYPE
                info.linkname = content if isinstance(content, str) else ""
                archive.addfile(info)
    return file


def _zip(file: Path, *members: tuple[str, bytes | str | int]) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            if isinstance(content, str):
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            if not isinstance(content, int):
                archive.writestr(info, content)
    return file


@pytest.mark.parametrize("make", [_tar, _zip])
def test_members_that_escape_are_refused_and_written_nowhere(make: object, tmp_path: Path) -> None:
    assert callable(make)
    before = {"source.bin"}
    archive = make(
        tmp_path / "source.bin",
        ("top/a.jpg", b"a"),
        ("top/other/b.jpg", b"b"),
        ("../up.jpg", b"x"),
        ("/absolute.jpg", b"x"),
        ("top/../../climbs.jpg", b"x"),
        ("C:\\windows.jpg", b"x"),
        ("top/out", "/etc/hostname"),
        ("top/climbs", "../../../etc/hostname"),
        ("top/inside.jpg", "other/b.jpg"),
        ("top/around.jpg", "x/../other/b.jpg"),
        ("top/circle", "circle"),
        ("top/folder", "other"),
        ("top/nowhere", "missing.jpg"),
        ("top/fifo", 1),
    )
    tree = open_tree(archive)
    assert {path: tree.read(path) for path in tree.files()} == {
        "a.jpg": b"a",
        "around.jpg": b"b",
        "inside.jpg": b"b",
        "other/b.jpg": b"b",
    }
    expected = {
        "../up.jpg": "leaves the archive",
        "/absolute.jpg": "leaves the archive",
        "top/../../climbs.jpg": "leaves the archive",
        "C:\\windows.jpg" if make is _tar else "C:/windows.jpg": "leaves the archive",
        "top/out": "links out of the archive",
        "top/climbs": "links out of the archive",
        "top/circle": "links to nothing",
        "top/folder": "is a link to a folder",
        "top/nowhere": "links to nothing",
    }
    if make is _tar:
        expected["top/fifo"] = "is no plain file"
    assert dict(tree.refused) == expected
    assert {path.name for path in tmp_path.rglob("*")} == before


def test_a_member_that_stands_there_twice_is_told_of(tmp_path: Path) -> None:
    tree = open_tree(_tar(tmp_path / "a.tar", ("a/x.jpg", b"old"), ("a/y.jpg", b"y"), ("a/x.jpg", b"new")))
    assert tree.read("a/x.jpg") == b"new"
    assert tree.refused == (("a/x.jpg", "stands in the archive twice; the last one is read"),)


def test_a_hard_link_of_a_tar_is_its_target(tmp_path: Path) -> None:
    root = tmp_path / "source"
    put(root, "a.jpg", b"a")
    os.link(root / "a.jpg", root / "b.jpg")
    tree = open_tree(pack(root, "tar"))
    assert tree.read("a.jpg") == tree.read("b.jpg") == b"a"


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_a_cut_off_archive_is_one_clear_line(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "source"
    for number in range(30):
        put(root, f"{number}.jpg", os.urandom(4096))
    archive = pack(root, kind)
    archive.write_bytes(archive.read_bytes()[:60_000])
    with pytest.raises(FinedeficsError, match=r"the archive is damaged"):
        list(open_tree(archive).files())
    archive.write_bytes(b"")
    with pytest.raises(FinedeficsError, match=r"the archive is damaged"):
        list(open_tree(archive).files())


def test_a_damaged_member_of_a_zip_is_an_error_of_that_member(tmp_path: Path) -> None:
    root = tmp_path / "source"
    put(root, "a.jpg", b"first" * 100)
    put(root, "b.jpg", b"second")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("a.jpg", "b.jpg"):
            archive.write(root / name, name)
    content = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(content.replace(b"first", b"fIrst", 1))
    tree = open_tree(tmp_path / "a.zip")
    assert tree.read("b.jpg") == b"second"
    with pytest.raises(OSError, match="a damaged member of the archive: Bad CRC-32"):
        tree.read("a.jpg")


def test_a_full_disk_is_said_in_one_line(tmp_path: Path) -> None:
    def keep(way: str, make: Callable[[Path], None]) -> Path:
        make(Path("/dev/full"))
        raise AssertionError("it had space")

    put(tmp_path / "source", "a.jpg", os.urandom(4096))
    tree = open_tree(pack(tmp_path / "source", "tar.gz"), keep=keep)
    with pytest.raises(FinedeficsError, match=r"cannot be unpacked \(No space left on device\); free space"):
        list(tree.files())
    pq.write_table(pa.table({"image": [os.urandom(4096)]}), tmp_path / "source/a.parquet")
    with pytest.raises(FinedeficsError, match=r"cannot be unpacked \(No space left on device\); free space"):
        open_tree(tmp_path / "source", keep=keep).read("a.parquet::image::0")


def test_an_archive_that_changes_is_read_anew(tmp_path: Path) -> None:
    first = open_tree(_tar(tmp_path / "a.tar", ("x/a.jpg", b"a"), ("x/b.jpg", b"b")))
    assert open_tree(tmp_path / "a.tar") is first, "an archive is listed once a process"
    _tar(tmp_path / "a.tar", ("x/a.jpg", b"changed"), ("x/b.jpg", b"b" * 20000))
    assert open_tree(tmp_path / "a.tar").read("x/a.jpg") == b"changed"


def test_linked_folders_are_followed_once_and_broken_links_stay_in_sight(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", "a.jpg", b"a")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/wren").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/broken.jpg").symlink_to(tmp_path / "nowhere.jpg")
    tree = open_tree(tmp_path / "data")
    assert list(tree.files()) == ["again/a.jpg", "broken.jpg"]
    assert tree.refused == (("wren", "the same folder as again, taken once"),), "a circle is none"
    with pytest.raises(FileNotFoundError):
        tree.read("broken.jpg")


def test_what_is_neither_folder_nor_archive(tmp_path: Path) -> None:
    with pytest.raises(FinedeficsError, match="there is no such folder or file") as caught:
        open_tree(tmp_path / "nowhere")
    assert caught.value.exit_code == 2
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(FinedeficsError, match="neither a folder nor an archive"):
        open_tree(tmp_path / "a.txt")
    with pytest.raises(FinedeficsError, match="this address cannot be used"):
        open_tree("sftp://somewhere/folder")


class Asked:
    """A store, and what it was asked for: files by name, or a listing."""

    def __init__(self, store: fs.FileSystem) -> None:
        self.store = store
        self.asked: list[Any] = []

    def get_file_info(self, what: Any) -> Any:
        self.asked.append(what)
        return self.store.get_file_info(what)

    def open_input_file(self, path: str) -> Any:
        return self.store.open_input_file(path)


def test_a_store_is_listed_where_all_of_it_is_wanted_and_asked_for_a_file_otherwise(tmp_path: Path) -> None:
    put(tmp_path, "wren/a.jpg", b"a wren")
    put(tmp_path, "wren/Möwe.jpg", b"a gull")
    tree = StoreTree(tmp_path.as_uri())
    tree._store = store = Asked(tree._store)
    assert tree.stamp("wren/a.jpg") == (6, (tmp_path / "wren/a.jpg").stat().st_mtime_ns)
    assert tree.read("wren/a.jpg") == b"a wren"
    assert store.asked
    assert all(isinstance(what, str) for what in store.asked), "a task listed the whole store"
    store.asked.clear()
    for path in ("wren/a.jpg", "wren/b.jpg", "wren/Möwe.jpg", "wren/Mo\u0308we.jpg"):
        tree.written(path)
    assert tree.written("wren/Mo\u0308we.jpg") == "wren/Möwe.jpg"
    assert [type(what) for what in store.asked] == [fs.FileSelector], "a row was a question"


def test_a_store_s_folder_may_have_any_name(tmp_path: Path) -> None:
    for name in ("my birds", "Füße", "50%", "a+b"):
        put(tmp_path, f"{name}/wren/a.jpg", b"a wren")
        tree = StoreTree(f"file://{tmp_path}/{name}")
        assert [tree.read(path) for path in tree.files()] == [b"a wren"]
        assert tree.where("wren").endswith(f"{name}/wren")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("flip", "it breaks off at byte"),  # Python's tarfile stops there without a word
        ("cut", "it breaks off at byte"),
        ("append", "another one follows"),
    ],
)
def test_a_tar_that_is_damaged_in_its_middle_is_not_half_a_tree(harm: str, said: str, tmp_path: Path) -> None:
    archive = tmp_path / "pictures.tar"
    with tarfile.open(archive, "w") as tar:
        for number in range(6):
            info = tarfile.TarInfo(f"wren/{number}.jpg")
            info.size = 600
            tar.addfile(info, io.BytesIO(bytes([1]) * 600))
    content = bytearray(archive.read_bytes())
    header = 3 * (512 + 1024)
    if harm == "flip":
        content[header + 10] ^= 1
    archive.write_bytes(bytes(content[: header + 100]) if harm == "cut" else bytes(content))
    if harm == "append":
        archive.write_bytes(bytes(content) * 2)
    with pytest.raises(FinedeficsError, match=said):
        list(open_tree(archive).files())
    archive.write_bytes(bytes(content[:header]))
    if harm == "cut":  # at a header: nothing tells it from an archive whose writer leaves out the end
        tree = open_tree(archive)
        assert len(list(tree.files())) == 3
        assert "has no end" in tree.refused[0][1]
