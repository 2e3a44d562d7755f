"""`finedefics tune`: the values of an experiment's keys that do best on the validation split."""

from typing import Annotated

import typer

from .console import reporter

Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Override a key of the experiment (stages.0.steps=10) or of the search (trials=20)."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Force = Annotated[bool, typer.Option("--force", help="Start over, whatever was finished or saved.")]


def tune(
    search: Annotated[str, typer.Argument(help="Search file (YAML).")],
    set_: Set = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Search keys of an experiment with Ray Tune (Optuna, ASHA); an interrupted search goes on.

    Example: `finedefics tune search.yaml --set data.dataset=birds --set model.path=MODEL`

    More trials, of other values: `finedefics tune search.yaml --set trials=20 --set search.seed=1`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.config.experiment import parse_experiment
    from finedefics_platform.search.document import load_search
    from finedefics_platform.search.run import run_search
    from finedefics_platform.tracking.tracker import Tracker

    out = reporter(json)
    workspace = open_workspace()
    loaded, document = load_search(search, set_ or [])
    experiment = parse_experiment(document, place=f"{search}: experiment {loaded.experiment}")
    tracker = Tracker(workspace, experiment.tracking.experiment)
    result = run_search(workspace, loaded, document, tracker=tracker, progress=out, force=force)
    keys = list(loaded.space)
    rows = [
        [t["trial"], *(t["config"][key] for key in keys), t["metric"], t["step"], t["status"], t["run"]]
        for t in result.trials
    ]
    out.table(loaded.name, ["trial", *keys, loaded.metric, "step", "status", "run"], rows)
    for trial in result.trials:
        if trial["error"]:
            out.say(f"[yellow]trial {trial['trial']} failed[/]: {trial['error']}")
    data = result.best["config"].get("data.dataset", experiment.data.dataset)
    out.say(f"best: {result.best['run']}; next: finedefics evaluate {result.best['run']} --data {data}")
    out.done(search=result.key, best=result.best, trials=result.trials, mlflow_run=result.parent_run_id)
