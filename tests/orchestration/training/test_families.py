"""Every family of models is trained by the same workers, sharded, on all terms, to a model that answers."""

import math
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from safetensors.torch import load_file

from finedefics.backbones import load_backbone
from finedefics.scoring import Recogniser
from finedefics_platform.base.storage import fetch
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.experiment import parse_experiment
from finedefics_platform.data.store import Dataset
from finedefics_platform.training.run import train

TERMS = {"answer": 1, "caption": 1, "text": 1, "object_attribute": 1, "attribute_category": 1}


@pytest.mark.parametrize(
    ("family", "workers", "zero_stage"),
    [
        # the farthest from Idefics2: pictures of any shape, positions on three axes
        ("qwen2_5_vl", 0, 0),
        pytest.param("qwen2_5_vl", 2, 3, marks=pytest.mark.slow),
        *(pytest.param(name, 2, 2, marks=pytest.mark.slow) for name in tiny_models.FAMILIES),
    ],
)
def test_a_family_is_trained_to_a_model_that_answers(
    ray_cluster: Any,
    drawn_workspace: Workspace,
    drawn_dataset: Dataset,
    tmp_path: Path,
    family: str,
    workers: int,
    zero_stage: int,
) -> None:
    base = tiny_models.save_tiny(family, tmp_path / "base")
    document = {
        "name": f"{family}-{workers}-{zero_stage}",
        "data": {"dataset": "drawn", "negatives": 2},
        "model": {"path": str(base)},
        "resources": {"workers": workers},
        "deepspeed": {"zero_stage": zero_stage},
        "compute": {"micro_tokens": 256, "checkpointing": True},
        "stages": [
            {
                "name": "joint",
                "steps": 6,
                "warmup_steps": 0,
                "learning_rate": 3e-3,
                "feeds": {"labelled": 4, "captioned": 4, "text": 4},
                "terms": TERMS,
            }
        ],
    }
    run = train(drawn_workspace, parse_experiment(document, place="test"))
    steps = [e["metrics"] for e in run.events() if e["event"] == "step"]
    assert len(steps) == 6
    assert all(math.isfinite(steps[-1][f"loss_{term}"]) for term in TERMS)
    assert steps[-1]["loss_answer"] < steps[0]["loss_answer"]
    before, after = load_file(base / "model.safetensors"), load_file(fetch(run.model) / "model.safetensors")
    assert before.keys() == after.keys()
    assert any(not before[name].equal(after[name]) for name in before)
    model = Recogniser(load_backbone(fetch(run.model)), drawn_dataset.categories())
    image = drawn_dataset.samples("val", limit=1)[0].image
    ((_, name, score), *_) = model.recognise([image])[0]
    assert name in {category.name for category in drawn_dataset.categories()}
    assert -1 <= score <= 1
