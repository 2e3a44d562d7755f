"""Pictures that were trained on are found by their content, in the dataset itself and in the model's own."""

import hashlib
from collections import Counter

import pyarrow as pa
import pytest

from finedefics.errors import FinedeficsError
from finedefics.records import TABLES
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.parquet import write_part
from finedefics_platform.data.store import Dataset, Place
from finedefics_platform.data.versions import new_version
from finedefics_platform.evaluation.leaking import leaked, with_training


def dataset(workspace: Workspace, name: str, **splits: str) -> Dataset:
    """One picture a letter, whose content is the letter; two a row group, a file a split."""
    draft = new_version(workspace, name)
    draft.write(
        "categories", pa.Table.from_pylist([{"category_id": "c", "name": "c"}], TABLES["categories"]), {}
    )
    files, plan = [], []
    for number, (split, letters) in enumerate(splits.items()):
        rows = [sample(split, letter) for letter in letters]
        groups = [rows[start : start + 2] for start in range(0, len(rows), 2)]
        tables = [pa.Table.from_pylist(group, TABLES["samples"]) for group in groups]
        files.append(write_part(draft.home, "samples", tables))
        plan += [
            {
                "file": number,
                "index": index,
                "rows": len(group),
                "bytes": len(group),
                "split": split,
                "labelled": True,
                "described": 0,
                "categories": [0] * len(group),
            }
            for index, group in enumerate(groups)
        ]
    draft.parts("samples", files, {})
    draft.write("row_groups", pa.Table.from_pylist(plan, TABLES["row_groups"]), {})
    draft.count({split: Counter({"c": len(letters)}) for split, letters in splits.items()})
    return draft.publish(name)


def sample(split: str, letter: str) -> dict[str, object]:
    return {
        "sample_id": f"{split}-{letter}",
        "image": letter.encode(),
        "category_id": "c",
        "split": split,
        "width": 1,
        "height": 1,
        "content_hash": hashlib.sha256(letter.encode()).hexdigest(),
        "source": f"{letter}.jpg",
        "look": 0,
    }


def asked(of: Dataset, *positions: int) -> list[Place]:
    return of.labelled_places("test", positions or range(20))


def test_a_picture_of_train_is_found_among_those_that_are_asked(workspace: Workspace) -> None:
    birds = dataset(workspace, "birds", train="abcde", val="f", test="xbye")
    assert leaked(birds, asked(birds)) == {"pictures": 2, "of": 4, "against": [birds.reference]}
    assert leaked(birds, asked(birds, 0, 2))["pictures"] == 0, "what is not asked is no leak"
    assert leaked(birds, asked(birds, 3))["of"] == 1
    clean = dataset(workspace, "clean", train="abc", val="xyz", test="xyz")
    assert leaked(clean, asked(clean))["pictures"] == 0, "nothing is trained on val"


def test_the_models_own_training_pictures_count_too(workspace: Workspace) -> None:
    birds = dataset(workspace, "birds", train="abc", test="xby")
    older = dataset(workspace, "birds", train="xyb", test="abc")
    own = leaked(birds, asked(birds))
    assert own["pictures"] == 1
    found = with_training(workspace, own, birds, asked(birds), older.reference)
    assert found == {"pictures": 3, "of": 3, "against": [birds.reference, older.reference]}
    assert with_training(workspace, own, birds, asked(birds), birds.reference) == own


def test_training_pictures_that_are_not_here_are_named(workspace: Workspace) -> None:
    birds = dataset(workspace, "birds", train="abc", test="xby")
    own = leaked(birds, asked(birds))
    found = with_training(workspace, own, birds, asked(birds), "gone@d1")
    assert found == {**own, "unchecked": ["gone@d1"]}


def test_a_missing_file_is_named(workspace: Workspace) -> None:
    birds = dataset(workspace, "birds", train="abc", test="xby")
    birds.files("samples")[0].delete()
    with pytest.raises(FinedeficsError, match=r"parquet: this file of the dataset is missing or damaged"):
        leaked(birds, asked(birds))
