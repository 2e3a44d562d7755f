"""A search as its user writes it: what is searched, over what, and by which figure."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from finedefics_platform.config.documents import override, override_by_text, read_yaml
from finedefics_platform.config.experiment import Experiment
from finedefics_platform.config.section import Section, parse_document
from finedefics_platform.search.space import Domain


class Search(Section):
    """What is searched, over what, and by which figure."""

    name: str = Field(pattern=r"^[a-z0-9_.-]+$", description="Begins the search's key (`<name>-<digest>`).")
    experiment: str = Field(description="Experiment file, relative to the search file.")
    set: dict[str, Any] = Field({}, description="Keys changed for all trials.")
    space: dict[str, Domain] = Field(min_length=1, description="Keys of the experiment and their values.")
    metric: str = Field("val_alignment", description="A figure of the validation check during training.")
    mode: Literal["max", "min"] = Field("max", description="Whether a higher or a lower metric is better.")
    trials: int = Field(4, ge=1, description="How many trials, each a training run of its own.")
    concurrent: int = Field(2, ge=1, description="Trials at a time; fewer where the cluster has less room.")
    grace_steps: int = Field(10, ge=1, description="Steps that no trial is stopped before.")
    seed: int = Field(0, description="Of the values that Optuna proposes; training has the experiment's.")


def load_search(path: str | Path, overrides: Iterable[str] = ()) -> tuple[Search, dict[str, Any]]:
    """Read a search file and the experiment it names (as a document, overrides applied).

    Args:
        overrides: ``a.b=c`` assignments, of keys of the experiment or of the search itself (``trials=20``;
            ``search.seed=1`` where both have such a key).

    Raises:
        FinedeficsError: a file is missing or a key is wrong (exit code 2).
    """
    written = read_yaml(path, "search")
    others = [assignment for assignment in overrides if not _set_in_search(written, assignment)]
    search = parse_document(Search, written, place=str(path))
    file = Path(path).parent / search.experiment
    experiment = read_yaml(file, "experiment")
    for key, value in search.set.items():
        override(experiment, key, value, place=str(path))
    for assignment in others:
        override_by_text(experiment, assignment)
    return search, experiment


def _set_in_search(document: dict[str, Any], assignment: str) -> bool:
    """Apply an assignment of the command line that is of the search itself; whether it was.

    `name` and `seed` are keys of both, and without `search.` before them the experiment's.
    """
    first = assignment.partition("=")[0].strip().partition(".")[0]
    if first == "search":
        override_by_text(document, assignment.strip().removeprefix("search."))
    elif first in Search.model_fields and first not in Experiment.model_fields:
        override_by_text(document, assignment)
    else:
        return False
    return True
