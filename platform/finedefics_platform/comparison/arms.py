"""One side of a comparison: a run, the base it began with, or an encoder, with all that is known of it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd

from finedefics_platform.base.content import model_digest
from finedefics_platform.base.events import Event
from finedefics_platform.base.storage import Location, fetch
from finedefics_platform.base.workspace import INSIDE, Workspace
from finedefics_platform.comparison.evaluations import (
    Found,
    Ground,
    Judged,
    best_ground,
    of_models,
    regrouped,
)
from finedefics_platform.config.experiment import Experiment, parse_experiment
from finedefics_platform.evaluation.items import Evaluated
from finedefics_platform.training.trained import EXPERIMENT, TrainedRun, events_of, finished, open_run

BASE = "base"
BEFORE = "the model before it was tuned"


@dataclass(frozen=True)
class Arm:
    """What is compared.

    Attributes:
        name: in tables and legends.
        what: the sentence that defines it.
        key: of the run, None for a base or an encoder.
        experiment: as it was trained.
        run: where its training is finished.
        judged: its evaluations on what all are compared on; None where it has none.
        events: of its training, finished or not.
        attempts: records of its drivers, oldest first.
    """

    name: str
    what: str
    key: str | None = None
    experiment: Experiment | None = None
    run: TrainedRun | None = None
    judged: Judged | None = None
    events: Sequence[Event] = ()
    attempts: Sequence[Mapping[str, Any]] = ()

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """Its recorded steps and checks on val, in order: stage, step and metrics."""
        kept = [event for event in self.events if event["event"] in ("step", "validation")]
        return [{key: event[key] for key in ("stage", "step", "metrics")} for event in kept]


@dataclass(frozen=True)
class Gathered:
    """Arms with what they were compared on.

    Attributes:
        arms: in the order asked for, the base before and encoders behind them.
        ground: what all evaluations are of; None where nothing was evaluated.
        elsewhere: evaluations of the runs on other grounds, which stand beside nothing here.
    """

    arms: tuple[Arm, ...]
    ground: Ground | None
    elsewhere: tuple[Found, ...] = ()

    @cached_property
    def frames(self) -> dict[str, pd.DataFrame]:
        """Items by arm, groups as the first run has them."""
        judged = {arm.name: arm.judged.frame for arm in self.arms if arm.judged is not None}
        leading = next((arm for arm in self.arms if arm.key and arm.judged), None)
        if leading is None or leading.judged is None:
            return judged
        frame = leading.judged.frame
        groups = dict(zip(frame["category_id"], frame["group"], strict=True))
        return {name: own if own is frame else regrouped(own, groups) for name, own in judged.items()}

    @property
    def runs(self) -> tuple[Arm, ...]:
        """The arms that are runs."""
        return tuple(arm for arm in self.arms if arm.key)


def gather(workspace: Workspace, places: Sequence[Location], found: Sequence[Found]) -> Gathered:
    """Runs with their evaluations, beside the base they began with and encoders on the same pictures.

    Args:
        places: folders of the runs, finished or not.
        found: all evaluations of the workspace, newest first.
    """
    arms = named_apart([_arm(workspace, place) for place in places])
    of_run = {arm.name: of_models(found, _digests(arm)) for arm in arms}
    bases = {arm.run.base for arm in arms if arm.run}
    ground = best_ground(of_run, of_models(found, bases) if len(bases) == 1 else ())
    if ground is None:
        return Gathered(tuple(arms), None)
    here = [one for one in found if one.ground == ground]

    def judged(digests: Collection[str]) -> Judged | None:
        own = of_models(here, digests)
        return Judged.of(own) if own else None

    filled = [replace(arm, judged=judged(_digests(arm))) for arm in arms]
    base = judged(bases) if len(bases) == 1 else None
    before = [Arm(BASE, BEFORE, judged=base)] if base and BASE not in of_run else []
    elsewhere = [one for own in of_run.values() for one in own if one.ground != ground]
    return Gathered((*before, *filled, *_encoders(here)), ground, tuple(elsewhere))


def with_evaluations(gathered: Gathered, evaluations: Mapping[str, Evaluated]) -> Gathered:
    """The arms judged by these evaluations alone: of a pipeline that made them itself."""
    arms = [
        replace(arm, judged=Judged((evaluations[arm.name],)))
        for arm in gathered.arms
        if arm.name in evaluations
    ]
    there = {arm.name for arm in arms}
    if BASE in evaluations and BASE not in there:
        arms.insert(0, Arm(BASE, BEFORE, judged=Judged((evaluations[BASE],))))
    ground = next((Found(one.place, one.summary).ground for one in evaluations.values()), None)
    return Gathered(tuple(arms), ground)


def _arm(workspace: Workspace, place: Location) -> Arm:
    experiment = parse_experiment((place / EXPERIMENT).read_json(), place=place.name)
    run = open_run(workspace, place.name) if finished(place) is not None else None
    events = events_of(workspace, place.name)
    return Arm(
        experiment.name,
        described(experiment),
        place.name,
        run.experiment() if run else experiment,
        run,
        None,
        events,
        run.attempts() if run else attempts_of(place),
    )


def attempts_of(place: Location) -> list[dict[str, Any]]:
    """Records of the drivers of a run's newest training, finished or not."""
    trainings = [child for child in place.children() if child.name.startswith("training-")]
    newest = max(trainings, key=lambda child: int(child.name.rpartition("-")[2]), default=None)
    return [record.read_json() for record in (newest / "attempts").children()] if newest else []


def described(experiment: Experiment) -> str:
    """An experiment in a sentence: stages with their steps, what feeds them, the weight of each loss."""
    said = []
    for stage in experiment.stages:
        feeds = ", ".join(f"{name} {rows}" for name, rows in stage.feeds.items())
        terms = ", ".join(f"{name} × {term.weight:g}" for name, term in stage.terms.items())
        said.append(f"{stage.name}, {stage.steps} steps (rows a step: {feeds}; losses: {terms})")
    kind = experiment.adapters.kind
    tuned = "all weights of " + ", ".join(experiment.model.train) if kind == "full" else f"{kind} adapters"
    return f"{'; then '.join(said)}. Tunes {tuned}; seed {experiment.seed}."


def shown_path(workspace: Workspace, path: str) -> str:
    """A model's path as it can be typed, without the place of the workspace."""
    if not path.startswith(INSIDE):
        return path
    root = ".finedefics" if workspace.root.name == ".finedefics" else "$FINEDEFICS_HOME"
    return f"{root}/{path.removeprefix(INSIDE)}"


def _digests(arm: Arm) -> set[str]:
    return {model_digest(fetch(arm.run.model))} if arm.run else set()


def _encoders(here: Sequence[Found]) -> list[Arm]:
    digests = dict.fromkeys(one.summary["model_digest"] for one in here if one.is_encoder)
    arms = []
    for number, digest in enumerate(digests, 1):
        judged = Judged.of(one for one in here if one.summary["model_digest"] == digest)
        name = f"encoder {number}" if len(digests) > 1 else "encoder"
        arms.append(Arm(name, f"a frozen encoder ({str(digest)[:80]}), on the same pictures", judged=judged))
    return arms


def named_apart(arms: Sequence[Arm]) -> list[Arm]:
    """Runs of one experiment are told apart by their seed, where that differs, else by their key."""
    named = []
    for arm in arms:
        same = [other for other in arms if other.name == arm.name]
        if len(same) == 1:
            named.append(arm)
            continue
        seeds = [other.experiment.seed for other in same if other.experiment]
        own = (
            f"seed {arm.experiment.seed}" if arm.experiment and len({*seeds}) == len(same) else arm.key or ""
        )
        named.append(replace(arm, name=f"{arm.name} ({own.removeprefix(f'{arm.name}-')[:8]})"))
    return named
