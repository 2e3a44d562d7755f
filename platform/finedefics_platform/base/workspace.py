"""Where things live: one root for datasets, models, runs, search results and evaluations, on a disk or in an
object store."""

import os
import uuid
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from finedefics.errors import FinedeficsError
from finedefics_platform.base.storage import Location, cache_folder, lease

INSIDE = "workspace:"  # begins the name of a place inside the workspace, wherever that lies
IDENTITY = "workspace.json"


@dataclass(frozen=True)
class Workspace:
    """The places under one root. Nothing inside names the root: a workspace can be moved and copied."""

    root: Location

    @property
    def datasets(self) -> Location:
        """Datasets: ``datasets/<name>/``, see `finedefics_platform.data.store`."""
        return self.root / "datasets"

    @property
    def answers(self) -> Location:
        """What models answered that were asked about pictures and categories: ``answers/<model>/``."""
        return self.root / "answers"

    @property
    def models(self) -> Location:
        """Base models that the platform made itself, and packages of registered ones."""
        return self.root / "models"

    @property
    def runs(self) -> Location:
        """Training runs: ``runs/<experiment>-<digest>/``."""
        return self.root / "runs"

    @property
    def searches(self) -> Location:
        """Ray Tune's state and results."""
        return self.root / "searches"

    @property
    def studies(self) -> Location:
        """Studies: ``studies/<name>-<digest>/``, and what their steps left in ``studies/steps/``."""
        return self.root / "studies"

    @property
    def evaluations(self) -> Location:
        """Evaluations (item x answer), addressed by what they were made from."""
        return self.root / "evaluations"

    @property
    def evaluation_parts(self) -> Location:
        """What evaluations have so far that are being made or were cut off: a folder each, by its name."""
        return self.evaluations / ".parts"

    def evaluation_lease(self, name: str) -> Location:
        """The lease under which the evaluation of this name is made."""
        return self.evaluations / ".lease" / name

    @property
    def embeddings(self) -> Location:
        """What embedders made of datasets' pictures, addressed by what they were made from."""
        return self.root / "embeddings"

    @property
    def labels(self) -> Location:
        """What labellers inferred of datasets' pictures, addressed by what they were made from."""
        return self.root / "labels"

    @property
    def features(self) -> Path:
        """What frozen vision towers made of pictures: ``features/<digest>/``, see `finedefics.features`.

        On a disk inside the workspace, for one in an object store in the node's cache. May be deleted at any
        time.
        """
        return (self.root.local or cache_folder()) / "features"

    @property
    def jobs(self) -> Location:
        """What jobs on clusters said and how they ended: ``jobs/<id>/``, see `operate.jobs.records`."""
        return self.root / "jobs"

    @property
    def sheets(self) -> Location:
        """Contact sheets: ``sheets/<dataset>.html``."""
        return self.root / "sheets"

    @property
    def reports(self) -> Location:
        """Reports of runs, searches and studies: ``reports/<key>.html``."""
        return self.root / "reports"

    @property
    def categories(self) -> Location:
        """Categories added to registered models: ``categories/<model>.jsonl``."""
        return self.root / "categories"

    @property
    def worlds(self) -> Location:
        """Drawn worlds as image folders: ``worlds/birds-<seed>-<digest>/``."""
        return self.root / "worlds"

    @property
    def demo(self) -> Location:
        """What `finedefics demo` tabulates and reports."""
        return self.root / "demo"

    @property
    def artifacts(self) -> Location:
        """Artefacts of runs recorded in the workspace's own database."""
        return self.root / "mlflow" / "artifacts"

    @property
    def state(self) -> Path:
        """A folder of this machine: the tracking database, what waits to be sent to a server, logs.

        Inside a workspace on a disk, else beside the node's cache.
        """
        folder = self.root.local / "mlflow" if self.root.local else cache_folder() / "workspaces" / self.id
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FinedeficsError(
                f"cannot make this folder ({error.strerror})",
                place=str(folder),
                cure="free space or set FINEDEFICS_HOME to a folder you may write to",
            ) from error
        return folder

    @property
    def tracking_uri(self) -> str:
        """MLFLOW_TRACKING_URI where set, else a SQLite file of this machine."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.state / 'mlflow.db'}"

    @cached_property
    def id(self) -> str:
        """Twelve hex digits that are this workspace's own and go where it goes; made when first asked for."""
        file = self.root / IDENTITY
        if not file.is_file():
            with lease(self.root / ".lease", "the workspace's identity"):
                if not file.is_file():
                    file.write_json({"id": uuid.uuid4().hex[:12]})
        return str(file.read_json()["id"])

    def name_of(self, place: Location) -> str:
        """How a place is written down: ``workspace:models/x`` inside, its URI elsewhere."""
        way = place.relative_to(self.root)
        return place.uri if way is None else f"{INSIDE}{way}"

    def place_of(self, name: str) -> Location:
        """The place that `name_of` wrote down, or that a path or URI names."""
        return self.root / name.removeprefix(INSIDE) if name.startswith(INSIDE) else Location.of(name)


def open_workspace(root: str | os.PathLike[str] | Location | None = None) -> Workspace:
    """The workspace at ``root`` (a path or URI), at FINEDEFICS_HOME, or at ``.finedefics`` here.

    Raises:
        FinedeficsError: the URI is none that can be stored to (exit code 2).
    """
    return Workspace(Location.of(root or os.environ.get("FINEDEFICS_HOME") or ".finedefics"))
