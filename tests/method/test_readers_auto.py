"""Which reader reads a source: recognised, asked for, of a file, or of an installed package."""

import subprocess
import sys
from pathlib import Path

import pytest
from bird_folder import encoded, put
from native_layouts import LAYOUTS, write_cub, write_dogs

from finedefics.data.readers import READERS, open_source, read_source
from finedefics.errors import FinedeficsError

PHOTOGRAPHS = Path(__file__).resolve().parents[3] / "shared" / "photographs"

PLUGIN = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "herbarium-reader"
version = "1.0"

[project.entry-points."finedefics.readers"]
herbarium = "herbarium_reader:READER"
broken = "herbarium_reader.nowhere:READER"
"""
CODE = """
from finedefics.data.readers import Entry, Listing, Reader, Source
from finedefics.records import Category


def read(source: Source) -> Listing:
    sheets = [path for path in source.tree.files() if path.endswith(".sheet")]
    entries = tuple(Entry(path, "train", "Fern") for path in sheets)
    return Listing(entries, (Category("fern", "Fern", "plant"),))


READER = Reader(read, lambda source: source.tree.exists("herbarium.txt"), "*.sheet beside herbarium.txt")
"""


def test_an_unknown_layout_names_the_readers_and_how_each_looks(tmp_path: Path) -> None:
    put(tmp_path, "README.md", b"words")
    with pytest.raises(FinedeficsError) as caught:
        read_source(open_source(tmp_path))
    assert caught.value.exit_code == 2
    said = str(caught.value)
    assert said.startswith(f"{tmp_path}: the layout is none that is known; lay it out as one of ")
    for name in (*LAYOUTS, "released", "table"):
        assert f"{name}: " in said
    assert "images.txt, image_class_labels.txt and train_test_split.txt (CUB-200-2011)" in said


def test_a_layout_of_two_readers_is_the_users_to_name(tmp_path: Path) -> None:
    write_dogs(write_cub(tmp_path))
    with pytest.raises(
        FinedeficsError, match=r"laid out as cub and dogs read it; say which with --reader cub\|"
    ):
        read_source(open_source(tmp_path))
    assert read_source(open_source(tmp_path), "dogs")[0] == "dogs"


def test_a_folder_with_annotations_is_no_table(tmp_path: Path) -> None:
    put(tmp_path, "images/a.jpg", encoded(1))
    put(tmp_path, "annotations.jsonl", b'{"image": "images/a.jpg", "split": "train", "category": "Wren"}')
    assert read_source(open_source(tmp_path))[0] == "folder"


def test_a_released_file_is_told_from_any_other_table(tmp_path: Path) -> None:
    put(tmp_path, "pretrain.csv", b"image_path,question,answer,category\na.jpg,What?,Wren,Wren\n")
    put(tmp_path, "labels.csv", b"image_path,category\na.jpg,Wren\n")
    found = {name: read_source(open_source(tmp_path / name))[0] for name in ("pretrain.csv", "labels.csv")}
    assert found == {"pretrain.csv": "released", "labels.csv": "table"}


def test_every_reader_says_how_its_layout_looks() -> None:
    assert all(getattr(READERS[name], "layout", "") for name in READERS)


def test_a_reader_is_given_a_source_that_is_not_its_own(tmp_path: Path) -> None:
    put(tmp_path, "wren/a.jpg", encoded(1))
    for name in READERS:
        if name == "folder":
            assert len(read_source(open_source(tmp_path), name)[1].entries) == 1
        else:
            with pytest.raises(FinedeficsError, match=str(tmp_path)):
                read_source(open_source(tmp_path), name)


def test_the_trees_own_refusals_are_among_the_rejected(tmp_path: Path) -> None:
    import io
    import tarfile

    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("wren/a.jpg", "lark/b.jpg", "../out.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))
    _, listing = read_source(open_source(tmp_path / "a.tar"))
    assert [entry.source for entry in listing.entries] == ["lark/b.jpg", "wren/a.jpg"]
    assert listing.rejected == (("../out.jpg", "leaves the archive"),)


def test_a_reader_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, site = tmp_path / "package", tmp_path / "site"
    put(package, "pyproject.toml", PLUGIN.encode())
    put(package, "herbarium_reader/__init__.py", CODE.encode())
    command = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([sys.executable, *command, "--target", str(site), str(package)], check=True)
    put(tmp_path / "source", "a.sheet", b"pressed")
    put(tmp_path / "source", "herbarium.txt", b"")
    # another process, as the registry of this one has looked for packages already
    script = (
        "from finedefics.data.readers import READERS, open_source, read_source\n"
        f"name, listing = read_source(open_source({str(tmp_path / 'source')!r}))\n"
        "print(name, listing.entries[0].source, 'broken' in list(READERS))\n"
        f"try: read_source(open_source({str(package)!r}))\n"
        "except Exception as error: print(error)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{site}:{':'.join(sys.path)}")
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    found, unknown = run.stdout.splitlines()
    assert found == "herbarium a.sheet True"
    assert "herbarium: *.sheet beside herbarium.txt" in unknown


def test_a_reader_of_a_users_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from finedefics.data.readers import READERS, Entry, Listing\n"
        "from finedefics.records import Category\n\n"
        "@READERS.register('mine')\n"
        "def read(source):\n"
        "    entries = [Entry(path, 'train', 'Wren') for path in source.tree.files()]\n"
        "    return Listing(tuple(entries), (Category('wren', 'Wren'),))\n"
    )
    put(tmp_path / "source", "a.jpg", b"a")
    assert read_source(open_source(tmp_path / "source"), str(file))[1].entries[0].category == "Wren"


@pytest.mark.parametrize(
    ("entries", "categories", "said"),
    [
        ("[Entry('a', 'dev', None)]", "[]", "'a' is in the split 'dev', which there is not; mend the reader"),
        ("[Entry('a', 'train', None)] * 2", "[]", "'a' is listed twice"),
        ("[Entry('a', 'train', 'Wren')]", "[]", "the category 'Wren' of 'a' is not listed"),
    ],
)
def test_a_reader_that_breaks_the_rules_is_told(
    entries: str, categories: str, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from finedefics.data.readers import READERS, Entry, Listing\n"
        f"READERS.register('mine')(lambda source: Listing(tuple({entries}), tuple({categories})))\n"
    )
    with pytest.raises(FinedeficsError, match=said):
        read_source(open_source(tmp_path), str(file))


@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason=f"the photographs are not at {PHOTOGRAPHS}")
def test_the_photographs_of_ten_species() -> None:
    name, listing = read_source(open_source(PHOTOGRAPHS))
    assert (name, len(listing.entries), len(listing.categories), listing.rejected) == ("folder", 294, 10, ())
    ani = next(category for category in listing.categories if category.name == "Groove billed Ani")
    assert ani.attributes["wing color"] == "black"
    assert "shape" not in ani.attributes, "31.5 % is no agreement"
    albatross = next(category for category in listing.categories if category.name == "Black footed Albatross")
    assert "upperparts color" in albatross.attributes
    assert albatross.description is not None
    assert albatross.description.startswith("hooked seabird bill shape, brown wing color, ")
    assert {entry.split for entry in listing.entries} == {"train", "val", "test"}


def test_asking_for_a_reader_imports_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from finedefics.data.readers import READERS\n"
        "assert list(READERS)\n"
        "print([name for name in ('torch', 'scipy', 'transformers', 'pandas') if name in sys.modules])\n"
    )
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "[]"


def test_tables_beside_one_folder_of_pictures_are_not_passed_over(tmp_path: Path) -> None:
    for number in range(4):
        put(tmp_path, f"images/{number}.png", encoded(number))
    put(tmp_path, "train.csv", b"image,label\nimages/0.png,wren\nimages/1.png,lark\nimages/2.png,wren\n")
    put(tmp_path, "test.csv", b"image,label\nimages/3.png,lark\n")
    name, listing = read_source(open_source(tmp_path))
    assert name == "table"
    assert {entry.source: entry.split for entry in listing.entries}["images/3.png"] == "test"
    (tmp_path / "test.csv").rename(tmp_path / "more.csv")  # which of them is meant?
    with pytest.raises(FinedeficsError, match=r"all pictures are in images/, and tables lie beside it"):
        read_source(open_source(tmp_path))
    assert len(read_source(open_source(tmp_path), "folder")[1].categories) == 1, "as asked"
