"""Dataset versions: what is written is read back, versions never change, and a broken one is named."""

import json
import multiprocessing
import os
import pickle
import resource
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import pyarrow as pa
import pytest

from finedefics.errors import FinedeficsError
from finedefics.records import CATEGORIES, DESCRIPTIONS, ROW_GROUPS, SAMPLES, TABLES
from finedefics_platform.base.storage import Location, cached
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.data.parquet import Part, plan_part, row_groups, write_parquet, write_part
from finedefics_platform.data.steps import step_digest
from finedefics_platform.data.store import Dataset, dataset_names, open_dataset, open_version, versions
from finedefics_platform.data.versions import finished_step, new_version


@pytest.fixture(params=["disk", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Location:
    """A place of the test's own in each kind of store."""
    monkeypatch.setenv("FINEDEFICS_CACHE", str(tmp_path / "cache"))
    if request.param == "disk":
        return Location.of(tmp_path / "store")
    return Location.of(request.getfixturevalue("bucket")) / tmp_path.name


def sample(number: int, split: str = "train", category: str | None = "wren") -> dict[str, object]:
    return {
        "sample_id": f"s{number}",
        "image": bytes([number]),
        "category_id": category,
        "split": split,
        "width": 8,
        "height": 8,
        "content_hash": f"h{number}",
        "source": f"{number}.png",
        "look": number,
    }


def in_groups(table: str, rows: Sequence[dict[str, object]]) -> list[pa.Table]:
    """Rows of a table two a row group, as every table here is cut."""
    return list(row_groups(pa.Table.from_pylist(list(rows), TABLES[table]), 2))


def publish(workspace: Workspace, *, name: str = "birds", samples: int = 5, step: str = "made") -> Dataset:
    wren = {"category_id": "wren", "name": "Wren", "super_category": None, "description": "small"}
    draft = new_version(workspace, name)
    groups = in_groups("samples", [sample(i) for i in range(samples)])
    draft.parts("samples", [write_part(draft.home, "samples", groups)], {"step": "test"})
    plan = [
        {"file": 0, "index": i, "rows": len(g), "bytes": len(g), "split": "train", "labelled": True}
        | {"described": 0, "categories": [0] * len(g)}
        for i, g in enumerate(groups)
    ]
    draft.write("row_groups", pa.Table.from_pylist(plan, ROW_GROUPS), {"step": "test"})
    draft.write("categories", pa.Table.from_pylist([wren], CATEGORIES), {"step": "test"})
    draft.count({"train": {"wren": samples}})
    return draft.publish(step)


def add_descriptions(dataset: Dataset, workspace: Workspace, step: str = "described") -> Dataset:
    ids = [row["sample_id"] for row in dataset.table("samples", ["sample_id"]).to_pylist()]
    told = {"attributes": [{"name": "tail", "value": "short"}], "description": "short tail"}
    ranked = {"candidates": [{"category_id": c, "similarity": 0.5} for c in ("lark", "crow")]}
    descriptions = [{"sample_id": i, "describer_id": "d", **(told if i == "s1" else {})} for i in ids]
    negatives = [{"sample_id": i, "miner_id": "m", **(ranked if i == "s1" else {})} for i in ids]
    draft = new_version(workspace, dataset.name)
    draft.keep(dataset, ["samples", "categories", "row_groups"])
    for name, rows, about in (
        ("descriptions", descriptions, {"attributes": ["tail"]}),
        ("negatives", negatives, {"most": 2}),
    ):
        draft.parts(name, [write_part(draft.home, name, in_groups(name, rows))], about)
    return draft.publish(step)


def test_samples_come_back_joined(workspace: Workspace) -> None:
    described = add_descriptions(publish(workspace), workspace)
    samples = described.samples("train")
    assert [s.sample_id for s in samples] == ["s0", "s1", "s2", "s3", "s4"]
    assert (samples[1].description, samples[1].attributes) == ("short tail", {"tail": "short"})
    assert samples[1].negatives == ("lark", "crow")
    assert (samples[0].image, samples[0].description, samples[0].negatives) == (b"\0", None, ())
    assert [s.sample_id for s in described.samples("train", limit=3)] == ["s0", "s1", "s2"]
    assert described.samples("test") == []
    assert described.labelled_category_ids() == {"wren"}
    assert [c.name for c in described.categories()] == ["Wren"]
    assert (described.mined_negatives(), described.attribute_names()) == (2, ["tail"])
    plain = publish(workspace)
    assert (plain.mined_negatives(), plain.attribute_names(), plain.neighbours()) == (0, [], {})


def test_a_row_group_is_read_with_its_companions_and_nothing_else(workspace: Workspace) -> None:
    wanted = {"samples": ["sample_id"], "descriptions": ["description"], "negatives": ["candidates"]}
    plain = publish(workspace)
    described = add_descriptions(plain, workspace)
    first, second, third = described.row_groups()
    assert described.read(first, wanted)["description"].to_pylist() == [None, "short tail"]
    assert described.read(third, wanted)["sample_id"].to_pylist() == ["s4"]
    assert plain.read(second, wanted).to_pylist() == [
        {"sample_id": name, "description": None, "candidates": None} for name in ("s2", "s3")
    ]
    assert [[g.number for g in groups] for groups in described.groups_of_file()] == [[0, 1, 2]]


def test_row_groups_tell_split_and_label(workspace: Workspace) -> None:
    groups = publish(workspace).row_groups()
    assert [(g.index, g.rows, g.split, g.labelled) for g in groups] == [
        (0, 2, "train", True),
        (1, 2, "train", True),
        (2, 1, "train", True),
    ]


def test_unchanged_tables_are_shared_and_equal_content_is_one_version(workspace: Workspace) -> None:
    first = publish(workspace)
    described = add_descriptions(first, workspace)
    assert described.files("samples") == first.files("samples")
    assert described.manifest["parent"] == first.digest
    assert add_descriptions(first, workspace, step="again").root == described.root
    assert publish(workspace, name="other").digest == first.digest
    assert publish(workspace, samples=4).digest != first.digest


def test_references(workspace: Workspace) -> None:
    first = publish(workspace)
    second = add_descriptions(first, workspace)
    assert open_dataset(workspace, "birds").digest == second.digest
    assert open_dataset(workspace, f"birds@{first.digest[:6]}").digest == first.digest
    assert open_dataset(workspace, first.reference).root == first.root
    assert open_dataset(workspace, first.root).digest == first.digest
    with pytest.raises(FinedeficsError, match="choose one of: birds") as caught:
        open_dataset(workspace, "cars")
    assert caught.value.exit_code == 2
    with pytest.raises(FinedeficsError, match=first.digest):
        open_dataset(workspace, "birds@zzz")


def test_a_finished_step_is_found_and_what_was_built_on_it_stays_the_newest(workspace: Workspace) -> None:
    first = publish(workspace, step="a")
    second = add_descriptions(first, workspace)
    reused = finished_step(workspace, "birds", "a")
    assert reused is not None
    assert reused.digest == first.digest
    assert open_dataset(workspace, "birds").digest == second.digest
    other = publish(workspace, samples=3, step="b")
    assert open_dataset(workspace, "birds").digest == other.digest
    finished_step(workspace, "birds", "a")  # the newest was not built on it, so asking for it brings it back
    assert open_dataset(workspace, "birds").digest == first.digest
    assert finished_step(workspace, "birds", "never") is None


def test_a_writer_cut_off_before_it_named_the_newest_is_gone_on_with(workspace: Workspace) -> None:
    made = publish(workspace, step="a")
    (workspace.datasets / "birds" / "latest").delete()  # the last of the files that it writes
    assert finished_step(workspace, "birds", "a") == made == open_dataset(workspace, "birds")


@pytest.mark.parametrize("verb", ["describe", "mine", "names"])
def test_a_step_on_more_pictures_is_another_step(workspace: Workspace, verb: str) -> None:
    few = publish(workspace, samples=3)
    many = publish(workspace, samples=5, step="more")
    # whatever it reads of them, it carries all of them over
    assert step_digest(verb, few, ("categories",), 1) != step_digest(verb, many, ("categories",), 1)
    described = add_descriptions(few, workspace)
    again = step_digest(verb, described, ("categories",), 1) == step_digest(verb, few, ("categories",), 1)
    assert again == (verb == "describe"), "describing anew replaces descriptions, and the others keep them"


def test_an_absent_table_names_the_command_that_makes_it(workspace: Workspace) -> None:
    dataset = publish(workspace)
    with pytest.raises(FinedeficsError, match="finedefics data describe birds"):
        dataset.table("descriptions")
    with pytest.raises(FinedeficsError, match="finedefics data mine birds"):
        dataset.table("negatives")


def test_a_column_that_came_later_is_empty_in_an_older_version(workspace: Workspace) -> None:
    older = publish(workspace)
    draft = new_version(workspace, "birds")
    draft.keep(older, list(older.manifest["tables"]))
    rows = pa.Table.from_pylist([{"sample_id": "s0", "description": "a brown bird"}])
    part = Part("tables/annotations/old.parquet", "old", 1)
    write_parquet(draft.home / part.way, rows.schema, [rows])
    draft.parts("annotations", [part], {})
    dataset = draft.publish("annotated")
    (row,) = dataset.table("annotations").to_pylist()
    assert row == {"sample_id": "s0", "description": "a brown bird", "attributes": None, "negatives": None}
    assert dataset.table("annotations", ["negatives"]).to_pylist() == [{"negatives": None}]


def test_what_was_not_published_is_no_version_and_is_swept_when_it_is_old(workspace: Workspace) -> None:
    tables = workspace.datasets / "birds" / "tables"
    row = {"sample_id": "s9", "attributes": [], "description": "long ago", "describer_id": "d"}
    rows = pa.Table.from_pylist([row], DESCRIPTIONS)
    new_version(workspace, "birds").write("descriptions", rows, {})
    with pytest.raises(FinedeficsError, match="no finished version"):
        open_dataset(workspace, "birds")
    assert dataset_names(workspace) == []
    (left,) = tables.files()
    made = publish(workspace)
    assert left in tables.files(), "somebody may be at work on it"
    file = tables / left
    assert file.local is not None
    long_ago = time.time() - 3 * 24 * 3600
    os.utime(file.local, (long_ago, long_ago))
    for kept in (*made.files("samples"), *made.files("categories")):
        assert kept.local is not None
        os.utime(kept.local, (long_ago, long_ago))
    again = add_descriptions(made, workspace)
    assert left not in tables.files()
    assert len(again.samples("train")) == len(made.samples("train")) == 5


def _stop_after(root: str, moment: str, told: Connection) -> None:
    write = Location.write_bytes

    def write_and_stop(self: Location, content: bytes) -> None:
        write(self, content)
        if moment in self.uri:
            told.send("written")
            time.sleep(60)

    Location.write_bytes = write_and_stop  # type: ignore[method-assign]
    workspace = open_workspace(root)
    add_descriptions(open_dataset(workspace, "birds"), workspace)


@pytest.mark.parametrize(("moment", "whole"), [("/negatives/", 1), ("/manifest.json", 2)])
def test_a_killed_writer_leaves_whole_versions_only(store: Location, moment: str, whole: int) -> None:
    """SIGKILL when the last table is written and no manifest, and before the new version is the newest."""
    workspace = open_workspace(store)
    first = publish(workspace)
    context = multiprocessing.get_context("spawn")
    told, tells = context.Pipe()
    writer = context.Process(target=_stop_after, args=(store.uri, moment, tells))
    writer.start()
    assert told.recv() == "written"
    writer.kill()
    writer.join()
    assert open_dataset(workspace, "birds") == first
    assert finished_step(workspace, "birds", "described") is None
    found = [open_dataset(workspace, f"birds@{digest}") for digest in versions(first.root.parent)]
    assert len(found) == whole
    assert all(dataset.table(table) for dataset in found for table in dataset.manifest["tables"])
    assert add_descriptions(first, workspace) == open_dataset(workspace, "birds") != first


def test_a_file_that_a_task_wrote_elsewhere_is_missed_before_anybody_sees_the_version(
    workspace: Workspace,
) -> None:
    draft = new_version(workspace, "birds")
    draft.parts("samples", [plan_part("samples", in_groups("samples", [sample(0)]))], {})
    with pytest.raises(FinedeficsError, match=r"\.parquet: .* is not here; .* every node shares"):
        draft.publish("made")
    assert dataset_names(workspace) == []


def test_a_dataset_moves_and_is_copied_with_its_workspace(workspace: Workspace, store: Location) -> None:
    described = add_descriptions(publish(workspace), workspace)
    there = store / "moved"
    for way in workspace.root.files():
        (there / way).write_bytes((workspace.root / way).read_bytes())
    assert str(workspace.root) not in (described.root / "manifest.json").read_text()
    workspace.root.delete()
    moved = open_dataset(open_workspace(there), described.reference)
    assert [s.negatives for s in moved.samples("train")][:2] == [(), ("lark", "crow")]
    assert open_dataset(workspace, moved.root.uri).samples("train") == moved.samples("train")
    travelled = open_version(pickle.loads(pickle.dumps(moved)).root)
    assert str(travelled.files("samples")[0]).startswith(str(there))
    assert travelled.samples("train") == moved.samples("train")


def test_a_node_whose_copy_is_damaged_fetches_the_file_again(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINEDEFICS_CACHE", str(tmp_path / "cache"))
    dataset = publish(open_workspace(f"{bucket}/{tmp_path.name}"))
    copy = cached(dataset.files("samples")[0])
    copy.write_bytes(copy.read_bytes()[:-20])
    assert len(dataset.samples("train")) == 5


def test_a_disk_that_is_full_is_said_in_one_line(workspace: Workspace) -> None:
    """The system refuses to write more than 4 KiB, as it would without room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    rows = pa.Table.from_pylist([{**sample(0), "image": os.urandom(20_000)}], SAMPLES)
    draft = new_version(workspace, "birds")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        with pytest.raises(FinedeficsError, match=r"birds/.*parquet: the storage did not .*; free space"):
            draft.write("samples", rows, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert workspace.root.files() == []


def test_damage_is_named_by_file(workspace: Workspace) -> None:
    dataset = publish(workspace)
    file = dataset.files("samples")[0]
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    with pytest.raises(FinedeficsError, match=r"samples/\w+\.parquet: .* damaged"):
        dataset.table("samples")
    with pytest.raises(FinedeficsError, match="damaged"):
        dataset.read(dataset.row_groups()[0], {"samples": ["sample_id"]})
    file.delete()
    assert finished_step(workspace, "birds", "made") is None, "the step makes it whole again"
    file.write_bytes(whole)
    assert finished_step(workspace, "birds", "made") == dataset
    manifest = dataset.root / "manifest.json"
    manifest.write_text(json.dumps({**dataset.manifest, "schema_version": 99}))
    with pytest.raises(FinedeficsError, match="schema version 99"):
        open_dataset(workspace, "birds")
    manifest.write_text("{")
    with pytest.raises(FinedeficsError, match="manifest is missing or damaged"):
        open_dataset(workspace, "birds")
    assert publish(workspace).digest == dataset.digest
    assert open_dataset(workspace, "birds").digest == dataset.digest


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a@b", ".hidden"])
def test_a_name_must_be_a_plain_one(workspace: Workspace, name: str) -> None:
    with pytest.raises(FinedeficsError, match="not a name") as caught:
        new_version(workspace, name)
    assert caught.value.exit_code == 2


def test_a_part_is_named_by_its_rows_and_row_groups_and_not_by_batches() -> None:
    rows = [sample(i) for i in range(6)]
    whole = pa.Table.from_pylist(rows, SAMPLES)
    pieces = pa.concat_tables([whole.slice(0, 1), whole.slice(1)])
    named = plan_part("samples", [whole])
    assert named == plan_part("samples", [pieces]) == plan_part("samples", [whole.drop_columns(["image"])])
    rounded = pa.Table.from_pylist([{**row, "look": 7} for row in rows], SAMPLES)
    assert named == plan_part("samples", [rounded]), "another decoder's rounding made another version"
    others = [
        plan_part("samples", [whole.slice(0, 3), whole.slice(3)]),
        plan_part("samples", [whole.slice(0, 5)]),
        plan_part("samples", [pa.Table.from_pylist(rows[::-1], SAMPLES)]),
    ]
    assert len({named.way, *(other.way for other in others)}) == 4
