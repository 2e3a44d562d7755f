"""A kernel of the attention that cannot be had ends a run in one line, if it can be known on the driver."""

from pathlib import Path
from typing import Any

import pytest
import tiny_models

from finedefics.errors import FinedeficsError
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.cli.failures import explain
from finedefics_platform.config.experiment import Experiment, parse_experiment
from finedefics_platform.data.store import Dataset
from finedefics_platform.training.checks import check
from finedefics_platform.training.run import train


def experiment_of(model: Path, attention: str, *, gpus: int = 0, dtype: str = "float32") -> Experiment:
    document = {
        "name": "attention",
        "data": {"dataset": "drawn", "negatives": 2},
        "model": {"path": str(model), "attention": attention, "dtype": dtype},
        "resources": {"workers": 0, "gpus_per_worker": gpus},
        "stages": [{"name": "name", "steps": 2, "feeds": {"labelled": 2}, "terms": {"answer": 1}}],
    }
    return parse_experiment(document, place="test")


def test_one_that_the_family_lacks_is_refused_where_the_model_is_loaded(
    ray_cluster: Any, drawn_workspace: Workspace, drawn_dataset: Dataset, tmp_path: Path
) -> None:
    base = tiny_models.save_tiny("paligemma2", tmp_path / "base")
    with pytest.raises(FinedeficsError) as caught:
        train(drawn_workspace, experiment_of(base, "sdpa"))
    said = str(explain(caught.value, "train"))
    assert said.startswith("model.attention: sdpa does not compute the attention of gemma2 (its logits")
    assert "\n" not in said


def test_one_that_is_not_installed_is_found_before_anything_starts(
    drawn_workspace: Workspace, drawn_dataset: Dataset, tiny_model: Path
) -> None:
    with pytest.raises(
        FinedeficsError, match=r"^model\.attention: .*not installed.*; pip install flash-attn"
    ):
        check(experiment_of(tiny_model, "flash_attention_2", gpus=1, dtype="bfloat16"), drawn_dataset)
    check(experiment_of(tiny_model, "flex_attention", gpus=1), drawn_dataset)
    with pytest.raises(FinedeficsError, match=r"half precision, and model\.dtype is float32; set it to bf"):
        experiment_of(tiny_model, "flash_attention_2", gpus=1)
