"""`finedefics train`: from an experiment file to a tuned model."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from finedefics.errors import wrong_use

from .console import reporter
from .dry_run import dry_run

if TYPE_CHECKING:
    from finedefics_platform.data.store import Dataset

Set = Annotated[list[str] | None, typer.Option("--set", help="Override a key: --set stages.0.steps=10.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Force = Annotated[bool, typer.Option("--force", help="Start over, whatever was finished or saved.")]


def train(
    experiment: Annotated[str | None, typer.Argument(help="Experiment file (YAML).")] = None,
    resume: Annotated[
        str | None, typer.Option("--resume", help="Go on with a run by its key, without its file.")
    ] = None,
    set_: Set = None,
    force: Force = False,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Tell parameters, tokens and memory, and train nothing.")
    ] = False,
    gpu_memory: Annotated[
        str | None, typer.Option("--gpu-memory", help="Of a card, for --dry-run: 80GiB.")
    ] = None,
    json: Json = False,
) -> None:
    """Train an experiment's stages with Ray Train and DeepSpeed; an interrupted run goes on.

    Example: `finedefics train experiment.yaml --set data.dataset=birds --set model.path=MODEL`

    Go on elsewhere: `finedefics train --resume joint-1a2b3c4d5e6f --set resources.cpus_per_worker=4`

    Will it fit: `finedefics train experiment.yaml --dry-run --gpu-memory 80GiB`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.config.experiment import load_experiment
    from finedefics_platform.data.store import open_dataset
    from finedefics_platform.evaluation.validation import validate_alignment
    from finedefics_platform.tracking.tracker import Tracker
    from finedefics_platform.training import run as training

    if (experiment is None) == (resume is None):
        raise wrong_use(
            "one experiment file or one run", place="finedefics train", cure="give a file, or --resume RUN"
        )
    if gpu_memory is not None and not dry:
        raise wrong_use(
            "only a dry run asks for it", place="--gpu-memory", cure="add --dry-run, or leave it out"
        )
    out = reporter(json)
    workspace = open_workspace()
    if resume is not None:
        loaded = training.resumed_experiment(workspace, resume, set_ or [])
    else:
        loaded = load_experiment(experiment or "", set_ or [])
    if dry:
        dry_run(workspace, loaded, gpu_memory, out)
        return
    tracker = Tracker(workspace, loaded.tracking.experiment)
    run = training.train(
        workspace,
        loaded,
        tracker=tracker,
        progress=out,
        force=force,
        resume=resume is not None,
        validate=validate_alignment,
    )
    out.say(f"trained [bold]{run.key}[/]: {run.model}")
    if waiting := tracker.waiting():
        out.say(f"[yellow]{waiting} entries wait for the tracking server[/]: finedefics runs sync sends them")
    trained_on = open_dataset(workspace, loaded.data.dataset)  # perhaps of another place
    out.say(_next_step(trained_on, run.key, loaded.data.dataset))
    out.done(run=run.key, model=str(run.model), metrics=run.metrics, mlflow_run=run.parent_run_id)


def _next_step(trained_on: "Dataset", key: str, dataset: str) -> str:
    """How to evaluate the run, or why it cannot be."""
    from finedefics_platform.evaluation.checks import evaluable_splits

    splits = evaluable_splits(trained_on)
    if not splits:
        return (
            f"[yellow]nothing in {escape(dataset)} can judge it[/]: that takes labelled pictures in a split "
            "test or val, and two categories"
        )
    split = "" if splits[0] == "test" else f" --split {splits[0]}"
    return f"next: finedefics evaluate {escape(key)} --data {escape(dataset)}{split}"
