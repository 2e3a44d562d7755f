"""Validation during training: every picture counts exactly once, whatever the number of ranks."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finedefics.backbones import load_backbone
from finedefics.evaluation.choices import choose_options
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.experiment import Evaluation, Experiment, parse_experiment
from finedefics_platform.data.store import Dataset, RowGroup
from finedefics_platform.evaluation.asked import ask, asked_places
from finedefics_platform.evaluation.validation import share_of, validate_alignment, validation_places

MEMBER = Path(__file__).with_name("validation_group.py")
LIMITS = (1, 7)  # fewer pictures than ranks; a count that neither two nor three ranks divide


def experiment(model: Path, limit: int) -> Experiment:
    return parse_experiment(
        {
            "name": "checked",
            "data": {"dataset": "drawn"},
            "model": {"path": str(model)},
            "stages": [{"name": "one", "steps": 1, "feeds": {"labelled": 4}, "terms": {"answer": 1}}],
            "evaluation": {"every": 1, "limit": limit},
        },
        place="test",
    )


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 12])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_ranks_answer_equally_many_and_count_each_picture_once(count: int, world: int) -> None:
    shares = [share_of(count, rank, world) for rank in range(world)]
    assert len({len(positions) for positions, _ in shares}) == 1
    assert all(0 <= position < count for positions, _ in shares for position in positions)
    counted = [position for positions, number in shares for position in positions[:number]]
    assert sorted(counted) == list(range(count))


def test_the_figure_does_not_depend_on_the_number_of_ranks(
    drawn_workspace: Workspace, drawn_dataset: Dataset, tiny_model: Path, tmp_path: Path
) -> None:
    alone = {
        limit: validate_alignment(
            load_backbone(tiny_model).eval(), drawn_dataset, experiment(tiny_model, limit), 0, 1
        )
        for limit in LIMITS
    }
    assert 0 < alone[7]["val_alignment"] < 1
    command = [sys.executable, str(MEMBER), str(drawn_dataset.root), str(tiny_model), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    for world in (2, 3):
        for limit in LIMITS:
            for rank in range(world):
                found = json.loads((tmp_path / f"{world}-{limit}-{rank}.json").read_text())
                assert found == pytest.approx(alone[limit]), (world, limit, rank)


def test_ranks_answer_in_as_many_bounded_batches(
    drawn_dataset: Dataset, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, batches = load_backbone(tiny_model).eval(), []
    whole = validate_alignment(backbone, drawn_dataset, experiment(tiny_model, 7), 0, 1)
    monkeypatch.setattr("finedefics.scoring.recogniser.BATCH", 2)
    own = type(backbone).encode_images

    def noted(self: Any, images: Any) -> Any:
        batches.append(len(images["pixel_values"]))
        return own(self, images)

    monkeypatch.setattr(type(backbone), "encode_images", noted)
    assert validate_alignment(backbone, drawn_dataset, experiment(tiny_model, 7), 0, 1) == whole
    assert batches == [2, 2, 2, 1]
    batches.clear()
    for rank in range(2):
        validate_alignment(backbone, drawn_dataset, experiment(tiny_model, 7), rank, 2)
    assert batches == [2, 2] * 2


@pytest.mark.parametrize("limit", [1, 5, 7, None])
def test_only_what_is_asked_is_read(
    drawn_dataset: Dataset, limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same pictures as of a split that is read whole, and no row group without one."""
    whole = [s for s in drawn_dataset.samples("val") if s.category_id is not None]
    stride = max(1, len(whole) // limit) if limit else 1
    places = validation_places(drawn_dataset, limit, cure="none")
    assert drawn_dataset.samples_at(places) == whole[::stride][:limit]
    read: list[RowGroup] = []
    plain = Dataset.read

    def noted(self: Dataset, group: RowGroup, columns: Any) -> Any:
        read.append(group)
        return plain(self, group, columns)

    monkeypatch.setattr(Dataset, "read", noted)
    settings = Evaluation(split="val", options=2, limit=limit)
    places = asked_places(drawn_dataset, settings, None)
    assert not read
    assert drawn_dataset.samples_at(places) == whole[:limit]
    assert limit is None or sum(group.rows for group in read[:-1]) < limit
    read.clear()
    asked = ask(drawn_dataset, settings, drawn_dataset.categories())
    assert limit is None or sum(group.rows for group in read[:-1]) < limit
    assert asked.samples == [replace(sample, image=b"") for sample in whole[:limit]]
    choices = choose_options(
        whole[:limit], [c.category_id for c in drawn_dataset.categories()], 2, seed=settings.seed
    )
    assert asked.choices == [one.options for one in choices]
