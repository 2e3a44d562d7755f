"""How much longer a training run will take, told from its own events."""

from finedefics_platform.base.events import Event


class Pace:
    """Seconds left of a run, at the pace of the stage that it is in.

    The first recorded step of a stage, or after a restart, begins the measuring: what went before it is
    imports, compiling and the first wait for data. Checks and saving count, as they will come again.

    Args:
        steps: of the run, over all stages.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._since: Event | None = None

    def left(self, event: Event) -> float | None:
        """Seconds, after this ``step`` event; None before two steps of its stage."""
        since = self._since
        if since is None or since["stage"] != event["stage"] or since["total_step"] >= event["total_step"]:
            self._since = event
            return None
        pace = (event["time"] - since["time"]) / (event["total_step"] - since["total_step"])
        return max(0.0, pace * (self._steps - event["total_step"]))
