"""What inferred labels are worth: every label accepted counts, whatever it says of which picture."""

from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from finedefics.errors import FinedeficsError
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.experiment import parse_experiment
from finedefics_platform.study.judging import judge_labels
from finedefics_platform.study.steps import Judge, Room, Train
from finedefics_platform.worlds.settings import WorldSettings

from .conftest import EXPERIMENT, SMALL

ROWS = [  # source, inferred, its probability
    ("a.png", "k1", 0.9),
    ("b.png", "k2", 0.8),  # wrong: it is of k1
    ("c.png", "k2", 0.4),  # not accepted
    ("d.png", None, None),  # nothing was inferred
    ("generic.png", "k1", 0.7),  # of no category at all
]
TRUTH = {"a.png": "one", "b.png": "one", "c.png": "two", "d.png": "two"}


def dataset_of(threshold: float, scored: Any) -> Any:
    columns = dict(
        zip(("source", "category_id", "probability"), map(list, zip(*ROWS, strict=True)), strict=True)
    )
    labels = {"threshold": threshold, "asked": 5, "threshold_scored": scored}
    return SimpleNamespace(
        categories=lambda: [
            SimpleNamespace(category_id=f"k{i}", name=n) for i, n in ((1, "one"), (2, "two"))
        ],
        manifest={"provenance": {"labels": labels}},
        row_groups=lambda: [0],
        read=lambda _group, _columns: pa.table(columns),
    )


@pytest.mark.parametrize(
    ("threshold", "scored", "expected"),
    [
        (0.5, {"precision": 0.75}, {"coverage": 3 / 5, "precision": 1 / 3, "promised": 0.75}),
        (0.0, None, {"coverage": 4 / 5, "precision": 2 / 4}),
        (0.95, None, {"coverage": 0.0}),
    ],
)
def test_labels_are_counted_against_the_truth(
    threshold: float, scored: Any, expected: dict[str, float]
) -> None:
    found = judge_labels(dataset_of(threshold, scored), TRUTH)
    assert found == pytest.approx({f"labels/{name}": value for name, value in expected.items()})


def test_refused_labels_cover_nothing_and_nothing_is_trained_on_them(workspace: Workspace) -> None:
    room: Any = Room(workspace, SimpleNamespace(), {"l": {"refused": "no threshold"}, "b": {"model": "m"}})  # type: ignore[arg-type]
    judged = Judge("l", 0, WorldSettings(**SMALL)).do(room, lambda _: None)
    assert judged == {"figures": {"labels/coverage": 0.0}}
    parse_experiment({**EXPERIMENT, "data": {"dataset": "d"}, "model": {"path": "m"}}, place="test")
    with pytest.raises(FinedeficsError, match="its labels were refused; no threshold"):
        Train("l", "b", EXPERIMENT).do(room, lambda _: None)
