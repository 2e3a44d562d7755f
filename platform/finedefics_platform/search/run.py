"""Search over any keys of an experiment with Ray Tune: each trial is an ordinary training run.

A search file names an experiment, what to change in it for all trials, the space, and the metric that the
validation check of training reports. Optuna proposes values; trials that fall behind are stopped (ASHA).
"""

import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from finedefics.errors import FinedeficsError
from finedefics_platform.base.cluster_session import ensure_ray
from finedefics_platform.base.digest import digest_of
from finedefics_platform.base.progress import SILENT, Progress, say_reused
from finedefics_platform.base.storage import Location, lease
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.experiment import Experiment, parse_experiment
from finedefics_platform.data.store import open_dataset
from finedefics_platform.search.checks import check_search
from finedefics_platform.search.document import Search
from finedefics_platform.search.space import trial_experiment
from finedefics_platform.tracking.tracker import Tracker
from finedefics_platform.training.run import pin, run_key

# Keys whose values name contents: a choice among them is identified by what is there, not by its name.
_NAMING = ("data.dataset", "model.path")


@dataclass(frozen=True)
class SearchResult:
    """A finished search.

    Attributes:
        key: ``<search>-<digest>`` of what is searched, over which data and model, and by what it is judged.
        place: ``searches/<key>``.
        best: the trial that won, one of those that ran to their end: its ``run`` opens with `open_run`.
        trials: mappings with ``trial, run, config, metric, step, status`` (finished, stopped or failed) and
            ``error``; ``run`` is its key, ``metric`` is of ``step``, the last checked one over all stages.
        parent_run_id: the search's MLflow run, None where nothing tracked it.
    """

    key: str
    place: Location
    best: dict[str, Any]
    trials: list[dict[str, Any]]
    parent_run_id: str | None


def run_search(
    workspace: Workspace,
    search: Search,
    document: Mapping[str, Any],
    *,
    tracker: Tracker | None = None,
    progress: Progress = SILENT,
    force: bool = False,
) -> SearchResult:
    """Run the trials; a finished search is returned at once, an interrupted one goes on.

    Args:
        document: the experiment, as `load_search` returned it, with data and model filled in.
        tracker: records the search's run; each trial's run is recorded under it as it trains.
        force: start over, trials too; what was found before stands until the new search is finished.

    Raises:
        FinedeficsError: the experiment or a value of the space does not fit, no check can report the metric,
            or no trial finished.
    """
    experiment = parse_experiment(document, place=search.name)
    experiment = pin(workspace, experiment, open_dataset(workspace, experiment.data.dataset))
    document = experiment.model_dump(mode="json")
    check_search(workspace, search, document)
    key = search_key(workspace, search, document)
    place = workspace.searches / key
    finished = place / "search.json"
    if not force and finished.is_file():
        return _reused(place, progress)
    with lease(place / "lease", f"search {key}", progress=progress) as held:
        if not force and finished.is_file():  # by whoever had the lease
            return _reused(place, progress)
        ensure_ray(progress=progress)  # before anything that was begun is given up
        attempt = _attempt(place, force)
        with _recorded(tracker, search, key, force) as summary:
            progress.event("recording", search=key, mlflow_run=summary["parent_run_id"])
            summary |= _searched(workspace, search, document, attempt, summary, tracker, progress)
        held.check()
        finished.write_json(summary)
        attempt.delete()
    return _opened(place)


def search_key(workspace: Workspace, search: Search, document: Mapping[str, Any]) -> str:
    """``<search>-<digest>`` of what is searched and of all that determines its figures.

    Args:
        document: the whole experiment, its dataset pinned.
    """
    # The file's name is no content, and what it sets stands in the document by now.
    settings = search.model_dump(mode="json", exclude={"name", "experiment", "set", "concurrent"})
    named = [{key: value} for key in _NAMING if key in search.space for value in search.space[key].extremes()]
    runs = [_run_of(workspace, search, document, config) for config in ({}, *named)]
    return f"{search.name}-{digest_of([settings, runs])}"


def _run_of(
    workspace: Workspace, search: Search, document: Mapping[str, Any], config: Mapping[str, Any]
) -> str:
    """Key of the training run that these values make."""
    experiment: Experiment = trial_experiment(document, config, search.name)
    return run_key(workspace, experiment, open_dataset(workspace, experiment.data.dataset))


def longest(search: Search, document: Mapping[str, Any]) -> int:
    """Steps over all stages of the longest trial that the space allows."""
    steps = {key: max(domain.extremes()) for key, domain in search.space.items() if key.endswith(".steps")}
    return sum(stage.steps for stage in trial_experiment(document, steps, search.name).stages)


def _reused(place: Location, progress: Progress) -> SearchResult:
    say_reused(progress, "search", place.name, how="--force starts over")
    return _opened(place)


def _opened(place: Location) -> SearchResult:
    stored = (place / "search.json").read_json()
    return SearchResult(place.name, place, stored["best"], stored["trials"], stored["parent_run_id"])


def _attempt(place: Location, force: bool) -> Location:
    """Folder of Tune's state: of the search that was interrupted here, unless it starts over."""
    begun = [child for child in place.children() if child.name.startswith(("tune-", "anew-"))]
    if begun and not force:
        return begun[-1]
    for child in begun:
        child.delete()
    return place / f"{'anew' if force else 'tune'}-{secrets.token_hex(4)}"


@contextmanager
def _recorded(tracker: Tracker | None, search: Search, key: str, force: bool) -> Iterator[dict[str, Any]]:
    """The search's own run; yields the summary, whose best trial the run is told in the end."""
    summary: dict[str, Any] = {"name": search.name, "metric": search.metric, "mode": search.mode}
    if tracker is None:
        summary["parent_run_id"] = None
        yield summary
        return
    params = search.model_dump(mode="json", exclude={"name", "experiment", "set"})
    run = tracker.parent(search.name, key=key, tags={"kind": "search"}, params=params, fresh=force)
    summary["parent_run_id"] = run
    try:
        yield summary
    except BaseException as error:
        tracker.finish(run, "FAILED" if isinstance(error, Exception) else "KILLED", why=error)
        raise
    best = summary["best"]
    tracker.metrics(run, best["step"], {f"best_{search.metric}": best["metric"]})
    tracker.tags(run, {"best": json.dumps(best["config"]), "best_run": best["run"]})
    tracker.finish(run)


def _searched(
    workspace: Workspace,
    search: Search,
    document: Mapping[str, Any],
    attempt: Location,
    summary: Mapping[str, Any],
    tracker: Tracker | None,
    progress: Progress,
) -> dict[str, Any]:
    from finedefics_platform.search.trial import TrialTask
    from finedefics_platform.search.tuning import run_trials

    task = TrialTask(
        workspace=workspace,
        document=document,
        search=search.name,
        metric=search.metric,
        begun=attempt / "begun" if attempt.name.startswith("anew") else None,
        tracking=tracker.experiment_name if tracker else None,
        search_run=summary["parent_run_id"],
    )
    trials = run_trials(search, task, longest(search, document), attempt, progress)
    for trial in trials:
        try:
            trial["run"] = _run_of(workspace, search, document, trial["config"])
        except FinedeficsError:  # values that do not fit together never became a run
            trial["run"] = None
    return {"best": _best(search, trials), "trials": trials}


def _best(search: Search, trials: list[dict[str, Any]]) -> dict[str, Any]:
    """The best of those that ran to their end: the others left no model."""
    ranked = [trial for trial in trials if trial["status"] == "finished"]
    if not ranked:
        errors = [trial["error"] for trial in trials if trial["error"]]
        raise FinedeficsError(
            f"no trial finished ({errors[0] if errors else 'all were stopped'})",
            place=f"search {search.name}",
            cure="mend the experiment and run `finedefics tune` again",
        )
    sign = 1 if search.mode == "max" else -1
    return max(ranked, key=lambda trial: sign * trial["metric"])
