"""Replies that others wrote, as items of a dataset of ours and against an evaluation of it."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finedefics.errors import FinedeficsError
from finedefics.evaluation.predictions import read_predictions
from finedefics.evaluation.schema import ITEMS
from finedefics.evaluation.scored import score
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.cli.main import main
from finedefics_platform.data.store import Dataset
from finedefics_platform.evaluation.imported import evaluated_items, is_evaluation, items_of


@pytest.fixture
def file(drawn_dataset: Dataset, tmp_path: Path) -> Path:
    """Replies to all pictures of val but the last; "A" is right for every other."""
    names = {one.category_id: one.name for one in drawn_dataset.categories()}
    rows = []
    for number, sample in enumerate(drawn_dataset.labelled("val")):
        own = names[sample.category_id or ""]
        wrong = [name for name in names.values() if name != own][:3]
        options = [own, *wrong] if number % 2 == 0 else [*wrong, own]
        shown = [option.upper().replace(" ", "_") for option in options]
        truth = shown[options.index(own)]
        image = f"theirs/{sample.sample_id}.jpg"
        rows.append({"image": image, "options": shown, "correct": truth, "predicted_raw": "A"})
    place = tmp_path / "theirs.json"
    place.write_text(json.dumps({"predictions": rows[:-1]}))
    return place


def ours(file: Path, dataset: Dataset, place: Path, answers: tuple[str, ...], *, right: bool = True) -> Path:
    """An item table of ours on the same pictures and options, all of them right or none."""
    items, _ = items_of(dataset, "val", score(read_predictions(file)))
    rows = [
        {**row, "answer": answer, "correct": right, "predicted": None}
        for answer in answers
        for row in items.to_pylist()
    ]
    pq.write_table(pa.Table.from_pylist(rows, items.schema), place)
    return place


def test_pictures_and_categories_get_the_ids_of_the_dataset(drawn_dataset: Dataset, file: Path) -> None:
    items, told = items_of(drawn_dataset, "val", score(read_predictions(file)))
    samples = {sample.sample_id: sample for sample in drawn_dataset.labelled("val")}
    assert told == {"items": 11, "matched": 11, "unmatched": {}, "repeated": 0}
    labelled = drawn_dataset.labelled_category_ids()
    assert {field.name for field in ITEMS} <= set(items.column_names)
    assert {row["group"] for row in items.to_pylist()} == {"labelled", "new"}
    for row in items.to_pylist():
        truth = samples[row["sample_id"]].category_id
        assert row["category_id"] == truth == row["options"][row["position"]]
        assert row["predicted"] == row["options"][0]
        assert row["correct"] == (row["predicted"] == truth)
        assert row["group"] == ("labelled" if truth in labelled else "new")


def test_replies_to_other_pictures_are_refused(drawn_dataset: Dataset, file: Path) -> None:
    with pytest.raises(FinedeficsError, match="11 of its 11 questions cannot be asked here"):
        items_of(drawn_dataset, "train", score(read_predictions(file)))


def test_they_are_compared_with_an_evaluation_of_ours(
    drawn_workspace: Workspace,
    drawn_dataset: Dataset,
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Any,
) -> None:
    monkeypatch.setenv("FINEDEFICS_HOME", str(drawn_workspace.root))
    table = ours(file, drawn_dataset, tmp_path / "items.parquet", ("letters", "names"))
    asked = ["evaluate", "--from-predictions", str(file), "--data", "drawn", "--split", "val"]
    assert main([*asked, "--against", str(table), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    (difference,) = found["differences"]
    assert (difference["n"], difference["gained"], difference["lost"]) == (11, 0, 5)
    assert difference["difference"] == pytest.approx(6 / 11 - 1)
    assert difference["data"] == drawn_dataset.reference
    assert found["matched"]["matched"] == 11
    assert main([*asked, "--against", str(table), "--answers", "describe"]) == 2
    assert "describe was not asked among options; choose one by --answers: letters, names" in (
        capfd.readouterr().err
    )
    assert main([*asked, "--items", str(tmp_path / "theirs.parquet")]) == 0
    assert "11 of 11 questions have their picture in drawn@" in capfd.readouterr().out
    assert pq.read_table(tmp_path / "theirs.parquet")["sample_id"].to_pylist()[0].startswith("val-")


def test_what_an_evaluation_is_called(drawn_workspace: Workspace, file: Path, tmp_path: Path) -> None:
    assert not is_evaluation(drawn_workspace, str(file))
    assert not is_evaluation(drawn_workspace, "0123abcd")
    assert is_evaluation(drawn_workspace, str(tmp_path / "items.parquet"))
    (tmp_path / "items.parquet").write_text("no table")
    assert is_evaluation(drawn_workspace, str(tmp_path))
    with pytest.raises(FinedeficsError, match="no item table can be read here") as caught:
        evaluated_items(drawn_workspace, str(tmp_path), None, "letters")
    assert caught.value.exit_code == 2


def test_other_options_are_other_questions(
    drawn_workspace: Workspace,
    drawn_dataset: Dataset,
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Any,
) -> None:
    monkeypatch.setenv("FINEDEFICS_HOME", str(drawn_workspace.root))
    table = ours(file, drawn_dataset, tmp_path / "items.parquet", ("letters",))
    fewer = [{**row, "options": row["options"][:2]} for row in pq.read_table(table).to_pylist()]
    pq.write_table(pa.Table.from_pylist(fewer, pq.read_schema(table)), table)
    asked = ["evaluate", "--from-predictions", str(file), "--data", "drawn", "--split", "val"]
    assert main([*asked, "--against", str(table)]) == 1
    assert "no question in common (11 pictures, asked on other options); evaluate with `--options" in (
        capfd.readouterr().err
    )
