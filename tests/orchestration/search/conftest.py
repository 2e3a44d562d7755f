"""One small search, shared: of its trials one wins, one falls behind and one is never judged."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.store import Dataset
from finedefics_platform.search.document import Search
from finedefics_platform.search.run import SearchResult, run_search
from finedefics_platform.tracking.tracker import Tracker

STEPS = (2, 18)  # of the two stages
# The rate is so low that figures are those of the untrained model, which depend on the pictures looked at:
# of labelled species, two pictures have one and it is named, three have two and none is, one has none.
STAGE: dict[str, Any] = {
    "warmup_steps": 1,
    "learning_rate": 1e-9,
    "feeds": {"labelled": 2},
    "terms": {"answer": 1},
}


def document_of(model: Path | str, **changes: Any) -> dict[str, Any]:
    """An experiment of two stages, checked every two steps."""
    stages = [{**STAGE, "name": name, "steps": steps} for name, steps in zip("ab", STEPS, strict=True)]
    return {
        "name": "one",
        "data": {"dataset": "drawn", "negatives": 2},
        "model": {"path": str(model)},
        "resources": {"workers": 1},
        "evaluation": {"every": 2},
        "stages": stages,
        **changes,
    }


def search_of(**changes: Any) -> Search:
    """The seed makes the order of its proposals 2, 1, 3: the last starts when the first is past its trial."""
    settings = {
        "name": "small",
        "experiment": "one.yaml",
        "space": {"evaluation.limit": {"choice": [1, 2, 3]}},
        "metric": "val_alignment_labelled",
        "trials": 3,
        "concurrent": 2,
        "grace_steps": 2,
        "seed": 1,
    }
    return Search.model_validate({**settings, **changes})


@dataclass(frozen=True)
class Found:
    workspace: Workspace
    search: Search
    result: SearchResult
    document: dict[str, Any]

    def trial(self, limit: int) -> dict[str, Any]:
        """The one that looked at so many pictures."""
        return next(t for t in self.result.trials if t["config"]["evaluation.limit"] == limit)


@pytest.fixture(
    scope="session",
    # by Ray Train as well, which in every trial takes longer to start than the trial takes
    params=[0, pytest.param(1, marks=pytest.mark.slow)],
    ids=["alone", "Ray Train"],
)
def found(
    request: pytest.FixtureRequest,
    ray_cluster: Any,
    drawn_workspace: Workspace,
    drawn_dataset: Dataset,
    tiny_model: Path,
) -> Found:
    tracker = Tracker(drawn_workspace, "searches")
    document = document_of(tiny_model, resources={"workers": request.param})
    search = search_of(name=f"small-{request.param}")
    result = run_search(drawn_workspace, search, document, tracker=tracker)
    return Found(drawn_workspace, search, result, document)
