"""Inferred labels on a real cluster: scored on what is known, and blind to what is hidden."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from bird_folder import encoded, put

from finedefics.errors import FinedeficsError
from finedefics.records import TABLES
from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.cli.main import main
from finedefics_platform.data.describing import describe
from finedefics_platform.data.ingesting import ingest
from finedefics_platform.data.inspection import inspect
from finedefics_platform.data.labelling import label
from finedefics_platform.data.mining import mine
from finedefics_platform.data.parquet import write_part
from finedefics_platform.data.store import Dataset, open_dataset
from finedefics_platform.data.versions import new_version

COLOURS = {"wren": "brown", "lark": "green", "crow": "black", "tern": "white", "dodo": "grey"}
NEW = "dodo"  # no labelled training picture: its labels in val are hidden
LABELLER = '''
import json

import numpy as np

from finedefics.labellers import LABELLERS, Inferred


@LABELLERS.register("words")
class Words:
    """Takes a picture for the category of its caption; where that says "maybe", with little probability."""

    reads, splits, labeller_id = ("description",), ("train", "val"), "words-1"

    def __init__(self, given):
        self.words = [category.description for category in given.categories]

    def __call__(self, pictures):
        with open("LOG", "a") as log:
            for picture in pictures:
                log.write(json.dumps({**vars(picture), "image": picture.image is not None}) + "\\n")
        said = [picture.description for picture in pictures]
        found = [self.words.index(text.removeprefix("maybe ")) for text in said]
        sure = np.array([0.4 if text.startswith("maybe ") else 0.9 for text in said], np.float32)
        return Inferred(np.array(found, np.int32), sure, sure / 2)
'''


TASKS = ("ingestion", "samples", "describing.run", "mining", "labelling.run", "labelling.inferring")


@pytest.fixture(scope="module", autouse=True)
def at_home() -> Iterator[pytest.MonkeyPatch]:
    """Tasks and actors run in the test's own process; `test_on_a_cluster` undoes it."""

    def tasks(items: Sequence[Any], work: Callable[[Sequence[Any]], Sequence[Any]], **_: Any) -> list[Any]:
        return [result for item in items for result in work([item])]

    def actors(items: Sequence[Any], make: Callable[[], Callable[[Any], Any]], **_: Any) -> list[Any]:
        work = make()
        return [work(item) for item in items]

    with pytest.MonkeyPatch.context() as patched:
        for module in TASKS:
            patched.setattr(f"finedefics_platform.data.{module}.run_tasks", tasks)
        for module in ("embeddings", "labelling.inferring"):
            patched.setattr(f"finedefics_platform.data.{module}.run_in_actors", actors)
            patched.setattr(f"finedefics_platform.data.{module}.reserved_device", lambda: "cpu")
        yield patched


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A labeller of one file, which writes down what it was shown beside it."""
    file = tmp_path / "words.py"
    file.write_text(LABELLER.replace("LOG", str(tmp_path / "shown.jsonl")))
    return file


def shown(labeller: Path) -> list[dict[str, Any]]:
    file = labeller.with_name("shown.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def write_captioned(
    root: Path,
    *,
    hidden: Mapping[str, str] | None = None,
    caption_names: Sequence[str] = (),
    described: bool = True,
) -> Path:
    """Four species with labels and a new one; captions "maybe …" are of another species.

    Args:
        hidden: what test pictures, and those of the new species in val, are called instead.
        caption_names: of the files of pictures without a label.
    """
    number, notes = 0, []
    for species, colour in COLOURS.items():
        for split, count in (("train", 6), ("val", 3), ("test", 3)):
            for index in range(count):
                is_hidden = split == "test" or species == NEW
                source = f"images/{split}/{number:03}.png"
                if species == NEW and split == "train":
                    number += 1
                    continue
                put(root, source, encoded(number))
                wrong = index == 0 and split == "train"
                other = list(COLOURS.values())[(list(COLOURS).index(species) + 1) % 4]
                called = (hidden or {}).get(species, species) if is_hidden else species
                said = f"maybe a {other} bird" if wrong else f"a {colour} bird"
                notes.append({"image": source, "split": split, "category": called, "description": said})
                number += 1
    for index, colour in enumerate(["brown", "grey", "grey", "black"]):
        name = caption_names[index] if caption_names else f"caption{index}"
        put(root, f"images/train/{name}.png", encoded(900 + index))
        note = {"image": f"images/train/{name}.png", "split": "train", "category": None}
        said = f"{'maybe ' if index == 3 else ''}a {colour} bird"
        notes.append({**note, "description": said} if described else note)
    known = [{"name": name, "description": f"a {colour} bird"} for name, colour in COLOURS.items()]
    (root / "annotations.jsonl").write_text("".join(json.dumps(note) + "\n" for note in notes))
    (root / "categories.jsonl").write_text("".join(json.dumps(one) + "\n" for one in known))
    return root


def described(workspace: Workspace, name: str, folder: Path) -> Dataset:
    ingest(workspace, name, folder, row_group_rows=4)
    return describe(workspace, name, describer="annotations")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return open_workspace(tmp_path_factory.mktemp("labelling") / "workspace")


@pytest.fixture(scope="module")
def birds(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return described(workspace, "birds", write_captioned(tmp_path_factory.mktemp("source") / "birds"))


def inferred(dataset: Dataset) -> dict[str, tuple[str, float]]:
    """By content of the picture: what it is taken for, and how surely."""
    samples = dataset.table("samples", ["sample_id", "content_hash"])
    labels = dataset.table("labels")
    assert labels["sample_id"].equals(samples["sample_id"]), "aligned"
    rows = zip(samples["content_hash"].to_pylist(), labels.to_pylist(), strict=True)
    return {key: (row["category_id"], row["probability"]) for key, row in rows if row["category_id"]}


def test_what_has_no_label_gets_one_from_the_threshold_on(
    workspace: Workspace, birds: Dataset, words: Path
) -> None:
    made = label(workspace, birds.reference, labeller=str(words))
    found = inferred(made)
    assert Counter(category for category, _ in found.values()) == {"wren": 1, "dodo": 2, "crow": 1}
    about = made.manifest["provenance"]["labels"]
    # 20 of the 24 known pictures of train are surely right and 4 unsurely wrong; 12 of val are right
    assert about["scored"]["pictures"] == 36
    assert about["scored"]["splits"] == ["train", "val"]
    assert about["scored"]["accuracy"] == pytest.approx(32 / 36)
    curve = [(p["precision"], p["pictures"]) for p in about["scored"]["curve"]]
    assert curve == [(pytest.approx(32 / 36), 36), (1.0, 32)]
    assert about["threshold"] == pytest.approx(0.9)
    assert (about["inferred"], about["accepted"], about["asked"]) == (4, 3, 4)
    # of a row group each row has the probability of its inferred label
    groups = made.table("row_groups").to_pylist()
    assert [p for g in groups for p in g["inferred"] if p >= 0] == pytest.approx([0.9, 0.9, 0.9, 0.4], abs=1)
    assert all(len(group["inferred"]) == group["rows"] for group in groups)
    assert all(
        (max(group["inferred"]) >= 0) == (group["split"] == "train" and not group["labelled"])
        for group in groups
    )
    assert {split.split: split.inferred for split in inspect(made).splits} == {
        "train": 4,
        "val": 0,
        "test": 0,
    }


def test_equal_work_is_done_once_and_another_precision_asks_nobody(
    workspace: Workspace, birds: Dataset, words: Path
) -> None:
    before = {one.name for one in workspace.labels.children()}
    made = label(workspace, birds.reference, labeller=str(words))
    asked = shown(words)
    assert label(workspace, birds.reference, labeller=str(words)).digest == made.digest
    lower = label(workspace, birds.reference, labeller=str(words), precision=0.5)
    assert lower.digest != made.digest
    assert lower.manifest["provenance"]["labels"]["threshold"] == pytest.approx(0.4)
    assert lower.manifest["provenance"]["labels"]["accepted"] == 4
    assert shown(words) == asked
    # cut off: a part and the version are gone, and only what is missing is asked about again
    (place,) = (one for one in workspace.labels.children() if one.name not in before | {".leases"})
    assert len(place.children()) > 1
    (place / "part-000000.npy").delete()
    (made.root / "manifest.json").delete()
    assert label(workspace, birds.reference, labeller=str(words)).digest == made.digest
    assert 0 < len(shown(words)) - len(asked) < len(asked)


def test_the_truth_planted_in_unlabelled_rows_changes_nothing(
    workspace: Workspace, birds: Dataset, words: Path, tmp_path: Path
) -> None:
    made = label(workspace, birds.reference, labeller=str(words))
    names = ["wren-truth", "tern-truth", "tern-truth-2", "lark-truth"]
    folder = write_captioned(tmp_path / "named", caption_names=names)
    named = label(workspace, described(workspace, "named", folder).reference, labeller=str(words))
    assert inferred(named) == inferred(made)
    smuggled = label(workspace, with_smuggled(workspace, birds).reference, labeller=str(words))
    assert smuggled.manifest["tables"]["labels"] == made.manifest["tables"]["labels"]
    assert {tuple(one) for one in shown(words)} == {("sample_id", "description", "image")}
    assert not any(one["image"] for one in shown(words)), "it reads none"


def with_smuggled(workspace: Workspace, dataset: Dataset) -> Dataset:
    """The version with the truth in rows without a label: as category, and left out of negatives."""
    truth = {"category_id": "tern", "negatives": [name for name in COLOURS if name != "tern"]}
    draft = new_version(workspace, dataset.name)
    draft.keep(dataset, list(dataset.manifest["tables"]))
    for table in ("samples", "annotations"):
        names = TABLES[table].names
        parts = []
        for groups in dataset.groups_of_file():
            read = [(group, dataset.read(group, {table: names}).to_pylist()) for group in groups]
            planted = [
                rows
                if group.labelled
                else [{**row, **{k: truth[k] for k in truth if k in row}} for row in rows]
                for group, rows in read
            ]
            parts.append(
                write_part(draft.home, table, [pa.Table.from_pylist(rows, TABLES[table]) for rows in planted])
            )
        draft.parts(table, parts, dataset.manifest["provenance"][table])
    return draft.publish("smuggled")


def test_test_pictures_and_hidden_labels_of_val_are_never_asked_about_and_decide_nothing(
    workspace: Workspace, birds: Dataset, words: Path, tmp_path: Path
) -> None:
    made = label(workspace, birds.reference, labeller=str(words))
    rows = birds.table("samples", ["sample_id", "split", "category_id"]).to_pylist()
    held = {r["sample_id"] for r in rows if r["split"] == "test" or r["category_id"] == NEW}
    assert len(held) == 5 * 3 + 3
    asked = {one["sample_id"] for one in shown(words)}
    assert asked == {row["sample_id"] for row in rows} - held
    # other labels there, and the same is inferred and measured
    turned = {"wren": "lark", "lark": "crow", "crow": "tern", "tern": "wren", "dodo": "dodo"}
    folder = write_captioned(tmp_path / "turned", hidden=turned)
    other = label(workspace, described(workspace, "turned", folder).reference, labeller=str(words))
    assert inferred(other) == inferred(made)
    assert other.manifest["provenance"]["labels"]["scored"] == made.manifest["provenance"]["labels"]["scored"]


def test_mining_carries_labels_over_and_describing_anew_drops_them(
    workspace: Workspace, birds: Dataset, words: Path, tmp_path: Path
) -> None:
    made = label(workspace, birds.reference, labeller=str(words))
    mined = mine(workspace, made.reference)
    assert mined.manifest["tables"]["labels"] == made.manifest["tables"]["labels"]
    column = [dataset.table("row_groups", ["inferred"]) for dataset in (made, mined)]
    assert column[0].equals(column[1])
    # mined in another way, the same labels are another version: the older negatives do not come back
    again = mine(workspace, made.reference, keep=2)
    relabelled = label(workspace, again.reference, labeller=str(words))
    assert relabelled.manifest["tables"]["negatives"] == again.manifest["tables"]["negatives"]
    file = tmp_path / "said.jsonl"
    ids = birds.table("samples", ["sample_id"])["sample_id"].to_pylist()
    file.write_text("".join(json.dumps({"sample_id": i, "description": "a bird"}) + "\n" for i in ids))
    anew = describe(workspace, relabelled.reference, describer=f"file:{file}")
    assert not anew.has("labels")
    assert anew.table("row_groups", ["inferred"])["inferred"].null_count == len(anew.row_groups())


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_table_of_labels_is_matched_by_id_or_source_and_believed_where_unscored(
    workspace: Workspace, birds: Dataset, tmp_path: Path, kind: str
) -> None:
    rows = [row for row in birds.table("samples", ["sample_id", "source", "category_id"]).to_pylist()
            if row["category_id"] is None]  # fmt: skip
    file = tmp_path / f"labels.{kind}"
    if kind == "csv":
        file.write_text("source,category\n" + "".join(f"{row['source']},Dodo\n" for row in rows[:3]))
    else:
        lines = [
            {"sample_id": row["sample_id"], "category_id": "dodo", "probability": 0.3} for row in rows[:3]
        ]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    made = label(workspace, birds.reference, labeller=f"file:{file}")
    assert [category for category, _ in inferred(made).values()] == ["dodo"] * 3
    about = made.manifest["provenance"]["labels"]
    assert (about["threshold"], about["threshold_scored"], about["accepted"]) == (0.0, None, 3)


def test_a_table_with_known_pictures_is_scored_as_every_labeller(
    workspace: Workspace, birds: Dataset, tmp_path: Path
) -> None:
    rows = birds.table("samples", ["sample_id", "category_id", "split"]).to_pylist()
    said = [
        f"{row['sample_id']},{'wren' if row['split'] == 'train' else row['category_id']}\n" for row in rows
    ]
    file = tmp_path / "labels.csv"
    file.write_text("sample_id,category\n" + "".join(said))
    with pytest.raises(FinedeficsError, match=r"no threshold reaches a precision of 90 % .*at 50\.0 %"):
        label(workspace, birds.reference, labeller=f"file:{file}")


def test_what_cannot_be_labelled_is_refused_in_one_line(
    workspace: Workspace, birds: Dataset, words: Path, tmp_path: Path
) -> None:
    latest = open_dataset(workspace, "birds").digest
    other = tmp_path / "other.csv"
    other.write_text("sample_id,category\n0123456789abcdef,wren\nfeedfeedfeedfeed,wren\n")
    for labeller, words_of in (
        (
            f"file:{other}",
            r"2 of 2 rows match no picture of birds@\w+ \(0123456789abcdef, feed.* another version",
        ),
        ("tea-leaves", "unknown labeller; choose one of: agreement, alignment, file, reading"),
        ("reading", "it does not say which; write reading:"),
    ):
        with pytest.raises(FinedeficsError, match=words_of) as caught:
            label(workspace, birds.reference, labeller=labeller)
        assert "\n" not in str(caught.value)
    text = words.read_text().replace('self.words.index(text.removeprefix("maybe "))', "0")
    words.write_text(text)
    with pytest.raises(
        FinedeficsError, match=r"no threshold reaches a precision of 90 %.*0\.400 takes 36 pict"
    ):
        label(workspace, birds.reference, labeller=str(words))
    assert open_dataset(workspace, "birds").digest == latest, "no version was made"
    mute = described(workspace, "mute", write_captioned(tmp_path / "mute", described=False))
    with pytest.raises(
        FinedeficsError, match=r"none of 4 training pictures .* is described; .*data describe mute"
    ):
        label(workspace, mute.reference, labeller=str(words))


def test_a_labeller_that_may_know_the_labels_of_train_is_scored_on_val_alone(
    workspace: Workspace, birds: Dataset, words: Path
) -> None:
    words.write_text(words.read_text().replace('("train", "val")', '("val",)'))
    with pytest.raises(
        FinedeficsError, match=r"12 labelled pictures of val .*, and 20 are needed to score it on"
    ):
        label(workspace, birds.reference, labeller=str(words))


def test_command(
    workspace: Workspace, birds: Dataset, words: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("FINEDEFICS_HOME", str(workspace.root))
    assert main(["data", "label", birds.reference, "--labeller", str(words), "--json"]) == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert (lines[-1]["event"], lines[-1]["inferred"], lines[-1]["accepted"]) == ("done", 4, 3)
    assert main(["data", "label", birds.reference, "--labeller", str(words), "--precision", "0.6"]) == 0
    told = capfd.readouterr().out
    assert "Scored on 36 known pictures of train and val" in told
    assert "4 of 4 training pictures without a label get one" in told
    assert "the feed `inferred`" in told
    words.write_text(words.read_text().replace("0.4 if", "0.95 if"))
    assert (
        main(["data", "label", birds.reference, "--labeller", str(words), "--precision", "0.99", "--json"])
        == 1
    )
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    scored = next(line for line in lines if line["event"] == "scored")
    assert [point["pictures"] for point in scored["curve"]] == [36, 4]
    assert "no threshold reaches" in lines[-1]["error"]["thing"]


def test_on_a_cluster(
    workspace: Workspace, birds: Dataset, words: Path, at_home: pytest.MonkeyPatch, ray_cluster: Any
) -> None:
    """The same version comes of tasks and actors; the last test, as it undoes what the others run in."""
    made = label(workspace, birds.reference, labeller=str(words))
    place = max((one for one in workspace.labels.children() if one.name != ".leases"), key=newest)
    place.delete()
    (made.root / "manifest.json").delete()
    at_home.undo()
    asked = shown(words)
    assert label(workspace, birds.reference, labeller=str(words)).digest == made.digest
    assert len(shown(words)) == 2 * len(asked)


def newest(place: Location) -> float:
    return max(file.modified().timestamp() for file in place.children())
