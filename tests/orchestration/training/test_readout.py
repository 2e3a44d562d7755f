"""A model that embeds pictures within the prompt is trained, checked and evaluated that way throughout."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finedefics.backbones import load_backbone
from finedefics.conversation import Templates
from finedefics.errors import FinedeficsError
from finedefics.evaluation.items import object_embeddings
from finedefics.readout import Readout, load_readout
from finedefics.scoring import CategoryIndex, Recogniser
from finedefics_platform.base.storage import fetch
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.experiment import Evaluation, parse_experiment
from finedefics_platform.data.store import Dataset
from finedefics_platform.evaluation.run import evaluate
from finedefics_platform.training.checkpoints import save_model
from finedefics_platform.training.run import train
from finedefics_platform.training.worker import objective_settings


def document(model: Path, readout: str) -> dict[str, Any]:
    terms = {"answer": 1, "object_attribute": 0.5}
    stage = {"name": "joint", "steps": 2, "warmup_steps": 1, "feeds": {"labelled": 4}, "terms": terms}
    return {
        "name": "within",
        "data": {"dataset": "drawn", "negatives": 2},
        "model": {"path": str(model), "object_readout": readout},
        "resources": {"workers": 1},
        "stages": [stage],
        "evaluation": {"every": 2, "limit": 4},
    }


def check_evaluation(workspace: Workspace, dataset: Dataset, folder: Path) -> None:
    """Index and object embeddings are those of a model that reads within the prompt."""
    asked = Evaluation(split="val", answers=("alignment",), limit=4, options=3)
    done = evaluate(workspace, folder, dataset.reference, asked, shards=1)
    assert CategoryIndex.load(done.index).object_readout == "prompt"
    backbone, templates = load_backbone(folder), Templates.load(folder)
    samples, categories = dataset.samples("val", limit=4), dataset.categories()

    def embedded(readout: Readout) -> np.ndarray:
        model = Recogniser(backbone, categories, templates=templates, object_readout=readout)
        return object_embeddings(model, samples)

    np.testing.assert_allclose(done.embeddings()["objects"], embedded("prompt"), atol=1e-4)
    assert np.abs(embedded("prompt") - embedded("eos")).max() > 0.01


def test_evaluation_reads_objects_where_the_model_says(
    ray_cluster: Any, drawn_workspace: Workspace, drawn_dataset: Dataset, tiny_model: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("FINEDEFICS_HOME", str(drawn_workspace.root))
    place = drawn_workspace.models / "within"
    save_model(load_backbone(tiny_model), place, 0, Templates(), "prompt")
    check_evaluation(drawn_workspace, drawn_dataset, fetch(place))


@pytest.mark.slow
def test_a_run_trains_and_validates_within_the_prompt(
    ray_cluster: Any, drawn_workspace: Workspace, drawn_dataset: Dataset, tiny_model: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("FINEDEFICS_HOME", str(drawn_workspace.root))
    run = train(drawn_workspace, parse_experiment(document(tiny_model, "prompt"), place="test"))
    assert load_readout(fetch(run.model)) == "prompt"
    check_evaluation(drawn_workspace, drawn_dataset, fetch(run.model))


def test_the_objective_is_told_and_a_third_place_is_refused(tmp_path: Path) -> None:
    experiment = parse_experiment(document(tmp_path, "prompt"), place="test")
    stage = experiment.stages[0]
    assert objective_settings(stage, experiment.model.object_readout).object_readout == "prompt"
    assert objective_settings(stage).object_readout == "eos"
    with pytest.raises(FinedeficsError, match=r"model\.object_readout"):
        parse_experiment(document(tmp_path, "middle"), place="test")
