"""Where things live: one root for datasets, models, runs, search results and the tracking database."""

import os
from dataclasses import dataclass
from pathlib import Path

from finedefics.errors import FinedeficsError


@dataclass(frozen=True)
class Workspace:
    """The folders under one root; each is made when first asked for."""

    root: Path

    @property
    def datasets(self) -> Path:
        """Dataset versions: ``datasets/<name>/<digest>/``."""
        return self._folder("datasets")

    @property
    def models(self) -> Path:
        """Base models that the platform made itself."""
        return self._folder("models")

    @property
    def runs(self) -> Path:
        """Training runs: ``runs/<experiment>-<digest>/``."""
        return self._folder("runs")

    @property
    def searches(self) -> Path:
        """Ray Tune's state and results."""
        return self._folder("searches")

    @property
    def evaluations(self) -> Path:
        """Evaluation tables (item x answer), addressed by what they were made from."""
        return self._folder("evaluations")

    @property
    def categories(self) -> Path:
        """Categories added to registered models: ``categories/<model>.jsonl``."""
        return self._folder("categories")

    @property
    def demo(self) -> Path:
        """What `finedefics demo` draws, tabulates and reports."""
        return self._folder("demo")

    @property
    def tracking_uri(self) -> str:
        """MLFLOW_TRACKING_URI where set, else a SQLite file in the workspace."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self._folder('mlflow') / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        """Artefacts of runs recorded in the workspace's own database."""
        return self._folder("mlflow/artifacts")

    def _folder(self, name: str) -> Path:
        folder = self.root / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FinedeficsError(
                f"cannot make this folder ({error.strerror})",
                place=str(folder),
                cure="free space or set FINEDEFICS_HOME to a folder you may write to",
            ) from error
        return folder


def open_workspace(root: str | Path | None = None) -> Workspace:
    """The workspace at ``root``, at FINEDEFICS_HOME, or at ``.finedefics`` in the current folder."""
    return Workspace(Path(root or os.environ.get("FINEDEFICS_HOME") or ".finedefics").expanduser().resolve())
