"""Evaluations in MLflow: each is a run of its own, under the run that trained the model where that is known.

Recorded once: the same evaluation asked again adds nothing. A server that is away costs nothing either; what
could not be sent waits in the workspace (`finedefics_platform.tracking.tracker`).
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finedefics.evaluation.tables import accuracy_table
from finedefics_platform.base.storage import committed
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.experiment import Tracking
from finedefics_platform.evaluation.items import Evaluated, open_evaluation
from finedefics_platform.evaluation.kept import finished_evaluations
from finedefics_platform.tracking.delivery import WORKSPACE, quoted
from finedefics_platform.tracking.mlflow_client import open_client
from finedefics_platform.tracking.notes import figure_rows, figure_table, training_note
from finedefics_platform.tracking.spool import UNSENT
from finedefics_platform.tracking.tracker import Tracker, environment, server_run_id, sync
from finedefics_platform.training.trained import TrainedRun

KIND = "evaluation"
TAG = "finedefics.evaluation"  # its value is the evaluation's name in the workspace
log = logging.getLogger(__name__)

_SCOPES = ("options", "all")  # what competes with every category says more, so it comes last


@dataclass(frozen=True)
class Recorded:
    """The MLflow run of an evaluation; ``waiting`` entries could not be sent yet."""

    run_id: str
    waiting: int = 0


def record_evaluation(
    workspace: Workspace,
    evaluated: Evaluated,
    model: str,
    *,
    run: TrainedRun | None = None,
    run_id: str | None = None,
    began: float | None = None,
) -> Recorded:
    """Record a finished evaluation, and its figures on the page of the run that made the model.

    Args:
        model: what it was called, for its page.
        run: the run that made it, where it is in this workspace.
        run_id: that run's id in MLflow, where only this is known.
        began: when the evaluation was begun (Unix seconds), if it was made just now.

    Raises:
        FinedeficsError: MLFLOW_TRACKING_URI names no server or database, or the experiment was deleted.
    """
    parent = run.parent_run_id if run is not None else run_id
    if parent is not None and server_run_id(workspace, parent).startswith(UNSENT):
        sync(workspace)  # a child cannot be sent before its parent
    known, experiment = _known(workspace, evaluated.place.name, parent, run)
    if known is not None:
        return Recorded(known)
    tracker = Tracker(workspace, experiment)
    finished = evaluated.summary.get("finished")
    start = began if began and finished and began <= finished else finished
    made = _open(tracker, evaluated, model, parent, start)
    figures = figures_of(evaluated)
    tracker.inputs(made, evaluated.summary["dataset"], "evaluation", pictures=evaluated.summary["pictures"])
    tracker.metrics(made, 0, _metrics(evaluated, figures), time=finished)
    tracker.describe(made, evaluation_note(model, evaluated, figures))
    files = committed(evaluated.place) or evaluated.place
    for name in ("summary.json", "items.parquet"):
        tracker.artifact(made, files / name)
    tracker.finish(made, time=finished)
    if run is not None and run.parent_run_id is not None:
        tracker.describe(run.parent_run_id, _with_figures(workspace, run, evaluated))
        tracker.flush()
    return Recorded(server_run_id(workspace, made), tracker.waiting())


def figures_of(evaluated: Evaluated) -> dict[str, dict[str, Any]]:
    """Figures by answer and group: among all categories where the answer was asked so, else among options."""
    items = evaluated.items()
    found: dict[str, dict[str, Any]] = {}
    for scope in _SCOPES:
        found |= accuracy_table({"": items}, {}, scope)[""]
    return found


def evaluation_note(model: str, evaluated: Evaluated, figures: Mapping[str, Mapping[str, Any]]) -> str:
    """What MLflow's page of an evaluation says."""
    summary = evaluated.summary
    limit = f", at most {summary['limit']} pictures" if summary["limit"] else ""
    encoder = " --encoder" if summary.get("encoder") else ""
    data = summary["dataset"]
    return f"""Evaluation of **{model}** on `{data}` {summary["split"]}{limit}.

{figure_table(figure_rows(f"{data.partition('@')[0]} {summary['split']}", figures))}
"labelled" are categories with a labelled training picture, "new" those known from a text or captioned \
pictures only. Model digest `{summary["model_digest"]}`. `items.parquet` has each answer, `summary.json` how \
it was asked.

```
finedefics evaluate{encoder} {model} --data {data} --split {summary["split"]}
```
"""


def _known(
    workspace: Workspace, name: str, parent: str | None, run: TrainedRun | None
) -> tuple[str | None, str]:
    """The run of an evaluation that is recorded already, and the experiment that it belongs to."""
    experiment = (run.experiment().tracking if run is not None else Tracking()).experiment
    client = open_client(workspace)
    wanted = f"tags.`{TAG}` = {quoted(name)} and tags.`{WORKSPACE}` = '{workspace.id}'"
    try:
        there = [one.experiment_id for one in client.search_experiments()]
        found = client.search_runs(there, f"{wanted} and attributes.status = 'FINISHED'", max_results=1)
        if parent is not None:  # a child stands where its parent does
            made_in = client.get_run(server_run_id(workspace, parent)).info.experiment_id
            experiment = client.get_experiment(made_in).name
    except Exception as error:
        # Away: it is sent later, and found again there. A refusal: the run that made the model was deleted.
        log.debug("nothing is known of the evaluation %s: %s", name, error)
        return None, experiment
    return (found[0].info.run_id if found else None), experiment


def _open(tracker: Tracker, evaluated: Evaluated, model: str, parent: str | None, start: float | None) -> str:
    summary, name = evaluated.summary, evaluated.place.name
    tags = {
        "kind": KIND,
        "evaluation": name,
        "model": model,
        "model_digest": summary["model_digest"],
        "dataset": summary["dataset"],
    }
    params = {of: summary.get(of) for of in ("split", "limit", "dtype")} | dict(summary["protocol"])
    title = f"{summary['dataset'].partition('@')[0]} {summary['split']} ({name[:8]})"
    if parent is None:
        title = f"{model.rpartition('/')[2]} on {title}"
        return tracker.parent(title, key=f"{KIND}-{name}", tags=tags, params=params, time=start)
    return tracker.child(
        parent,
        f"evaluation: {title}",  # its name is its identity under the parent
        tags=tags,
        params=params,
        time=start,
        texts=environment(),
    )


def _metrics(evaluated: Evaluated, figures: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    shares = {f"unparsed.{answer}": v for answer, v in evaluated.summary.get("unparseable", {}).items()}
    found = {
        f"accuracy.{row['answer']}.{row['categories']}": row["accuracy"]
        for row in figure_rows("", figures)
        if not math.isnan(row["accuracy"])
    }
    return found | {name: float(share) for name, share in shares.items()}


def _with_figures(workspace: Workspace, run: TrainedRun, evaluated: Evaluated) -> str:
    """The page of the run that made the model: all that this workspace measured of it, the largest first."""
    rows = []
    there = finished_evaluations(workspace, evaluated.summary["model_digest"])
    for place, summary in sorted(there, key=lambda one: (-one[1]["pictures"], one[0].name)):
        on = f"{summary['dataset'].partition('@')[0]} {summary['split']}"
        rows += figure_rows(on, figures_of(open_evaluation(place)))
    return training_note(run.key, run.experiment(), run.dataset, rows)
