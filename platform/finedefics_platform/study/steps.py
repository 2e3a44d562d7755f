"""What a study is made of: frozen steps, each addressed by the digest of all that goes into it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from threading import Event as Flag
from typing import Any

from finedefics.errors import FinedeficsError
from finedefics.terms import CONTRASTIVE_TERMS
from finedefics_platform.base.cluster_session import ensure_ray
from finedefics_platform.base.events import Event
from finedefics_platform.base.progress import SILENT
from finedefics_platform.base.signals import Terminated
from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.experiment import Evaluation, Experiment, parse_experiment
from finedefics_platform.worlds.settings import WorldSettings, world_base, world_data, world_truth

Result = dict[str, Any]  # what a step leaves, by name: JSON-able
Advance = Callable[[int], object]  # a bar that moves on by so many optimizer steps


@dataclass(frozen=True)
class Room:
    """What a step is done in.

    Attributes:
        workspace: where everything lands.
        stop: set when the study ends before its steps have.
        results: of the finished steps, by address.
    """

    workspace: Workspace
    stop: Flag
    results: Mapping[str, Result]


@dataclass(frozen=True)
class Data:
    """A drawn world as a described, mined dataset version."""

    seed: int
    settings: WorldSettings
    kind = "data"

    def do(self, room: Room, advance: Advance) -> Result:
        from finedefics_platform.data.describing import describe
        from finedefics_platform.data.ingesting import ingest
        from finedefics_platform.data.mining import mine

        _, folder = world_data(room.workspace, self.seed, self.settings)
        dataset = ingest(room.workspace, f"birds-{self.seed}", folder)
        dataset = describe(room.workspace, dataset.reference)
        return {"dataset": mine(room.workspace, dataset.reference).reference}


@dataclass(frozen=True)
class Base:
    """The base model of a drawn world; taught in a process of its own, beside others."""

    seed: int
    settings: WorldSettings
    kind = "base"

    def do(self, room: Room, advance: Advance) -> Result:
        return {"model": _on_this_node(_teach, room.workspace, self.seed, self.settings)}


@dataclass(frozen=True)
class Truth:
    """The true categories of the pictures without a label, as the table of labels."""

    data: str
    seed: int
    settings: WorldSettings
    kind = "label"

    def do(self, room: Room, advance: Advance) -> Result:
        import json
        import tempfile

        from finedefics_platform.data.labelling import label

        world = self.settings.world(self.seed)
        rows = world_truth(world, self.settings).items()
        with tempfile.TemporaryDirectory(prefix="finedefics-") as folder:
            file = Path(folder) / "truth.jsonl"
            file.write_text("".join(json.dumps({"source": s, "category": c}) + "\n" for s, c in rows))
            dataset = room.results[self.data]["dataset"]
            return {"dataset": label(room.workspace, dataset, labeller=f"file:{file}").reference}


@dataclass(frozen=True)
class Labels:
    """Inferred labels; ``models`` fills the names in the labeller's braces by steps that made a model.

    A labeller that no threshold makes precise enough is a result, not a failure: what rests on its labels
    fails, and `Judge` counts that none was accepted.
    """

    data: str
    labeller: str
    precision: float
    models: tuple[tuple[str, str], ...]
    kind = "label"

    def do(self, room: Room, advance: Advance) -> Result:
        from finedefics_platform.data.labelling import NotPreciseEnough, label

        places = {name: room.results[address]["model"] for name, address in self.models}
        dataset, labeller = room.results[self.data]["dataset"], self.labeller.format(**places)
        try:
            made = label(room.workspace, dataset, labeller=labeller, precision=self.precision)
        except NotPreciseEnough as refusal:
            return {"refused": str(refusal)}
        return {"dataset": made.reference}


@dataclass(frozen=True)
class Judge:
    """Inferred labels of a drawn world against its truth, which nothing but this step sees."""

    labels: str
    seed: int
    settings: WorldSettings
    kind = "label"

    def do(self, room: Room, advance: Advance) -> Result:
        from finedefics_platform.data.store import open_dataset
        from finedefics_platform.study.judging import judge_labels

        if "refused" in room.results[self.labels]:
            return {"figures": {"labels/coverage": 0.0}}
        dataset = open_dataset(room.workspace, room.results[self.labels]["dataset"])
        truth = world_truth(self.settings.world(self.seed), self.settings)
        return {"figures": judge_labels(dataset, truth)}


@dataclass(frozen=True)
class Train:
    """A training run of an arm."""

    data: str
    base: str
    document: Mapping[str, Any] = field(hash=False)
    kind = "train"

    def experiment(self, dataset: str, model: str) -> Experiment:
        """With its data and base model filled in."""
        return filled(self.document, dataset, model)

    def do(self, room: Room, advance: Advance) -> Result:
        from finedefics_platform.training.run import train

        def heard(event: Event) -> None:
            if room.stop.is_set():
                raise Terminated  # ends the run as a signal would: it goes on from its last checkpoint
            if event["event"] == "step":
                advance(1)

        data = room.results[self.data]
        if "refused" in data:
            raise FinedeficsError("its labels were refused", place="labels", cure=data["refused"])
        experiment = self.experiment(data["dataset"], room.results[self.base]["model"])
        run = train(room.workspace, experiment, listen=heard)
        spent = [event["metrics"] for event in run.events() if event["event"] == "step"]
        tokens = sum(step.get("forwarded_tokens", 0.0) for step in spent)
        return {
            "model": room.workspace.name_of(run.model),
            "run": run.key,
            "config_digest": run.config_digest,
            "forwarded_tokens": tokens or None,
            "figures": _coverage(spent),
        }


@dataclass(frozen=True)
class Evaluate:
    """A model's figures on the pictures of its world."""

    data: str
    model: str
    settings: Evaluation
    kind = "evaluate"

    def do(self, room: Room, advance: Advance) -> Result:
        from finedefics_platform.evaluation.run import evaluate

        model = room.workspace.place_of(room.results[self.model]["model"])
        # Groups are those of the data, for every arm: else an arm without labels had other ones.
        done = evaluate(room.workspace, model, room.results[self.data]["dataset"], self.settings, shards=1)
        return {
            "evaluation": done.place.name,
            "dataset": done.summary["dataset"],
            "pictures": done.summary["pictures"],
            "figures": _shares(done.items()),
        }


Task = Data | Base | Truth | Labels | Judge | Train | Evaluate


@dataclass(frozen=True)
class Step:
    """One thing to do, once.

    Attributes:
        address: digest of what goes into it.
        title: what it is, for a person: "train joint in world 3".
        needs: addresses of the steps whose results it takes.
        task: how it is done.
        cpus, gpus: that it takes of the cluster.
    """

    address: str
    title: str
    needs: tuple[str, ...]
    task: Task
    cpus: float = 1.0
    gpus: float = 0.0

    @property
    def kind(self) -> str:
        """``data``, ``base``, ``label``, ``train`` or ``evaluate``."""
        return self.task.kind


def filled(document: Mapping[str, Any], dataset: str, model: str) -> Experiment:
    """An arm's experiment on some data and base model."""
    data, base = (dict(document.get(section) or {}) for section in ("data", "model"))
    whole = {**document, "data": {**data, "dataset": dataset}, "model": {**base, "path": model}}
    return parse_experiment(whole, place=str(document.get("name", "experiment")))


def _shares(items: Any) -> dict[str, float]:
    """``<group>/<answer>``: share of right answers where all categories compete."""
    frame = items.to_pandas()
    frame = frame[frame["scope"] == "all"]
    shares = {}
    for answer, rows in frame.groupby("answer"):
        shares[f"all/{answer}"] = float(rows["correct"].mean())
        for group, own in rows.groupby("group"):
            shares[f"{group}/{answer}"] = float(own["correct"].mean())
    return shares


def _coverage(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean over the steps of the first contrastive term that the run has."""
    for term in CONTRASTIVE_TERMS:
        if shares := [step[name] for step in steps if (name := f"coverage_{term}") in step]:
            return {"training/coverage": fmean(shares)}
    return {}


def _teach(workspace: Workspace, seed: int, settings: WorldSettings) -> str:
    import torch

    torch.set_num_threads(1)  # others work beside it, and two threads' weights differ in their last digits
    return workspace.name_of(world_base(workspace, settings.world(seed), settings, SILENT))


def _on_this_node(work: Any, *given: Any) -> Any:
    """Call it in a Ray task: here where the workspace is on this node's disk, anywhere else."""
    ensure_ray()
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    options: dict[str, Any] = {"num_cpus": 1}
    root: Location = given[0].root
    if root.local is not None:
        node = ray.get_runtime_context().get_node_id()
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.get(ray.remote(**options)(work).remote(*given))
