"""What a run's key depends on: what determines the weights, and not where or on how much it is trained."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finedefics.errors import FinedeficsError
from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.config.documents import override
from finedefics_platform.config.experiment import Experiment, parse_experiment
from finedefics_platform.data.store import Dataset
from finedefics_platform.training.checkpoints import Position
from finedefics_platform.training.checks import check_layout
from finedefics_platform.training.identity import base_folder, base_of, pin, run_key
from finedefics_platform.training.run import resumed_experiment

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOPOLOGY = {
    "resources.workers": 1,
    "resources.cpus_per_worker": 2,
    "resources.gpus_per_worker": 1,
    "resources.threads_per_worker": 4,
    "resources.max_failures": 9,
    "model.attention": "eager",
    "deepspeed.zero_stage": 3,
    "compute.micro_tokens": 512,
    "compute.checkpointing": True,
    "tracking.experiment": "other",
    "tracking.log_every": 5,
    "tracking.checkpoint_every": 2,
    "evaluation.every": 3,
    "evaluation.limit": 4,
    "evaluation.split": "val",
    "evaluation.answers": ["names"],
}
DETERMINING = {
    "seed": 1,
    "data.negatives": 1,
    "data.sampler": "confusable",
    "data.templates.question": "Which bird is it?",
    "model.dtype": "bfloat16",
    "model.train": ["text"],
    "model.object_readout": "prompt",
    "adapters.kind": "lora",
    "stages.0.steps": 9,
    "stages.0.learning_rate": 1e-3,
    "stages.0.warmup_steps": 2,
    "stages.0.feeds.labelled": 8,
    "stages.0.terms.answer": 0.5,
    "stages.0.temperatures.learnable": True,
}


def experiment_of(model: str | Path, changes: dict[str, Any] | None = None, name: str = "key") -> Experiment:
    document: dict[str, Any] = {
        "name": name,
        "data": {"dataset": "drawn", "negatives": 2},
        "model": {"path": str(model)},
        "stages": [{"name": "one", "steps": 4, "feeds": {"labelled": 4}, "terms": {"answer": 1}}],
    }
    for key, value in (changes or {}).items():
        override(document, key, value, place="test")
    return parse_experiment(document, place="test")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "base", "weights")


def model_folder(folder: Path, weights: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(weights)
    return folder


@pytest.mark.parametrize("key", TOPOLOGY)
def test_a_topology_key_does_not_make_another_run(
    workspace: Workspace, drawn_dataset: Dataset, model: Path, key: str
) -> None:
    changed = experiment_of(model, {key: TOPOLOGY[key]})
    assert changed != experiment_of(model)
    assert run_key(workspace, changed, drawn_dataset) == run_key(
        workspace, experiment_of(model), drawn_dataset
    )
    assert changed.digest() == experiment_of(model).digest()  # what a checkpoint is compared by


@pytest.mark.parametrize("key", DETERMINING)
def test_a_determining_key_makes_another_run(
    workspace: Workspace, drawn_dataset: Dataset, model: Path, key: str
) -> None:
    changed = experiment_of(model, {key: DETERMINING[key]})
    assert run_key(workspace, changed, drawn_dataset) != run_key(
        workspace, experiment_of(model), drawn_dataset
    )


def test_how_sure_inferred_labels_are_counts_only_where_they_feed_a_stage(
    inferred_workspace: Workspace, inferred_dataset: Dataset, model: Path
) -> None:
    fed = {"stages.0.feeds": {"labelled": 4, "inferred": 4}}
    sure = {"data.inferred_probability": 0.9}

    def key(changes: dict[str, Any]) -> str:
        return run_key(inferred_workspace, experiment_of(model, changes), inferred_dataset)

    assert key(sure) == key({})
    assert key(fed | sure) != key(fed)
    # what is left to the labels' threshold is the run that names it, and the run says it
    assert key(fed | {"data.inferred_probability": 0.71}) == key(fed)
    pinned = pin(inferred_workspace, experiment_of(model, fed), inferred_dataset)
    assert pinned.data.inferred_probability == 0.71
    assert run_key(inferred_workspace, pinned, inferred_dataset) == key(fed)
    assert pin(inferred_workspace, experiment_of(model), inferred_dataset).data.inferred_probability is None


def test_other_data_make_another_run_and_a_name_is_a_prefix(
    workspace: Workspace, drawn_dataset: Dataset, model: Path
) -> None:
    key = run_key(workspace, experiment_of(model), drawn_dataset)
    assert run_key(workspace, experiment_of(model), replace(drawn_dataset, digest="0" * 12)) != key
    renamed = run_key(workspace, experiment_of(model, name="other"), drawn_dataset)
    assert renamed == key.replace("key-", "other-")


def test_a_model_counts_by_its_content(
    workspace: Workspace, drawn_dataset: Dataset, model: Path, tmp_path: Path
) -> None:
    key = run_key(workspace, experiment_of(model), drawn_dataset)
    copied = shutil.copytree(model, tmp_path / "elsewhere" / "copied")
    assert run_key(workspace, experiment_of(copied), drawn_dataset) == key
    (model / "model.safetensors").write_text("other weights")
    assert run_key(workspace, experiment_of(model), drawn_dataset) != key


def test_a_pinned_experiment_is_the_same_run_also_in_a_copied_workspace(
    workspace: Workspace, drawn_dataset: Dataset, tmp_path: Path
) -> None:
    assert workspace.root.local is not None
    inside = model_folder(workspace.root.local / "models" / "base", "weights")
    key = run_key(workspace, experiment_of(inside), drawn_dataset)
    pinned = pin(workspace, experiment_of(inside), drawn_dataset)
    assert pinned.model.path == "workspace:models/base"
    assert pinned.data.dataset == drawn_dataset.reference
    assert run_key(workspace, pinned, drawn_dataset) == key
    copy = open_workspace(shutil.copytree(workspace.root.local, tmp_path / "copied"))
    (inside / "model.safetensors").write_text("the original is changed")
    assert run_key(copy, pinned, drawn_dataset) == key
    assert base_folder(copy, pinned.model) == tmp_path / "copied" / "models" / "base"


def test_a_hub_model_counts_by_its_commit(
    workspace: Workspace, drawn_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    refs = tmp_path / "models--someone--birds" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(COMMIT)
    base = base_of(workspace, experiment_of("someone/birds").model)
    assert (base.revision, base.identity) == (COMMIT, f"someone/birds@{COMMIT}")
    key = run_key(workspace, experiment_of("someone/birds"), drawn_dataset)
    for revision in ("main", COMMIT):
        named = experiment_of("someone/birds", {"model.revision": revision})
        assert run_key(workspace, named, drawn_dataset) == key
    assert pin(workspace, experiment_of("someone/birds"), drawn_dataset).model.revision == COMMIT
    (refs / "main").write_text(COMMIT[::-1])  # the branch went on
    assert run_key(workspace, experiment_of("someone/birds"), drawn_dataset) != key
    with pytest.raises(FinedeficsError, match=r"someone/birds@v2: no such model can be had"):
        base_of(workspace, experiment_of("someone/birds", {"model.revision": "v2"}).model)


def test_a_model_that_is_not_there_is_said(workspace: Workspace, model: Path) -> None:
    with pytest.raises(FinedeficsError, match=r"workspace/models/none: there is no model here"):
        base_of(workspace, experiment_of("workspace:models/none").model)
    with pytest.raises(FinedeficsError, match="a folder has no revision"):
        base_of(workspace, experiment_of(model, {"model.revision": "main"}).model)


def test_shards_of_another_layout_are_refused_with_both_and_the_cure(model: Path) -> None:
    run = Location.of("/runs/key-1")
    check_layout(experiment_of(model), None, run)
    check_layout(experiment_of(model), Position(0, 2, 2, 1, "d"), run)
    for saved, said in (
        (Position(0, 2, 4, 1, "d"), "saved by 4 workers at ZeRO stage 1, .* by 2 at stage 1"),
        (Position(0, 2, 2, 3, "d"), "saved by 2 workers at ZeRO stage 3, .* by 2 at stage 1"),
    ):
        with pytest.raises(FinedeficsError, match=said) as caught:
            check_layout(experiment_of(model), saved, run)
        assert f"--set resources.workers={saved.world_size}" in caught.value.cure
        assert "--force" in caught.value.cure


def test_a_run_goes_on_by_its_key_with_other_topology_only(
    drawn_workspace: Workspace, drawn_dataset: Dataset, tiny_model: Path
) -> None:
    experiment = pin(drawn_workspace, experiment_of(tiny_model, name="by-key"), drawn_dataset)
    key = run_key(drawn_workspace, experiment, drawn_dataset)
    (drawn_workspace.runs / key / "experiment.json").write_json(experiment.model_dump(mode="json"))
    assert resumed_experiment(drawn_workspace, key) == experiment
    elsewhere = resumed_experiment(drawn_workspace, "by-key", ["resources.cpus_per_worker=3"])
    assert elsewhere.resources.cpus_per_worker == 3
    for other in ("seed=3", "stages.0.steps=5", "name=other"):
        with pytest.raises(FinedeficsError, match=f"--set {other}: with this setting it would be another"):
            resumed_experiment(drawn_workspace, key, [other])
    with pytest.raises(FinedeficsError, match=r"no-such: there is no such run; choose one of: .*by-key-"):
        resumed_experiment(drawn_workspace, "no-such")
