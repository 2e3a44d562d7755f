"""A stage's hard negatives: of another version, or mined by the model as the stage starts."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from finedefics.backbones import load_backbone
from finedefics.errors import FinedeficsError
from finedefics.records import TABLES
from finedefics.scoring import Recogniser
from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.config.experiment import Experiment, parse_experiment
from finedefics_platform.config.stage import Stage
from finedefics_platform.data.parquet import write_part
from finedefics_platform.data.store import Dataset, open_dataset
from finedefics_platform.data.versions import new_version
from finedefics_platform.training.identity import run_key
from finedefics_platform.training.refresh import mine_with_model, pinned, stage_dataset
from finedefics_platform.training.run import check, train
from finedefics_platform.training.stream import SampleIndex, TrainingStream, in_threads

STAGE = {
    "name": "bridge",
    "steps": 2,
    "warmup_steps": 1,
    "feeds": {"labelled": 4, "captioned": 4, "text": 2},
    "terms": {"caption": 1, "object_attribute": 0.5, "attribute_category": 0.5},
}


@pytest.fixture(scope="module")
def home(
    drawn_workspace: Workspace, drawn_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Workspace:
    """A copy of the drawn dataset, with a second version whose negatives stand in the opposite order."""
    root = tmp_path_factory.mktemp("refresh")
    assert drawn_workspace.datasets.local is not None
    shutil.copytree(drawn_workspace.datasets.local, root / "datasets")
    workspace = open_workspace(root)
    dataset = open_dataset(workspace, "drawn")
    draft = new_version(workspace, "drawn")
    draft.keep(dataset, [table for table in dataset.manifest["tables"] if table != "negatives"])
    parts = []
    for groups in dataset.groups_of_file():
        tables = []
        for group in groups:
            rows = dataset.read(group, {"negatives": ["sample_id", "candidates", "miner_id"]}).to_pylist()
            turned = [{**row, "candidates": row["candidates"][::-1]} for row in rows]
            tables.append(pa.Table.from_pylist(turned, TABLES["negatives"]))
        parts.append(write_part(draft.home, "negatives", tables))
    draft.parts("negatives", parts, {"most": 5})
    draft.write("neighbours", pa.Table.from_pylist([], TABLES["neighbours"]), {})
    draft.publish("turned")
    return workspace


@pytest.fixture
def both(home: Workspace, drawn_dataset: Dataset) -> tuple[Dataset, Dataset]:
    """The version that was drawn, and the one that was turned."""
    return open_dataset(home, drawn_dataset.reference), open_dataset(home, "drawn")


def experiment_of(model: Path, dataset: Dataset, *negatives: str, **changes: Any) -> Experiment:
    stages = [{**STAGE, "name": f"stage{i}", "negatives": one} for i, one in enumerate(negatives)]
    document = {
        "name": "refreshed",
        "data": {"dataset": dataset.reference, "negatives": 2},
        "model": {"path": str(model)},
        "deepspeed": {"zero_stage": 1},
        "stages": stages,
    }
    return parse_experiment({**document, **changes}, place="test")


def streamed(dataset: Dataset, stage: Stage) -> dict[str, tuple[str, ...]]:
    stream = TrainingStream(dataset, stage, seed=0, rank=0, world_size=1, engine=in_threads)
    rows = [row for _, feeds in stream for feed in ("labelled", "captioned") for row in feeds[feed]]
    return {row.sample_id: row.negatives for row in rows}  # type: ignore[union-attr]


def test_a_stage_takes_the_negatives_of_another_version(
    both: tuple[Dataset, Dataset], tiny_model: Path, home: Workspace
) -> None:
    dataset, turned = both
    stages = experiment_of(tiny_model, dataset, "mined", "drawn").stages
    named = pinned(home, stages[1], dataset)
    assert named.negatives == turned.reference
    usual, other = (stage_dataset(dataset, stage) for stage in (stages[0], named))
    assert usual is dataset
    assert other is not None
    first, second = streamed(dataset, stages[0]), streamed(other, named)
    assert first.keys() == second.keys()
    assert all(second[one] == first[one][::-1] for one in first)


def described_as(workspace: Workspace, dataset: Dataset, told: list[int], step: str) -> Dataset:
    """The version with these row groups' pictures described, and no others."""
    draft = new_version(workspace, dataset.name)
    made_anew = ("descriptions", "row_groups")
    draft.keep(dataset, [table for table in dataset.manifest["tables"] if table not in made_anew])
    parts = []
    for groups in dataset.groups_of_file():
        tables = []
        for group in groups:
            ids = dataset.read(group, {"samples": ["sample_id"]})["sample_id"].to_pylist()
            text = "a drawn thing" if group.number in told else None
            about = {"description": text, "attributes": [], "describer_id": "by hand"}
            rows = [{"sample_id": one, **about} for one in ids]
            tables.append(pa.Table.from_pylist(rows, TABLES["descriptions"]))
        parts.append(write_part(draft.home, "descriptions", tables))
    draft.parts("descriptions", parts, {"attributes": []})
    groups_table = dataset.table("row_groups")
    counts = [group.rows if group.number in told else 0 for group in dataset.row_groups()]
    field = groups_table.schema.field("described")
    at = groups_table.schema.get_field_index("described")
    draft.write("row_groups", groups_table.set_column(at, field, pa.array(counts, field.type)), {})
    draft.write("neighbours", pa.Table.from_pylist([], TABLES["neighbours"]), {})
    return draft.publish(step)


@pytest.mark.parametrize("which", ["none", "first", "all"])
def test_a_version_described_otherwise_gives_its_negatives_and_no_counts(
    home: Workspace, drawn_dataset: Dataset, tiny_model: Path, which: str
) -> None:
    """Fewer, other and more descriptions than the dataset's own: what is trained on is the dataset's."""
    mine = open_dataset(home, drawn_dataset.reference)
    numbers = [group.number for group in mine.row_groups()]
    told = {"none": [], "first": numbers[:1], "all": numbers}[which]
    if which == "all":
        mine = described_as(home, mine, numbers[:1], "described-less")
    other = described_as(home, mine, told, f"described-{which}")
    stages = experiment_of(tiny_model, mine, "mined", other.reference).stages
    seen = stage_dataset(mine, stages[1])
    assert seen is not None
    usual, found = SampleIndex.of(mine), SampleIndex.of(seen)
    assert {feed: len(rows) for feed, rows in found.feeds.items()} == {
        feed: len(rows) for feed, rows in usual.feeds.items()
    }
    assert found.labelled_described == usual.labelled_described
    assert streamed(seen, stages[1]) == streamed(mine, stages[0])
    check(experiment_of(tiny_model, mine, "mined", other.reference), mine)


def test_equal_descriptions_take_what_rows_are_like_as_well(
    home: Workspace, drawn_dataset: Dataset, tiny_model: Path
) -> None:
    mine = open_dataset(home, drawn_dataset.reference)
    groups = mine.table("row_groups")
    likes = pa.array([[0] * rows for rows in groups["rows"].to_pylist()], groups.schema.field("likes").type)
    draft = new_version(home, mine.name)
    draft.keep(mine, [table for table in mine.manifest["tables"] if table != "row_groups"])
    at = groups.schema.get_field_index("likes")
    draft.write("row_groups", groups.set_column(at, groups.schema.field("likes"), likes), {})
    draft.write("neighbours", pa.Table.from_pylist([], TABLES["neighbours"]), {})
    other = draft.publish("likes")
    stage = experiment_of(tiny_model, mine, other.reference).stages[0]
    seen = stage_dataset(mine, stage)
    assert seen is not None
    assert seen.table("row_groups")["likes"].combine_chunks().equals(likes)


def test_negatives_are_part_of_what_a_run_is(
    both: tuple[Dataset, Dataset], tiny_model: Path, home: Workspace
) -> None:
    dataset, turned = both
    keys = [
        run_key(home, experiment_of(tiny_model, dataset, source), dataset)
        for source in ("mined", "model", "drawn", turned.reference)
    ]
    assert keys[2] == keys[3]
    assert len(set(keys)) == 3


def test_other_pictures_are_refused(both: tuple[Dataset, Dataset], tiny_model: Path, home: Workspace) -> None:
    dataset, _ = both
    stage = experiment_of(tiny_model, dataset, "nothing").stages[0]
    with pytest.raises(FinedeficsError, match="there is no such dataset"):
        pinned(home, stage, dataset)
    strange = dataset.with_tables({"samples": {"digest": "x"}}, {})
    with pytest.raises(FinedeficsError, match=r"has other pictures or categories") as caught:
        pinned(home, stage.model_copy(update={"negatives": "drawn"}), strange)
    assert caught.value.exit_code == 2
    check(experiment_of(tiny_model, dataset, "model"), dataset)
    many = experiment_of(tiny_model, dataset, "model", data={"dataset": dataset.reference, "negatives": 6})
    with pytest.raises(FinedeficsError, match="6 hard negatives are asked for, and 5 were mined"):
        check(many, dataset)


def mined_by(dataset: Dataset, experiment: Experiment, model: Path, run: Path, world: int) -> Dataset:
    """As ``world`` ranks mine, one after the other, the one that writes the tables last."""
    stage, place = experiment.stages[0], Location.of(run)
    assert stage_dataset(dataset, stage, place) is None
    backbone = load_backbone(model)
    backbone.eval()
    with torch.no_grad():
        for rank in reversed(range(world)):
            mine_with_model(backbone, dataset, experiment, stage, place, rank, world)
    made = stage_dataset(dataset, stage, place)
    assert made is not None
    return made


def test_the_model_ranks_by_its_own_embeddings_whatever_the_ranks(
    both: tuple[Dataset, Dataset], tiny_model: Path, tmp_path: Path
) -> None:
    dataset, _ = both
    experiment = experiment_of(tiny_model, dataset, "model")
    made = mined_by(dataset, experiment, tiny_model, tmp_path / "one", 1)
    split = mined_by(dataset, experiment, tiny_model, tmp_path / "three", 3)
    for table in ("negatives", "neighbours", "row_groups"):
        assert made.table(table).equals(split.table(table))
    recogniser = Recogniser(load_backbone(tiny_model), dataset.categories())
    for sample in made.samples("train"):
        ranked = recogniser.recognise([sample.image], "alignment", top=6)[0]
        if sample.category_id is not None:
            assert list(sample.negatives) == [i for i, _, _ in ranked if i != sample.category_id]
        else:
            assert len(sample.negatives) > 0
    assert not any(sample.negatives for sample in made.samples("val"))
    assert len(made.neighbours()) == 6
    assert streamed(made, experiment.stages[0])
    likes = np.concatenate(made.table("row_groups")["likes"].to_pylist())
    assert (likes[: made.row_groups("train")[0].rows] >= 0).all()


@pytest.mark.slow
def test_a_run_mines_on_all_ranks(
    ray_cluster: Any, both: tuple[Dataset, Dataset], tiny_model: Path, home: Workspace, tmp_path: Path
) -> None:
    """Under ZeRO 3, where a call that one rank makes alone would wait for ever."""
    dataset, turned = both
    stages = ("model", turned.reference)
    experiment = experiment_of(tiny_model, dataset, *stages, deepspeed={"zero_stage": 3})
    done = train(home, experiment)
    assert [event["stage"] for event in done.events() if event["event"] == "mining"] == ["stage0"]
    # what a run that goes on finds
    found = stage_dataset(dataset, experiment.stages[0], done.model.parent)
    assert found is not None
    alone = mined_by(dataset, experiment, tiny_model, tmp_path / "alone", 1)
    for table in ("negatives", "neighbours", "row_groups"):
        columns = [c for c in found.table(table).column_names if c != "miner_id"]
        assert found.table(table, columns).equals(alone.table(table, columns))
