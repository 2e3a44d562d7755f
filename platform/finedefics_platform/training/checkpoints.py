"""What a run saves: every rank's shards with the position in the plan, and the finished model."""

import json
import random
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finedefics.backbones import Backbone
from finedefics.conversation import Templates
from finedefics.errors import FinedeficsError
from finedefics.readout import Readout, save_readout
from finedefics_platform.base.storage import Location, commit
from finedefics_platform.config.experiment import Experiment
from finedefics_platform.training.sharding import consolidated_state
from finedefics_platform.training.trained import CHECKPOINTS

_SHARDS, _POSITION = "shards", "position.json"
_SNAPSHOT = "checkpoint_manager_snapshot.json"  # Ray Train's own list of what was saved


@dataclass(frozen=True)
class Position:
    """Where training stands, and the layout of the shards saved there.

    Attributes:
        stage: position of the stage in the experiment.
        step: optimizer steps of that stage that are done.
        world_size, zero_stage: shards of another layout cannot be loaded directly.
        digest: of the determining configuration (`Experiment.digest`).
    """

    stage: int
    step: int
    world_size: int
    zero_stage: int
    digest: str

    def total_step(self, experiment: Experiment) -> int:
        """Optimizer steps of all stages that are done."""
        return sum(stage.steps for stage in experiment.stages[: self.stage]) + self.step


def saved_position(training: Location) -> Position | None:
    """Where a training's last checkpoint stands, None if it has none; asked by the driver."""
    checkpoints = training / CHECKPOINTS
    try:
        last = (checkpoints / _SNAPSHOT).read_json()["latest_checkpoint_result"]
        if last is None:
            return None
        return Position(**(checkpoints / last["checkpoint_dir_name"] / _POSITION).read_json())
    except FileNotFoundError:
        return None


def save_and_report(engine: Any, position: Position, rank: int) -> None:
    """Save every rank's shards, random state and the position as one Ray Train checkpoint. All ranks call it.

    Frozen weights are left out (`save_shards`).
    Ray Train copies each rank's files into one folder of the run's storage; the checkpoint counts only when
    every rank has delivered.
    """
    import ray.train

    with tempfile.TemporaryDirectory(prefix="finedefics-") as name:
        folder = Path(name)
        save_shards(engine, folder)
        torch.save(_random_state(), folder / f"random-{rank}.pt")
        if rank == 0:
            (folder / _POSITION).write_text(json.dumps(asdict(position)))
        ray.train.report({}, checkpoint=ray.train.Checkpoint.from_directory(name))


def resume_point(expected: Position) -> Position | None:
    """Position of the run's last checkpoint, None at a fresh start.

    Raises:
        FinedeficsError: it was saved by another configuration or another number of workers.
    """
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        found = Position(**json.loads((Path(folder) / _POSITION).read_text()))
    for what in ("world_size", "zero_stage", "digest"):
        if getattr(found, what) != getattr(expected, what):
            raise FinedeficsError(
                f"the checkpoint was saved with {what} {getattr(found, what)}, "
                f"the run has {getattr(expected, what)}",
                place=checkpoint.path,
                cure="run with the same setting, or start over with --force",
            )
    return found


def load_shards(engine: Any, rank: int) -> None:
    """Load weights, optimizer state, schedule and random state of the run's last checkpoint."""
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    assert checkpoint is not None, "resume_point found a checkpoint"
    with checkpoint.as_directory() as folder:
        loaded = read_shards(engine, folder)
        if not loaded:
            raise FinedeficsError(
                "the checkpoint's shards are incomplete",
                place=checkpoint.path,
                cure="start over with --force",
            )
        _set_random_state(torch.load(Path(folder) / f"random-{rank}.pt", weights_only=True))


def save_shards(engine: Any, folder: str | Path) -> None:
    """Save every rank's shards of what is trained, with its optimizer state. All ranks call it.

    Frozen weights are left out: they are the base model's, with the adapters of earlier stages merged into
    them, which a run keeps apart (`training.loading`).
    """
    engine.save_checkpoint(str(folder), tag=_SHARDS, exclude_frozen_parameters=True)


def read_shards(engine: Any, folder: str | Path) -> bool:
    """Load what `save_shards` saved; False where a part of it is missing. All ranks call it."""
    loaded, _ = engine.load_checkpoint(str(folder), tag=_SHARDS, custom_load_fn=load_trained)
    return loaded is not None


def load_trained(src: Mapping[str, Tensor], dst: nn.Module) -> None:
    """Load a state without frozen weights; it may hold more (how weights in four bits are scaled).

    Raises:
        FinedeficsError: it lacks a parameter that is trained.
    """
    trained = [name for name, parameter in dst.named_parameters() if parameter.requires_grad]
    if lost := [name for name in trained if name not in src]:
        raise FinedeficsError(
            f"the checkpoint lacks {len(lost)} of {len(trained)} trained parameters",
            place=lost[0],
            cure="start over with --force",
        )
    dst.load_state_dict(src, strict=False)


def save_model(
    backbone: Backbone, place: Location, rank: int, templates: Templates, object_readout: Readout
) -> None:
    """Write the tuned model as an ordinary Hugging Face folder, with what it was asked in training and how.

    All ranks call it; rank 0 writes, and the folder appears at ``place`` as a whole.
    """
    state = consolidated_state(backbone.model, rank)
    if rank != 0:
        return
    with commit(place, replace=True) as folder:
        backbone.save_pretrained(folder, state)
        templates.save(folder)
        save_readout(object_readout, folder)


def _random_state() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state(legacy=True)
    # a list: of what is no tensor, reading a checkpoint without running code knows plain values only
    state = {
        "python": random.getstate(),
        "numpy": (kind, np.asarray(keys).tolist(), *rest),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
