"""The trials of a search on Ray Tune: proposed by Optuna, stopped early by ASHA, restored after a crash."""

import logging
from collections.abc import Mapping
from typing import Any

import optuna
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch

from finedefics.errors import FinedeficsError
from finedefics_platform.base.progress import Progress
from finedefics_platform.base.storage import Location
from finedefics_platform.search.document import Search
from finedefics_platform.search.trial import RUN, STEP, Trial, TrialTask
from finedefics_platform.search.trial_watch import TrialWatch, watching

_STATE = "experiment_state-"  # begins the files without which Tune cannot go on


def run_trials(
    search: Search, task: TrialTask, steps: int, attempt: Location, progress: Progress
) -> list[dict[str, Any]]:
    """Run the trials, those that an interrupted driver left unfinished too; one mapping a trial.

    Args:
        steps: of a trial, over all stages.
        attempt: folder of Tune's state.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a failed trial says why in its place
    trainable = tune.with_resources(tune.with_parameters(Trial, task=task), _beside_the_driver())
    with (
        progress.progress(f"search {search.name}: trials", search.trials) as advance,
        watching(search, progress, advance),
    ):
        tuner = _restored(trainable, attempt) or _new(search, trainable, steps, attempt)
        results = tuner.fit()
        return [_row(results[i], search.metric) for i in range(len(results))]


def _beside_the_driver() -> tune.PlacementGroupFactory:
    """On this node: a trial drives its training as the driver of any run does, and records it from here."""
    here = ray.get_runtime_context().get_node_id()
    resources = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == here)
    node = next(name for name in resources if name.startswith("node:") and not name.startswith("node:__"))
    return tune.PlacementGroupFactory([{node: 0.001}])


def _restored(trainable: Any, attempt: Location) -> tune.Tuner | None:
    if not any(way.startswith(_STATE) for way in attempt.files()):
        return None
    return tune.Tuner.restore(
        attempt.path,
        trainable,
        resume_unfinished=True,
        # not restarted: that gives a trial another id, by which Optuna's search does not know it
        resume_errored=True,
        storage_filesystem=attempt.filesystem,
    )


def _new(search: Search, trainable: Any, steps: int, attempt: Location) -> tune.Tuner:
    return tune.Tuner(
        trainable,
        param_space={key: domain.sampler() for key, domain in search.space.items()},
        tune_config=tune.TuneConfig(
            metric=search.metric,
            mode=search.mode,
            num_samples=search.trials,
            search_alg=ConcurrencyLimiter(OptunaSearch(seed=search.seed), search.concurrent),
            scheduler=ASHAScheduler(time_attr=STEP, max_t=steps, grace_period=min(search.grace_steps, steps)),
        ),
        run_config=tune.RunConfig(
            name=attempt.name,
            storage_path=attempt.parent.path,
            storage_filesystem=attempt.filesystem,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a run keeps its own
            verbose=0,
            callbacks=[TrialWatch()],
        ),
    )


def _row(result: Any, metric: str) -> dict[str, Any]:
    """A trial as `search.json` has it."""
    metrics: Mapping[str, Any] = result.metrics or {}
    status = "failed" if result.error else "finished" if RUN in metrics else "stopped"
    return {
        "trial": metrics.get("trial_id") or str(result.path).rpartition("/")[2],
        "config": result.config,
        "metric": metrics.get(metric),
        "step": metrics.get(STEP),
        "status": status,
        "error": _reason(result.error) if result.error else None,
    }


def _reason(error: BaseException) -> str:
    """One line: of the mistake that a user can mend, if that ended the trial."""
    cause = getattr(error, "cause", error)
    if isinstance(cause, FinedeficsError):
        return str(cause)
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
