"""One driver's start on a training: a record of who, when, on what, and how it ended."""

import os
import socket
import time
from typing import Any

from finedefics_platform.base.secrets import without_secrets
from finedefics_platform.base.storage import Location
from finedefics_platform.base.user import user
from finedefics_platform.config.experiment import Experiment
from finedefics_platform.tracking.facts import system_facts


class Attempt:
    """The record ``attempts/<number>.json``; a driver that was killed leaves it without an end.

    Attributes:
        number: from 1.
    """

    def __init__(self, training: Location, experiment: Experiment) -> None:
        self.number = 1 + len((training / "attempts").children())
        self._place = training / "attempts" / f"{self.number:04}.json"
        self._record: dict[str, Any] = {
            "number": self.number,
            "user": user(),
            "host": socket.gethostname(),
            "process": os.getpid(),
            "started": time.time(),
            "ended": None,
            "outcome": None,
            "topology": {
                section: getattr(experiment, section).model_dump(mode="json")
                for section in ("resources", "deepspeed", "compute")
            },
            "evaluation": experiment.evaluation.model_dump(mode="json"),
            "model": experiment.model.model_dump(mode="json", include={"path", "revision", "attention"}),
            "versions": system_facts(),
        }
        self._place.write_json(self._record)

    def end(self, outcome: str) -> None:
        """Note how it ended (``finished``, ``interrupted`` or what failed)."""
        self._place.write_json({**self._record, "ended": time.time(), "outcome": without_secrets(outcome)})
