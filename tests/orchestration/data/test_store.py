"""Dataset versions: what is written is read back, versions never change, and a broken one is named."""

import json
import os
import time
from pathlib import Path

import pyarrow as pa
import pytest

from finedefics.errors import FinedeficsError
from finedefics.records import CATEGORIES, DESCRIPTIONS, NEGATIVES, SAMPLES
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.store import Dataset, open_dataset
from finedefics_platform.data.versions import finished_step, new_version, rows_digest, write_parquet


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
    }


def publish(workspace: Workspace, *, name: str = "birds", samples: int = 5, step: str = "made") -> Dataset:
    wren = {"category_id": "wren", "name": "Wren", "super_category": None, "description": "small"}
    with new_version(workspace, name) as draft:
        rows = pa.Table.from_pylist([sample(i) for i in range(samples)], SAMPLES)
        (draft.folder / "samples").mkdir()
        write_parquet(rows, draft.folder / "samples/part-00000.parquet", row_group_rows=2)
        draft.adopt("samples", ["part-00000.parquet"], rows, {"step": "test"})
        draft.write("categories", pa.Table.from_pylist([wren], CATEGORIES), {"step": "test"})
        return draft.publish(step)


def add_descriptions(dataset: Dataset, workspace: Workspace, step: str = "described") -> Dataset:
    told = {
        "sample_id": "s1",
        "attributes": [{"name": "tail", "value": "short"}],
        "description": "short tail",
    }
    ranked = {
        "sample_id": "s1",
        "candidates": [{"category_id": c, "similarity": 0.5} for c in ("lark", "crow")],
    }
    with new_version(workspace, dataset.name) as draft:
        draft.keep(dataset, ["samples", "categories"])
        draft.write("descriptions", pa.Table.from_pylist([{**told, "describer_id": "d"}], DESCRIPTIONS), {})
        draft.write("negatives", pa.Table.from_pylist([{**ranked, "miner_id": "m"}], NEGATIVES), {})
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


def test_row_groups_tell_split_and_label(workspace: Workspace) -> None:
    groups = publish(workspace).row_groups()
    assert [(g.index, g.rows, g.split, g.labelled) for g in groups] == [
        (0, 2, "train", True),
        (1, 2, "train", True),
        (2, 1, "train", True),
    ]
    assert Path(groups[0].path).is_absolute()


def test_unchanged_tables_are_linked_and_equal_content_is_one_version(workspace: Workspace) -> None:
    first = publish(workspace)
    described = add_descriptions(first, workspace)
    assert described.files("samples")[0].samefile(first.files("samples")[0])
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


def test_an_absent_table_names_the_command_that_makes_it(workspace: Workspace) -> None:
    dataset = publish(workspace)
    with pytest.raises(FinedeficsError, match="finedefics data describe birds"):
        dataset.table("descriptions")
    with pytest.raises(FinedeficsError, match="finedefics data mine birds"):
        dataset.table("negatives")


def test_a_column_that_came_later_is_empty_in_an_older_version(workspace: Workspace) -> None:
    older = publish(workspace)
    with new_version(workspace, "birds") as draft:
        draft.keep(older, list(older.manifest["tables"]))
        rows = pa.Table.from_pylist([{"sample_id": "s0", "description": "a brown bird"}])
        (draft.folder / "annotations").mkdir()
        write_parquet(rows, draft.folder / "annotations/part-00000.parquet")
        draft.adopt("annotations", ["part-00000.parquet"], rows, {})
        dataset = draft.publish("annotated")
    (row,) = dataset.table("annotations").to_pylist()
    assert row == {
        "sample_id": "s0",
        "description": "a brown bird",
        "attributes": None,
        "negatives": None,
    }
    assert dataset.table("annotations", ["negatives"]).to_pylist() == [{"negatives": None}]


def test_a_failed_draft_leaves_nothing_and_an_abandoned_one_is_swept(workspace: Workspace) -> None:
    home = workspace.local.datasets / "birds"
    with pytest.raises(ZeroDivisionError), new_version(workspace, "birds"):
        raise ZeroDivisionError
    with pytest.raises(FinedeficsError, match="no finished version"):
        open_dataset(workspace, "birds")
    abandoned = home / ".draft-1-dead"
    abandoned.mkdir()
    long_ago = time.time() - 3 * 24 * 3600
    os.utime(abandoned, (long_ago, long_ago))
    made = publish(workspace)
    assert sorted(path.name for path in home.iterdir()) == sorted([made.digest, "latest", "steps"])


def test_damage_is_named_by_file(workspace: Workspace) -> None:
    dataset = publish(workspace)
    file = dataset.files("samples")[0]
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(FinedeficsError, match=r"part-00000\.parquet: .* damaged"):
        dataset.table("samples")
    with pytest.raises(FinedeficsError, match="damaged"):
        dataset.row_groups()
    manifest = dataset.root / "manifest.json"
    manifest.write_text(json.dumps({**dataset.manifest, "schema_version": 99}))
    with pytest.raises(FinedeficsError, match="schema version 99"):
        open_dataset(workspace, "birds")
    manifest.write_text("{")
    with pytest.raises(FinedeficsError, match="manifest is missing or damaged"):
        open_dataset(workspace, "birds")


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a@b", ".hidden"])
def test_a_name_must_be_a_plain_one(workspace: Workspace, name: str) -> None:
    with pytest.raises(FinedeficsError, match="not a name") as caught, new_version(workspace, name):
        pass
    assert caught.value.exit_code == 2


def test_the_digest_depends_on_rows_and_layout_and_not_on_batches() -> None:
    rows = [sample(i) for i in range(6)]
    whole = pa.Table.from_pylist(rows, SAMPLES)
    pieces = pa.concat_tables([whole.slice(0, 1), whole.slice(1)])
    assert rows_digest(whole) == rows_digest(pieces) == rows_digest(whole.drop_columns(["image"]))
    assert rows_digest(whole) != rows_digest(whole, {"row_group_rows": 2})
    assert rows_digest(whole) != rows_digest(whole.slice(0, 5))
    assert rows_digest(whole) != rows_digest(pa.Table.from_pylist(rows[::-1], SAMPLES))
