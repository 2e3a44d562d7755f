"""`finedefics train | tune`: from an experiment file, or a search over one, to tuned models."""

from typing import Annotated

import typer

from finedefics.errors import wrong_use

from .console import reporter

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
    json: Json = False,
) -> None:
    """Train an experiment's stages with Ray Train and DeepSpeed; an interrupted run goes on.

    Example: `finedefics train experiment.yaml --set data.dataset=birds --set model.path=MODEL`

    Go on elsewhere: `finedefics train --resume joint-1a2b3c4d5e6f --set resources.cpus_per_worker=4`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.config.experiment import load_experiment
    from finedefics_platform.evaluation.validation import validate_alignment
    from finedefics_platform.tracking.tracker import Tracker
    from finedefics_platform.training import run as training

    if (experiment is None) == (resume is None):
        raise wrong_use(
            "one experiment file or one run", place="finedefics train", cure="give a file, or --resume RUN"
        )
    out = reporter(json)
    workspace = open_workspace()
    if resume is not None:
        loaded = training.resumed_experiment(workspace, resume, set_ or [])
    else:
        loaded = load_experiment(experiment or "", set_ or [])
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
    out.say(f"next: finedefics evaluate {run.key} --data {loaded.data.dataset}")
    out.done(run=run.key, model=str(run.model), metrics=run.metrics, mlflow_run=run.parent_run_id)


def tune(
    search: Annotated[str, typer.Argument(help="Search file (YAML).")],
    set_: Set = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Search keys of an experiment with Ray Tune (Optuna, ASHA); an interrupted search goes on.

    Example: `finedefics tune search.yaml --set data.dataset=birds --set model.path=MODEL`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.search.run import load_search, run_search
    from finedefics_platform.tracking.tracker import Tracker

    out = reporter(json)
    workspace = open_workspace()
    loaded, document = load_search(search, set_ or [])
    tracker = Tracker(workspace, "finedefics")
    result = run_search(workspace, loaded, document, tracker=tracker, progress=out, force=force)
    keys = list(loaded.space)
    out.table(
        loaded.name,
        ["trial", *keys, loaded.metric, "step", "stopped early"],
        [
            [
                t["trial"],
                *(t["config"][key] for key in keys),
                t["metric"],
                t["step"],
                "yes" if t["stopped_early"] else "",
            ]
            for t in result.trials
        ],
    )
    out.done(search=result.folder.name, best=result.best, trials=result.trials)
