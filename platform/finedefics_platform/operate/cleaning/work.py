"""What evaluations, training runs and searches leave over, cut off or finished."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from finedefics_platform.base.storage import Location, committed, holder
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.operate.cleaning.finding import Dispensable, held
from finedefics_platform.training.trained import left_over

_STATES = ("tune-", "anew-")  # begin the names of Ray Tune's folders


def evaluations(workspace: Workspace, older_than: timedelta) -> Iterator[Dispensable]:
    """Parts of evaluations that nobody makes."""
    for place in workspace.evaluation_parts.children():
        claims = workspace.evaluation_lease(place.name)
        if holder(claims) is not None:
            continue
        size, age = held(place)
        if committed(workspace.evaluations / place.name) is not None:
            why = "left over: the evaluation is finished"
        elif age >= older_than:
            why = "the evaluation was cut off"
        else:
            continue
        yield Dispensable(place, "evaluation", size, age, why, _about(place), claims)


def trainings(workspace: Workspace) -> Iterator[Dispensable]:
    """Checkpoints and older trainings of runs whose driver was killed after the result stood."""
    for run in workspace.runs.children():
        places = left_over(run)
        if not places or holder(run / "lease") is not None:
            continue
        for place in places:
            size, age = held(place)
            why = "left over: the run is finished"
            yield Dispensable(place, "training", size, age, why, {"run": run.name}, run / "lease")


def searches(workspace: Workspace) -> Iterator[Dispensable]:
    """Ray Tune's state of finished searches; one that starts over after the result is not left over."""
    for search in workspace.searches.children():
        result = search / "search.json"
        if not result.is_file() or holder(search / "lease") is not None:
            continue
        for place in search.children():
            if not place.name.startswith(_STATES):
                continue
            size, age = held(place)
            if place.held()[1] is None or place.held()[1] <= result.modified():  # type: ignore[operator]
                why = "left over: the search is finished"
                yield Dispensable(place, "search", size, age, why, {"search": search.name}, search / "lease")


def _about(place: Location) -> dict[str, Any]:
    try:
        told: dict[str, Any] = (place / "about.json").read_json()
    except (FileNotFoundError, ValueError):
        return {}
    return told
