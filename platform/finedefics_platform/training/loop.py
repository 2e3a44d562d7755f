"""What a worker carries through a run: its task, its rank, its data, and how it says what it does."""

from dataclasses import dataclass
from typing import Any

import torch

from finedefics_platform.base.events import EventWriter
from finedefics_platform.base.storage import Location
from finedefics_platform.config.stage import Stage
from finedefics_platform.data.store import Dataset
from finedefics_platform.training.assignment import Assignment
from finedefics_platform.training.checkpoints import Position
from finedefics_platform.training.stopping import StopWatch
from finedefics_platform.training.stream import SampleIndex
from finedefics_platform.training.trained import ADAPTERS


@dataclass
class Loop:
    """One worker's state."""

    task: Assignment
    rank: int
    world_size: int
    device: torch.device
    saves: bool
    dataset: Dataset
    index: SampleIndex
    events: EventWriter | None  # of rank 0
    stop: StopWatch

    def say(self, name: str, **fields: Any) -> None:
        """An event, from rank 0 only."""
        if self.events is not None:
            self.events.write(name, **fields)

    def at(self, number: int, step: int) -> dict[str, Any]:
        """What every event of a step carries: the stage, the step in it and the step of the run."""
        stages = self.task.experiment.stages
        total = sum(stage.steps for stage in stages[:number]) + step
        return {"stage": stages[number].name, "step": step, "total_step": total}

    def adapters(self, stage: Stage) -> Location:
        """Where the adapters of a finished stage are kept while the run goes on."""
        return self.task.run / ADAPTERS / stage.name

    def position(self, stage: int, step: int) -> Position:
        """A place in this run."""
        experiment = self.task.experiment
        return Position(stage, step, self.world_size, experiment.deepspeed.zero_stage, experiment.digest())
