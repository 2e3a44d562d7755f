"""What a driver hands to the processes that train, and which of them one is.

It imports neither torch nor the training loop: Ray Train's controller reads it and trains nothing itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.experiment import Experiment
from finedefics_platform.data.store import Dataset

if TYPE_CHECKING:
    import torch

    from finedefics.backbones import Backbone

Validate = Callable[["Backbone", Dataset, Experiment, int, int], dict[str, float]]


@dataclass(frozen=True)
class Assignment:
    """What the driver hands to every process."""

    experiment: Experiment
    workspace: Workspace
    dataset: Location  # of the dataset version
    run: Location  # of this training: events, checkpoints and the finished model
    attempt: int
    token: str  # written beside by the driver: who reads it sees the driver's storage
    validate: Validate | None = None

    @property
    def events(self) -> Location:
        """The run's log."""
        return self.run / "events"

    @property
    def model(self) -> Location:
        """Where the finished model goes."""
        return self.run / "model"


@dataclass(frozen=True)
class Rank:
    """One of the processes that train together.

    Attributes:
        number: its rank in the process group.
        of: how many there are.
        device: what it trains on.
        saves: Ray Train keeps checkpoints, from which lost processes go on.
    """

    number: int
    of: int
    device: "torch.device"
    saves: bool = True
