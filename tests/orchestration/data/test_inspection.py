"""What inspecting says of a dataset with oddities, and the pictures that it chooses to show."""

import io
import json
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bird_folder import put
from PIL import Image

from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.cli.main import main
from finedefics_platform.data.describing import describe
from finedefics_platform.data.ingesting import ingest
from finedefics_platform.data.inspection import agreement, choose_rows, inspect, show
from finedefics_platform.data.mining import mine
from finedefics_platform.data.store import Dataset, open_dataset

SPOKEN = "鷦鷯 <b>& \"Zaunkönig\"</script><script>alert('x')</script>"
FOCI = Path(__file__).resolve().parents[4] / "shared" / "reference" / "foci"


def scene(number: int, size: tuple[int, int] = (90, 60), kind: str = "JPEG") -> bytes:
    """A picture with large shapes: what a difference hash tells apart."""
    coarse = np.random.default_rng(number).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(file, format=kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, ray_cluster: Any) -> tuple[Workspace, Dataset]:
    """A described and mined dataset with near duplicates, equal pictures, odd names and refused files."""
    root = tmp_path_factory.mktemp("odd")
    notes: list[dict[str, Any]] = []

    def add(source: str, content: bytes, category: str | None, split: str, **more: Any) -> None:
        put(root / "pictures", source, content)
        notes.append({"image": source, "category": category, "split": split, **more})

    for number in range(12):
        crown = "red" if number % 2 else "black"
        category = (SPOKEN, "Lark", "Lark")[number % 3]
        split = ("train", "train", "val", "test")[number // 3]
        add(f"{number}.jpg", scene(number), category, split, attributes={"crown": crown, "tail": category})
    add("again.png", scene(1, (45, 30), "PNG"), "Lark", "test")  # of 1.jpg, in train
    add("equal.jpg", scene(0), SPOKEN, "test")  # byte for byte 0.jpg, in train
    add("alone.jpg", scene(50), None, "train", description="a black bird", attributes={"crown": "black"})
    add("cut.jpg", scene(51)[:400], "Lark", "train")
    add("moving.txt", b"no picture", "Lark", "train")
    known = [
        {"name": name, "attributes": {"crown": "red", "tail": name}} for name in (SPOKEN, "Lark", "Dodo")
    ]
    for file, lines in (("annotations.jsonl", notes), ("categories.jsonl", known)):
        put(root / "pictures", file, "".join(json.dumps(line) + "\n" for line in lines).encode())
    workspace = open_workspace(root / "workspace")
    ingest(workspace, "odd", root / "pictures", row_group_rows=4, allow_rejected=0.2)
    describe(workspace, "odd")
    return workspace, mine(workspace, "odd")


def test_counts_sizes_and_attributes(odd: tuple[Workspace, Dataset]) -> None:
    found = inspect(odd[1])
    assert {s.split: (s.labelled, s.unlabelled) for s in found.splits} == {
        "train": (5, 1),
        "val": (3, 0),
        "test": (5, 0),
    }
    assert (found.pictures, found.described) == (14, 12)
    assert found.sizes.width == {"min": 45, "p5": 90, "median": 90, "p95": 90, "max": 90}
    assert found.sizes.height["min"] == 30
    rows = odd[1].table("samples", ["image"])["image"].to_pylist()
    assert (found.sizes.bytes, found.sizes.bytes_a_picture) == (
        sum(map(len, rows)),
        round(sum(map(len, rows)) / 14),
    )
    crown, tail = found.attributes
    assert (crown.name, crown.pictures, crown.coverage, crown.distinct) == ("crown", 12, 1.0, 2)
    assert sorted(crown.values) == [("black", 6), ("red", 6)]
    assert (tail.name, tail.pictures, tail.coverage) == ("tail", 11, 11 / 12)
    assert found.categories == 3
    assert found.without_pictures == ("dodo",)


def test_what_looks_alike_across_splits_is_found(odd: tuple[Workspace, Dataset]) -> None:
    near = inspect(odd[1]).near_duplicates
    assert (near.held_out_like_train, near.within_a_split, near.complete) == (1, 0, True)
    (pair,) = near.pairs
    assert {(one.source, one.split) for one in (pair.first, pair.second)} == {
        ("1.jpg", "train"),
        ("again.png", "test"),
    }
    assert not pair.equal


def test_equal_pictures_and_refused_files_are_in_quarantine(odd: tuple[Workspace, Dataset]) -> None:
    found = inspect(odd[1])
    assert found.quarantined == {"the same picture is in test": 1, "damaged picture": 1, "not a picture": 1}
    assert found.quarantined_examples["the same picture is in test"] == ("0.jpg",)


def test_nearest_categories_are_told(odd: tuple[Workspace, Dataset]) -> None:
    nearest = inspect(odd[1]).nearest
    assert set(nearest) == {"dodo", "lark", *(c for c in nearest if c.startswith("鷦鷯"))}
    assert all(category not in others for category, others in nearest.items())


def test_pictures_are_spread_over_categories_and_splits(drawn_dataset: Dataset) -> None:
    rows = drawn_dataset.table("samples", ["split", "category_id"]).to_pylist()
    for count in (6, 12, 30):
        chosen = choose_rows(drawn_dataset, count)
        assert (len(chosen), chosen) == (count, sorted(set(chosen)))
        taken = Counter((rows[i]["split"], rows[i]["category_id"]) for i in chosen if rows[i]["category_id"])
        assert max(taken.values()) - min(taken.values()) <= max(1, count // 6)
    everywhere = [rows[i] for i in choose_rows(drawn_dataset, 12)]
    assert len({(row["split"], row["category_id"]) for row in everywhere if row["category_id"]}) == 10
    assert choose_rows(drawn_dataset, 12) == choose_rows(drawn_dataset, 12)
    assert choose_rows(drawn_dataset, 12) != choose_rows(drawn_dataset, 12, seed=1)
    assert choose_rows(drawn_dataset, 10_000) == list(range(len(rows)))


def test_shown_pictures_are_the_rows_that_were_asked_for(drawn_dataset: Dataset) -> None:
    samples = drawn_dataset.table("samples", ["sample_id", "category_id"]).to_pylist()
    wanted = [37, 2, 59]
    shown = show(drawn_dataset, wanted)
    assert [one.sample_id for one in shown] == [samples[row]["sample_id"] for row in wanted]
    assert all(Image.open(io.BytesIO(one.image)).format == "JPEG" for one in shown)
    assert all(len(one.negatives) == 4 and one.description and one.attributes for one in shown)


def test_agreement_tells_the_same_scene_from_another() -> None:
    assert agreement(scene(1), scene(1, (45, 30), "PNG")) > 0.98
    assert agreement(scene(1), scene(2)) < 0.5
    flat = io.BytesIO()
    Image.new("RGB", (8, 8), "white").save(flat, format="PNG")
    assert agreement(flat.getvalue(), scene(1)) == pytest.approx(0, abs=1e-9)


class Page(HTMLParser):
    """Tags with their attributes, and the text of headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data: str) -> None:
        if self._open == "h3" and data.strip():
            self.headings.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_a_contact_sheet_is_one_file_in_which_names_are_text(
    odd: tuple[Workspace, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("FINEDEFICS_HOME", str(odd[0].root))
    file = tmp_path / "sheet.html"
    assert main(["data", "inspect", "odd", "--html", str(file), "--json"]) == 0
    last = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (last["html"], last["near_duplicates"]["held_out_like_train"]) == (str(file), 1)
    text = file.read_text()
    page = Page(text)
    assert len(page.of("script")) == 1, "the page's own"
    assert "alert('x')" not in text
    shots = [one for one in page.of("article") if one.get("class") == "shot"]
    assert len(shots) == 14
    assert {one["data-category"] for one in shots} == {"", "Lark", SPOKEN}
    assert Counter(one["data-labelled"] for one in shots) == {"yes": 13, "no": 1}
    assert Counter(one["data-described"] for one in shots) == {"yes": 12, "no": 2}
    assert SPOKEN in page.headings
    pictures = page.of("img")
    assert len(pictures) == 14 + 2
    assert all(str(one["src"]).startswith("data:image/jpeg;base64,") and one["alt"] for one in pictures)
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed")
        assert not str(attributes.get("href", "#")).startswith(("http", "//"))
    assert "default-src 'none'" in text


def test_a_bounded_number_of_pictures(
    odd: tuple[Workspace, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("FINEDEFICS_HOME", str(odd[0].root))
    assert main(["data", "inspect", "odd", "--html", str(tmp_path / "a.html"), "--pictures", "5"]) == 0
    told = capfd.readouterr().out
    assert "1 held-out pictures look like a training picture" in told
    assert "crown" in told
    shots = Page((tmp_path / "a.html").read_text()).of("article")
    assert len(shots) == 5


@pytest.mark.skipif(not FOCI.is_dir(), reason="the published option files are not on this machine")
def test_a_published_file_of_options_is_counted(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("FINEDEFICS_HOME", str(workspace.root))
    assert main(["data", "inspect", str(FOCI / "options-pet-37.json"), "--json"]) == 0
    last = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (last["categories"], last["items"], last["options"]) == (37, 3669, {"4": 3669})


def test_a_file_of_something_else_is_named(workspace: Workspace, tmp_path: Path, capfd: Any) -> None:
    (tmp_path / "x.json").write_text("[1]")
    assert main(["data", "inspect", str(tmp_path / "x.json")]) == 1
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_an_undescribed_version_is_inspected_too(odd: tuple[Workspace, Dataset]) -> None:
    workspace, _ = odd
    first = next(
        version
        for version in (
            open_dataset(workspace, f"odd@{place.name}")
            for place in (workspace.datasets / "odd").children()
            if len(place.name) == 12
        )
        if not version.has("descriptions")
    )
    found = inspect(first)
    assert (found.described, found.attributes, found.nearest) == (0, (), {})
