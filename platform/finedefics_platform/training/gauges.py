"""What a run does, as Ray metrics: Prometheus reads them from every node, beside Ray's own ``ray_train_*``.

Ray writes ``ray_`` before every name. The driver sets them from the run's events, with the run's key and the
stage as labels; they are gone with the driver, so a gauge that stands still is a run that stands still.
"""

import threading
import time
from types import TracebackType

from ray.util.metrics import Gauge

from finedefics_platform.base.events import Event

REFRESH_SECONDS = 5.0
_LABELS = ("run", "stage")
_PLAIN = {  # name in a step's metrics -> what it says
    "learning_rate": "Learning rate",
    "gradient_norm": "Norm of the gradient before it is clipped",
    "samples_per_second": "Rows trained on in a second, over all workers",
    "forwarded_tokens_per_second": "Tokens forwarded in a second, padding included, over all workers",
    "data_wait_share": "Share of the time in which the slowest worker waited for data",
    "memory_mib": "Largest memory of a worker (MiB)",
    "mfu": "Model FLOPs over what the cards could do in the time",
}
_LOSS, _TEMPERATURE = "loss_", "_temperature"


class RunGauges:
    """The gauges of one run; leaving it stops the age of its checkpoint from growing.

    Args:
        run: its key.
    """

    def __init__(self, run: str) -> None:
        self._run, self._stage = run, ""
        self._plain = {name: _gauge(name, text) for name, text in _PLAIN.items()}
        self._step = _gauge("step", "Optimizer steps of the run that are done")
        self._loss = _gauge("loss", "Loss of a step: the weighted total, and each term", "term")
        self._temperature = _gauge("temperature", "Temperature of a contrastive term", "term")
        self._age = _gauge("checkpoint_age_seconds", "Since the last checkpoint, or since the first step")
        self._saved: float | None = None  # by this process's own clock: nodes' clocks differ
        self._closed = threading.Event()

    def __enter__(self) -> "RunGauges":
        threading.Thread(target=self._keep_ageing, name="gauges", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()

    def handle(self, event: Event) -> None:
        """Set what an event of the run tells."""
        name = event["event"]
        self._stage = event.get("stage", self._stage)
        if name == "checkpoint" or (name == "step" and self._saved is None):
            self._saved = time.monotonic()
        if name == "step":
            self._set(event["metrics"])
            self._step.set(event["total_step"], self._labels())

    def _set(self, metrics: dict[str, float]) -> None:
        labels = self._labels()
        for name, value in metrics.items():
            if name in self._plain:
                self._plain[name].set(value, labels)
            elif name == "loss":
                self._loss.set(value, labels | {"term": "total"})
            elif name.startswith(_LOSS):
                self._loss.set(value, labels | {"term": name.removeprefix(_LOSS)})
            elif name.endswith(_TEMPERATURE):
                self._temperature.set(value, labels | {"term": name.removesuffix(_TEMPERATURE)})

    def _labels(self) -> dict[str, str]:
        return {"run": self._run, "stage": self._stage}

    def _keep_ageing(self) -> None:
        while not self._closed.wait(REFRESH_SECONDS):
            if self._saved is not None:
                self._age.set(time.monotonic() - self._saved, self._labels())


def _gauge(name: str, text: str, *more: str) -> Gauge:
    return Gauge(f"finedefics_{name}", text, (*_LABELS, *more))
