"""Search over any keys of an experiment with Ray Tune: each trial is an ordinary training run.

A search file names an experiment, what to change in it for all trials, the space, and the metric that the
validation check of training reports. Optuna proposes values; trials that fall behind are stopped (ASHA).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from finedefics.errors import FinedeficsError, wrong_use
from finedefics_platform.base.cluster_session import ensure_ray
from finedefics_platform.base.digest import digest_of
from finedefics_platform.base.events import Event
from finedefics_platform.base.progress import SILENT, Progress
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.documents import override, override_by_text, read_yaml
from finedefics_platform.config.experiment import Experiment, parse_experiment
from finedefics_platform.config.section import Section, parse_document
from finedefics_platform.data.store import open_dataset
from finedefics_platform.tracking.tracker import Tracker
from finedefics_platform.training.run import events_of, pin, run_key


class Domain(Section):
    """The values one key may take: exactly one of the kinds."""

    choice: tuple[Any, ...] | None = Field(None, min_length=1)
    uniform: tuple[float, float] | None = None
    loguniform: tuple[float, float] | None = None
    integers: tuple[int, int] | None = Field(None, description="Both ends included.")

    @model_validator(mode="after")
    def _one_kind(self) -> "Domain":
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(type(self).model_fields)}")
        ends = getattr(self, given[0])
        if given[0] != "choice" and not ends[0] < ends[1]:
            raise ValueError(f"{given[0]} needs a lower and a higher end")
        return self

    def sampler(self) -> Any:
        """The Ray Tune distribution."""
        from ray import tune

        if self.choice is not None:
            return tune.choice(list(self.choice))
        if self.uniform is not None:
            return tune.uniform(*self.uniform)
        if self.loguniform is not None:
            return tune.loguniform(*self.loguniform)
        assert self.integers is not None
        return tune.randint(self.integers[0], self.integers[1] + 1)


class Search(Section):
    """What is searched, over what, and by which figure."""

    name: str = Field(pattern=r"^[a-z0-9_.-]+$")
    experiment: str = Field(description="Experiment file, relative to the search file.")
    set: dict[str, Any] = Field({}, description="Keys changed for all trials.")
    space: dict[str, Domain] = Field(min_length=1, description="Keys of the experiment and their values.")
    metric: str = Field("val_alignment", description="A figure of the validation check during training.")
    mode: Literal["max", "min"] = "max"
    trials: int = Field(4, ge=1)
    concurrent: int = Field(2, ge=1)
    grace_steps: int = Field(10, ge=1, description="Steps that no trial is stopped before.")
    seed: int = 0


@dataclass(frozen=True)
class SearchResult:
    """A finished search; ``trials`` hold ``trial, config, metric, step, stopped_early, error``."""

    folder: Path
    best: dict[str, Any] | None
    trials: list[dict[str, Any]]
    parent_run_id: str | None


def load_search(path: str | Path, overrides: Iterable[str] = ()) -> tuple[Search, dict[str, Any]]:
    """Read a search file and the experiment it names (as a document, overrides applied).

    Raises:
        FinedeficsError: a file is missing or a key is wrong (exit code 2).
    """
    search = parse_document(Search, read_yaml(path, "search"), place=str(path))
    file = Path(path).parent / search.experiment
    experiment = read_yaml(file, "experiment")
    for key, value in search.set.items():
        override(experiment, key, value, place=str(path))
    for assignment in overrides:
        override_by_text(experiment, assignment)
    return search, experiment


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
        tracker: records a parent run and a child a trial, with the trial's curves.

    Raises:
        FinedeficsError: the experiment or a sampled value does not fit, or every trial failed.
    """
    experiment = parse_experiment(document, place=search.name)
    for key in search.space:
        check_key(document, key, search.name)
    experiment = pin(workspace, experiment, open_dataset(workspace, experiment.data.dataset))
    document = experiment.model_dump(mode="json")
    key = f"{search.name}-{digest_of([search.model_dump(mode='json'), experiment.digest()])}"
    folder = workspace.local.searches / key
    finished = folder / "search.json"
    if force or not finished.is_file():
        ensure_ray()
        results = _tune(workspace, search, document, folder, progress)
        summary = _summary(search, results)
        summary["parent_run_id"] = _record(tracker, search, experiment, key, summary, workspace)
        finished.write_text(json.dumps(summary, indent=1, default=str))
    else:
        progress.event("skipped", search=key, reason="finished before")
    stored = json.loads(finished.read_text())
    if stored["best"] is None:
        finished.unlink()
        errors = [trial["error"] for trial in stored["trials"] if trial["error"]]
        raise FinedeficsError(
            f"no trial finished ({errors[0] if errors else 'none reported the metric ' + search.metric})",
            place=f"search {search.name}",
            cure="mend the experiment and run `finedefics tune` again",
        )
    return SearchResult(folder, stored["best"], stored["trials"], stored["parent_run_id"])


def check_key(document: Mapping[str, Any], key: str, place: str) -> None:
    """FinedeficsError (exit code 2) if the experiment, its defaults filled in, has no such key."""
    node: Any = parse_experiment(document, place=place).model_dump(mode="json")
    for part in key.split("."):
        children = dict(enumerate(node)) if isinstance(node, list) else node if isinstance(node, dict) else {}
        index = int(part) if isinstance(node, list) and part.isdigit() else part
        if index not in children:
            known = ", ".join(map(str, children)) or "a key that holds this value"
            raise wrong_use(
                f"unknown key `{key}`", place=f"{place}: space", cure=f"instead of `{part}` use: {known}"
            )
        node = children[index]


def _tune(
    workspace: Workspace, search: Search, document: Mapping[str, Any], folder: Path, progress: Progress
) -> Any:
    import optuna
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch

    from finedefics_platform.search.trial_watch import TrialWatch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    steps = sum(stage["steps"] for stage in document["stages"])
    trainable = tune.with_resources(
        tune.with_parameters(_trial, document=document, name=search.name, workspace=workspace), {"cpu": 0.5}
    )
    with progress.progress(f"search {search.name}: trials", search.trials) as advance:
        storage = str(folder.parent)
        if tune.Tuner.can_restore(str(folder / "tune")):
            tuner = tune.Tuner.restore(
                str(folder / "tune"), trainable, resume_unfinished=True, restart_errored=True
            )
        else:
            tuner = tune.Tuner(
                trainable,
                param_space={key: domain.sampler() for key, domain in search.space.items()},
                tune_config=tune.TuneConfig(
                    metric=search.metric,
                    mode=search.mode,
                    num_samples=search.trials,
                    search_alg=ConcurrencyLimiter(OptunaSearch(seed=search.seed), search.concurrent),
                    scheduler=ASHAScheduler(
                        time_attr="step", max_t=steps, grace_period=min(search.grace_steps, steps)
                    ),
                ),
                run_config=tune.RunConfig(
                    name=f"{folder.name}/tune",
                    storage_path=storage,
                    verbose=0,
                    callbacks=[TrialWatch(progress, advance)],
                ),
            )
        return tuner.fit()


def _trial(
    config: Mapping[str, Any], *, document: Mapping[str, Any], name: str, workspace: Workspace
) -> None:
    """One trial (a Tune actor): the experiment with the sampled values, trained as any other."""
    from ray import tune

    from finedefics_platform.evaluation.validation import validate_alignment
    from finedefics_platform.training.run import train

    experiment = trial_experiment(document, config, name)

    def report(event: Event) -> None:
        if event["event"] == "validation":
            tune.report({**event["metrics"], "step": event["total_step"]})

    train(workspace, experiment, validate=validate_alignment, listen=report)


def trial_experiment(document: Mapping[str, Any], config: Mapping[str, Any], name: str) -> Experiment:
    """The experiment of one trial."""
    changed = json.loads(json.dumps(document))
    changed["name"] = f"{name}-trial"
    for key, value in config.items():
        override(changed, key, value, place=f"search {name}")
    if (changed.get("adapters") or {}).get("kind") == "full":
        changed["adapters"] = {"kind": "full"}  # a space of both: what the others sample has no effect here
    return parse_experiment(changed, place=f"search {name}")


def _summary(search: Search, results: Any) -> dict[str, Any]:
    trials = []
    for result in results:
        metrics = result.metrics or {}
        trials.append(
            {
                "trial": metrics.get("trial_id", Path(result.path or "?").name),
                "config": result.config,
                "metric": metrics.get(search.metric),
                "step": metrics.get("step"),
                "error": str(result.error).splitlines()[-1] if result.error else None,
            }
        )
    longest = max((trial["step"] or 0 for trial in trials), default=0)
    for trial in trials:
        trial["stopped_early"] = bool(trial["step"]) and trial["step"] < longest
    ranked = [trial for trial in trials if trial["metric"] is not None and not trial["error"]]
    sign = 1 if search.mode == "max" else -1
    best = max(ranked, key=lambda trial: (sign * trial["metric"], trial["step"]), default=None)
    return {"name": search.name, "metric": search.metric, "mode": search.mode, "best": best, "trials": trials}


def _record(
    tracker: Tracker | None,
    search: Search,
    experiment: Experiment,
    key: str,
    summary: Mapping[str, Any],
    workspace: Workspace,
) -> str | None:
    """A parent run for the search and a child for each trial, with the curves its workers recorded."""
    if tracker is None:
        return None
    parent = tracker.parent(
        search.name,
        key=key,
        tags={"kind": "search"},
        params={"metric": search.metric, "trials": search.trials},
    )
    document = experiment.model_dump(mode="json")
    dataset = open_dataset(workspace, experiment.data.dataset)
    for trial in summary["trials"]:
        child = tracker.child(
            parent, f"trial {trial['trial']}", params=trial["config"], tags={"kind": "trial"}
        )
        tried = trial_experiment(document, trial["config"], search.name)
        for event in events_of(workspace, run_key(workspace, tried, dataset)):
            if event["event"] in ("step", "validation"):
                tracker.metrics(child, int(event["step"]), event["metrics"])
        tracker.finish(child, "FAILED" if trial["error"] else "FINISHED")
    if summary["best"]:
        tracker.metrics(parent, 0, {f"best_{search.metric}": summary["best"]["metric"]})
        tracker.tags(parent, {"best": json.dumps(summary["best"]["config"])})
    tracker.finish(parent)
    return parent
