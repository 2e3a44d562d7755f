"""The feed of inferred labels: which rows it takes, what they are named by, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from inferred_labels import with_labels

from finedefics.errors import FinedeficsError
from finedefics.records import TABLES, Sample
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.experiment import Experiment, parse_experiment
from finedefics_platform.config.stage import Stage
from finedefics_platform.data.inferred import is_sure
from finedefics_platform.data.parquet import write_part
from finedefics_platform.data.store import Dataset, open_dataset
from finedefics_platform.data.versions import new_version
from finedefics_platform.training.checks import check
from finedefics_platform.training.refresh import stage_dataset
from finedefics_platform.training.run import train
from finedefics_platform.training.stream import SampleIndex, TrainingStream, in_threads

Labels = dict[str, tuple[str, float]]
STAGE = {"name": "one", "steps": 3, "feeds": {"inferred": 9}, "terms": {"answer": 1}}


def rows_of(dataset: Dataset, least: float | None = None, sampler: Any = "shuffled") -> list[Sample]:
    """One epoch of the feed."""
    index = SampleIndex.of(dataset, sampler, least)
    rows = len(index.feeds["inferred"])
    stage = Stage.model_validate({**STAGE, "steps": 1, "feeds": {"inferred": rows}})
    stream = TrainingStream(dataset, stage, 0, 0, 1, index=index, sampler=sampler, engine=in_threads)
    return [row for _, feeds in stream for row in feeds["inferred"] if isinstance(row, Sample)]


def named(rows: list[Sample]) -> dict[str, str | None]:
    return {row.sample_id: row.category_id for row in rows}


def experiment_of(model: Path | str, **changes: Any) -> Experiment:
    document = {"name": "inferred", "data": {"dataset": "drawn"}, "model": {"path": str(model)}}
    return parse_experiment({**document, "stages": [STAGE], **changes}, place="test")


@pytest.mark.parametrize(("least", "count"), [(None, 9), (0.71, 9), (0.72, 8), (0.0, 15), (0.95, 1)])
def test_rows_are_those_whose_label_is_sure_enough(
    inferred_dataset: Dataset, inferred_labels: Labels, least: float | None, count: int
) -> None:
    wanted = {one: category for one, (category, p) in inferred_labels.items() if p >= (least or 0)}
    if least is None:
        wanted = {one: category for one, (category, p) in inferred_labels.items() if p >= 0.71}
    rows = rows_of(inferred_dataset, least)
    assert len(rows) == count
    assert named(rows) == wanted
    pictures = {sample.sample_id: sample.image for sample in inferred_dataset.samples("train")}
    for row in rows:
        assert row.image == pictures[row.sample_id]
        assert (row.description, row.attributes, row.negatives) == (None, {}, ())


def test_a_probability_is_compared_as_it_is_stored() -> None:
    stored = np.array([0.9, 0.71, 0.1, -1.0], dtype=np.float32)
    for least, sure in ((0.9, 1), (0.71, 2), (0.1, 3), (0.0, 3)):
        assert is_sure(stored, least).sum() == sure


def test_the_confusable_sampler_takes_a_row_for_what_was_inferred(
    inferred_dataset: Dataset, inferred_labels: Labels
) -> None:
    index = SampleIndex.of(inferred_dataset, "confusable")
    place = {category.category_id: at for at, category in enumerate(inferred_dataset.categories())}
    likes = index.feeds["inferred"].likes
    assert likes is not None
    order = [s.sample_id for s in inferred_dataset.samples("train") if s.sample_id in inferred_labels]
    sure = [inferred_labels[one] for one in order if inferred_labels[one][1] >= 0.71]
    assert likes.tolist() == [place[category] for category, _ in sure]
    assert named(rows_of(inferred_dataset, sampler="confusable")) == named(rows_of(inferred_dataset))


def test_what_is_inferred_changes_no_other_feed(drawn_dataset: Dataset, inferred_dataset: Dataset) -> None:
    usual, found = SampleIndex.of(drawn_dataset), SampleIndex.of(inferred_dataset)
    assert not len(usual.feeds["inferred"])
    for feed in ("labelled", "captioned", "text"):
        assert np.array_equal(usual.feeds[feed].first, found.feeds[feed].first)
    assert inferred_dataset.labelled_category_ids() == drawn_dataset.labelled_category_ids()


def planted(workspace: Workspace, dataset: Dataset, category: str) -> Dataset:
    """The version with one category wherever else a row without a label could have one."""
    draft = new_version(workspace, dataset.name)
    anew = ("samples", "descriptions", "negatives", "row_groups")
    draft.keep(dataset, [table for table in dataset.manifest["tables"] if table not in anew])
    for table in anew[:3]:
        parts = []
        for groups in dataset.groups_of_file():
            tables = []
            for group in groups:
                rows = dataset.read(group, {table: TABLES[table].names}).to_pylist()
                for row in rows if not group.labelled else ():
                    if table == "samples":
                        row["category_id"] = category
                    elif table == "descriptions":
                        row["description"] = f"a {category}"
                    else:
                        row["candidates"] = [{"category_id": category, "similarity": 1.0}]
                tables.append(pa.Table.from_pylist(rows, TABLES[table]))
            parts.append(write_part(draft.home, table, tables))
        draft.parts(table, parts, dataset.manifest["provenance"][table])
    groups_table = dataset.table("row_groups").to_pylist()
    for row in groups_table:
        if not row["labelled"]:
            row["categories"] = row["likes"] = [0] * row["rows"]
    draft.write("row_groups", pa.Table.from_pylist(groups_table, TABLES["row_groups"]), {})
    draft.count(dataset.manifest["counts"])
    return draft.publish("planted")


@pytest.mark.parametrize("sampler", ["shuffled", "confusable"])
def test_a_category_planted_elsewhere_changes_nothing(
    inferred_workspace: Workspace, inferred_dataset: Dataset, sampler: Any
) -> None:
    first = inferred_dataset.categories()[0].category_id
    other = planted(inferred_workspace, inferred_dataset, first)
    unlabelled = [group for group in other.row_groups("train") if not group.labelled]
    read = other.read(unlabelled[0], {"samples": ["category_id"]})["category_id"].to_pylist()
    assert set(read) == {first}  # it is there to be found
    assert rows_of(other, sampler=sampler) == rows_of(inferred_dataset, sampler=sampler)


def test_without_a_table_the_cure_is_named(drawn_dataset: Dataset, tiny_model: Path) -> None:
    said = (
        r"feed `inferred` is empty: no label was inferred; "
        r"run `finedefics data label drawn --labeller reading:MODEL`"
    )
    with pytest.raises(FinedeficsError, match=said) as caught:
        check(experiment_of(tiny_model, resources={"workers": 1}), drawn_dataset)
    assert "\n" not in str(caught.value)


def test_a_threshold_above_all_says_how_many_there_are(
    inferred_workspace: Workspace, inferred_dataset: Dataset, tiny_model: Path
) -> None:
    one = {"workers": 1}
    check(experiment_of(tiny_model, resources=one), inferred_dataset)
    data = {"dataset": "drawn", "inferred_probability": 0.97}
    said = r"none of 15 inferred labels has a probability of 0\.97; the surest has 0\.95; lower data\."
    with pytest.raises(FinedeficsError, match=said):
        check(experiment_of(tiny_model, resources=one, data=data), inferred_dataset)
    none = with_labels(inferred_workspace, inferred_dataset, {}, 0.9)
    with pytest.raises(FinedeficsError, match="inferred none for a training picture without a label"):
        check(experiment_of(tiny_model, resources=one), none)


def test_negatives_of_another_version_leave_the_labels(
    inferred_workspace: Workspace, inferred_dataset: Dataset, drawn_dataset: Dataset
) -> None:
    ids = [category.category_id for category in drawn_dataset.categories()]
    unlabelled = [s.sample_id for s in drawn_dataset.samples("train") if s.category_id is None]
    drawn = open_dataset(inferred_workspace, drawn_dataset.reference)
    others = (with_labels(inferred_workspace, drawn, dict.fromkeys(unlabelled, (ids[0], 1.0)), 0.5), drawn)
    for other in others:
        draft = new_version(inferred_workspace, "drawn")
        draft.keep(other, list(other.manifest["tables"]))
        draft.write("neighbours", pa.Table.from_pylist([], TABLES["neighbours"]), {})
        made = draft.publish(f"with-neighbours-{other.digest}")
        stage = Stage.model_validate({**STAGE, "negatives": made.reference})
        seen = stage_dataset(inferred_dataset, stage)
        assert seen is not None
        assert named(rows_of(seen)) == named(rows_of(inferred_dataset))


def test_a_run_learns_from_inferred_labels(
    ray_cluster: Any, inferred_workspace: Workspace, inferred_dataset: Dataset, tiny_model: Path
) -> None:
    stage = {**STAGE, "steps": 2, "warmup_steps": 1, "feeds": {"labelled": 4, "inferred": 8}}
    data = {"dataset": inferred_dataset.reference, "negatives": 0}
    alone = {"workers": 0}  # what feeds a step is the same by Ray Train, which takes longer to start
    run = train(inferred_workspace, experiment_of(tiny_model, stages=[stage], data=data, resources=alone))
    steps = [event["metrics"] for event in run.events() if event["event"] == "step"]
    assert [set(m) & {"loss_answer", "loss_caption"} for m in steps] == [{"loss_answer"}] * 2
    assert run.experiment().data.inferred_probability == 0.71
    assert set(run.labelled) == inferred_dataset.labelled_category_ids()
    assert len(run.labelled) == 4  # not the new ones, whose labels are inferred
