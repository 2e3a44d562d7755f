"""The whole journey on one machine: images in, a promoted model out, every step a command of its own.

A model knows 18 species from four labelled pictures each; six new ones arrive with a dozen captioned
pictures, no label, and a text. Which way of training lets it name them?
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from finedefics_platform.base.cluster_session import ensure_ray
from finedefics_platform.base.events import Event
from finedefics_platform.base.progress import SILENT, Prefixed, Progress
from finedefics_platform.base.signals import Terminated
from finedefics_platform.base.storage import Location
from finedefics_platform.base.together import Stop, together
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.documents import override
from finedefics_platform.config.experiment import Experiment, load_experiment
from finedefics_platform.data.store import Dataset
from finedefics_platform.demo.scale import FULL, SERVED, Scale
from finedefics_platform.demo.summary import Summary, summarise
from finedefics_platform.evaluation.items import Evaluated
from finedefics_platform.evaluation.recording import record_evaluation
from finedefics_platform.evaluation.run import evaluate
from finedefics_platform.models.gate import load_gate
from finedefics_platform.models.promotion import Change, promote
from finedefics_platform.models.references import index_of, open_model
from finedefics_platform.models.registration import register_run
from finedefics_platform.models.registry import ModelVersion
from finedefics_platform.search.document import load_search
from finedefics_platform.search.run import SearchResult, run_search
from finedefics_platform.tracking.tracker import Tracker
from finedefics_platform.training.run import TrainedRun, train
from finedefics_platform.worlds.settings import world_base, world_data

HERE = Path(__file__).parent
BASE = "base"
SERVED_ANSWER = "alignment"
LEGS = 9


@dataclass(frozen=True)
class Demo:
    """What the demo made; ``evaluations`` has the base and every arm."""

    dataset: Dataset
    base: Location
    runs: dict[str, TrainedRun]
    evaluations: dict[str, Evaluated]
    search: SearchResult
    version: ModelVersion
    promotion: Change
    summary: Summary


def run_demo(
    workspace: Workspace,
    *,
    seed: int = 0,
    scale: Scale = FULL,
    rebuild_base: bool = False,
    progress: Progress = SILENT,
) -> Demo:
    """Run the journey; whatever an earlier call finished is reused.

    Args:
        seed: of the world, the base model and the order of training.
        scale: how much of everything.
        rebuild_base: teach the base model again.
    """
    leg = _Legs(progress)
    leg("draw a world of birds and ingest it (Ray Data): ingest, describe, mine")
    world, folder = world_data(workspace, seed, scale.world, progress)
    dataset = make_dataset(workspace, f"birds-{seed}", folder, progress)
    leg("the base model: it sees attributes, knows the species' texts, and has never connected them")
    base = world_base(workspace, world, scale.world, progress, rebuild=rebuild_base)
    leg("infer labels of captioned pictures: the base reads their captions, and no picture")
    dataset = infer_labels(workspace, dataset, base, progress)
    tracker = Tracker(workspace, "finedefics-demo")
    leg(f"train {len(scale.arms)} arms from it (`{SERVED}` by Ray Train: two workers, DeepSpeed ZeRO)")
    experiments = {arm: arm_experiment(arm, dataset, base, scale, seed) for arm in scale.arms}
    runs = train_arms(workspace, experiments, tracker, progress)
    leg("evaluate the base and every arm by three answers")
    evaluations = evaluate_arms(workspace, dataset, base, runs, experiments[SERVED], progress)
    record_evaluations(workspace, tracker, runs, evaluations, base)
    leg("search the number of hard negatives and the temperature (Ray Tune, ASHA)")
    search = demo_search(workspace, dataset, base, scale, seed, tracker, progress)
    leg("register the arm `both` and let the gate decide on `champion` (MLflow)")
    version, promotion = register_and_promote(workspace, f"birds-{seed}", runs[SERVED], evaluations[SERVED])
    progress.event("promoted", model=version.reference, reasons=list(promotion.decision.reasons))
    progress.say(f"  {version.reference} is champion: {promotion.decision.reasons[0]}")
    leg("predict held-out pictures with the champion")
    predict_some(workspace, f"{version.name}@champion", dataset, progress)
    leg("put the numbers side by side")
    summary = summarise(workspace, dataset, runs, evaluations, search, version, seed)
    tracker.flush()
    return Demo(dataset, base, runs, evaluations, search, version, promotion, summary)


class _Legs:
    """Announces the parts of the journey."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._number = progress, 0

    def __call__(self, title: str) -> None:
        self._number += 1
        self._progress.event("leg", number=self._number, of=LEGS, title=title)
        self._progress.say(f"[bold]{self._number}/{LEGS}[/] {title}")


def make_dataset(workspace: Workspace, name: str, folder: Path, progress: Progress) -> Dataset:
    """The folder as a described, mined dataset version."""
    from finedefics_platform.data.describing import describe
    from finedefics_platform.data.ingesting import ingest
    from finedefics_platform.data.mining import mine

    dataset = ingest(workspace, name, folder, progress=progress)
    dataset = describe(workspace, dataset.reference, progress=progress)
    return mine(workspace, dataset.reference, progress=progress)


def infer_labels(workspace: Workspace, dataset: Dataset, base: Location, progress: Progress) -> Dataset:
    """The dataset with the labels that the base infers from captions; below 90 % precision none is taken."""
    from finedefics_platform.data.labelling import label

    labeller = f"reading:{base}"
    return label(workspace, dataset.reference, labeller=labeller, precision=0.9, progress=progress)


def arm_experiment(arm: str, dataset: Dataset, base: Location, scale: Scale, seed: int) -> Experiment:
    """An arm's experiment file with the demo's data, base and size filled in.

    What is served trains as on a cluster. The others compute the same steps in one process each, as Ray Train
    takes longer to start than such a model to train.
    """
    file = HERE / "arms" / f"{arm}.yaml"
    defaults = {"data.dataset": dataset.reference, "model.path": str(base)}
    given = [f"seed={seed}"] if arm == SERVED else [f"seed={seed}", "resources.workers=0"]
    experiment = load_experiment(file, given, defaults)
    share = scale.steps // len(experiment.stages)
    given += [f"stages.{i}.steps={share}" for i in range(len(experiment.stages))]
    return load_experiment(file, given, defaults)


def train_arms(
    workspace: Workspace, experiments: Mapping[str, Experiment], tracker: Tracker, progress: Progress
) -> dict[str, TrainedRun]:
    """Every arm's run, several at a time; the longest, which is served, is begun first."""

    def work(arm: str, stop: Stop) -> TrainedRun:
        def heard(event: Event) -> None:
            if stop.is_set():
                raise Terminated  # ends the run as a signal would

        named = Prefixed(progress, arm)
        return train(workspace, experiments[arm], tracker=tracker, progress=named, listen=heard)

    order = sorted(experiments, key=lambda arm: arm != SERVED)
    runs = together({arm: partial(work, arm) for arm in order}, _at_once(progress))
    return {arm: runs[arm] for arm in experiments}


def evaluate_arms(
    workspace: Workspace,
    dataset: Dataset,
    base: Location,
    runs: Mapping[str, TrainedRun],
    served: Experiment,
    progress: Progress,
) -> dict[str, Evaluated]:
    """The base and every arm, all by the settings of the one that is served, several at a time."""
    models: dict[str, Location] = {BASE: base, **{arm: run.model for arm, run in runs.items()}}

    def work(arm: str, stop: Stop) -> Evaluated:
        return evaluate(
            workspace,
            models[arm],
            dataset.reference,
            served.evaluation,
            labelled=runs[arm].labelled if arm in runs else None,
            shards=1,
            progress=Prefixed(progress, arm),
        )

    return together({arm: partial(work, arm) for arm in models}, _at_once(progress))


def _at_once(progress: Progress) -> int:
    """As many as this machine has cores, if the cluster has room: two CPUs for each, and one for workers."""
    ensure_ray(progress=progress)
    import ray

    room = int(ray.cluster_resources().get("CPU", 1) - 1) // 2
    return max(1, min(room, os.cpu_count() or 1))


def record_evaluations(
    workspace: Workspace,
    tracker: Tracker,
    runs: dict[str, TrainedRun],
    evaluations: dict[str, Evaluated],
    base: Location,
) -> None:
    """Record each evaluation under the run that made the model, and its figures on that run too, where they
    stand beside those of the other arms.

    A figure is stamped with the end of its evaluation, so one that is recorded again is the same one.
    """
    from finedefics.evaluation.tables import accuracy_table

    for arm, evaluated in evaluations.items():
        run = runs[arm].parent_run_id if arm in runs else _base_run(tracker, base)
        if run is None:
            continue
        speeds = {arm: evaluated.summary["pictures_per_second"]}
        table = accuracy_table({arm: evaluated.items()}, speeds)[arm]
        figures = {
            f"test_{answer}_{group}": cell["accuracy"]
            for answer, cells in table.items()
            for group, cell in cells.items()
            if isinstance(cell, dict)
        }
        figures |= evaluated.summary["retrieval"]
        tracker.metrics(run, 0, figures, time=evaluated.summary["finished"])
        tracker.flush()
        named = runs[arm].key if arm in runs else BASE
        record_evaluation(workspace, evaluated, named, run=runs.get(arm), run_id=run)


def _base_run(tracker: Tracker, base: Location) -> str:
    """The base model's own run, so that its figures stand beside those of the arms."""
    run = tracker.find_run(base.name)
    if run is None:
        run = tracker.parent(BASE, key=base.name, tags={"kind": "base"})
        tracker.finish(run)
    return run


def demo_search(
    workspace: Workspace,
    dataset: Dataset,
    base: Location,
    scale: Scale,
    seed: int,
    tracker: Tracker,
    progress: Progress,
) -> SearchResult:
    """The search file with the demo's data, base and size filled in, run."""
    search, document = load_search(HERE / "search.yaml")
    search = search.model_copy(update={"trials": scale.trials, "seed": seed})
    filled = {
        "seed": seed,
        "data.dataset": dataset.reference,
        "model.path": str(base),
        "stages.0.steps": scale.search_steps,
        "stages.0.warmup_steps": min(10, scale.search_steps // 4),
    }
    for key, value in filled.items():
        override(document, key, value, place="demo search")
    return run_search(workspace, search, document, tracker=tracker, progress=progress)


def register_and_promote(
    workspace: Workspace, name: str, run: TrainedRun, evaluated: Evaluated
) -> tuple[ModelVersion, Change]:
    """Register a run's model, and ask the gate about the answer it will serve."""
    version = register_run(workspace, name, run, evaluated)
    gate = load_gate(given=[f"slices=[{SERVED_ANSWER}]"])
    reason = f"the demo's arm {SERVED}, by the answer that it serves"
    return version, promote(workspace, version.name, version.version, reason=reason, gate=gate)


def predict_some(
    workspace: Workspace, reference: str, dataset: Dataset, progress: Progress, count: int = 6
) -> Sequence[dict[str, Any]]:
    """Name a few held-out pictures with a registered model, and show them beside the truth."""
    from finedefics.scoring import Recogniser

    opened = open_model(workspace, reference)
    recogniser = Recogniser.load(opened.model, index_of(opened))
    names = {category.category_id: category.name for category in recogniser.categories}
    new = [s for s in dataset.samples("test") if s.category_id not in dataset.labelled_category_ids()]
    chosen = new[:: max(1, len(new) // count)][:count]
    shown = []
    for sample, best in zip(chosen, recogniser.recognise([s.image for s in chosen], top=1), strict=True):
        truth = names[sample.category_id or ""]
        shown.append(
            {"sample": sample.sample_id, "truth": truth, "named": best[0][1], "similarity": best[0][2]}
        )
        mark = "[green]right[/]" if truth == best[0][1] else "[red]wrong[/]"
        progress.say(f"  a {truth}, never labelled: named {best[0][1]} ({mark}, similarity {best[0][2]:.2f})")
    progress.event("predicted", pictures=shown)
    return shown
