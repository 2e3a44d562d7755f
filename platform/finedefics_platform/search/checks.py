"""What would fail in every trial, or flatter some, is found before the first one starts."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from finedefics.errors import FinedeficsError, wrong_use
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.experiment import Experiment
from finedefics_platform.data.store import Dataset, open_dataset
from finedefics_platform.search.document import Search
from finedefics_platform.search.space import Domain, check_key, trial_experiment

NEGATIVES = "data.negatives"
DATA = "data.dataset"
# Keys of a space that decide which figures a validation check can report.
_DECIDING = (DATA, "evaluation.every", "evaluation.limit")


def check_search(workspace: Workspace, search: Search, document: Mapping[str, Any]) -> None:
    """Refuse a search whose trials would fail or be padded.

    Raises:
        FinedeficsError: a key or value does not fit the experiment, more hard negatives are asked than were
            mined, or no validation check can report the metric.
    """
    for key, domain in search.space.items():
        check_key(document, key, search.name)
        for value in domain.extremes():
            trial_experiment(document, {key: value}, search.name)
    _check_negatives(workspace, search, document)
    _check_metric(workspace, search, document)


def _check_negatives(workspace: Workspace, search: Search, document: Mapping[str, Any]) -> None:
    """More negatives than mined are padded with masked rows: equal trials under different labels."""
    if NEGATIVES not in search.space:
        return
    asked = max(search.space[NEGATIVES].extremes())
    for experiment in _variants(search, document, (DATA,)):
        dataset = open_dataset(workspace, experiment.data.dataset)
        mined = dataset.mined_negatives()
        if asked > mined:
            raise wrong_use(
                f"{asked} hard negatives a sample are asked, {mined} were mined",
                place=f"{search.name}: space: {NEGATIVES}",
                cure=f"mine more (`finedefics data mine {dataset.name} --keep {asked}`), or ask for fewer",
            )


def _check_metric(workspace: Workspace, search: Search, document: Mapping[str, Any]) -> None:
    reported: set[str] = set()
    for experiment in _variants(search, document, _DECIDING):
        if experiment.evaluation.every is not None:
            dataset = open_dataset(workspace, experiment.data.dataset)
            reported |= reportable(dataset, experiment)
    if not reported:
        raise wrong_use(
            "no trial would be judged: nothing is checked during training",
            place=f"{search.name}: metric {search.metric}",
            cure="set evaluation.every, in steps",
        )
    if search.metric not in reported:
        raise wrong_use(
            f"no validation check reports `{search.metric}` on this data",
            place=f"{search.name}: metric",
            cure=f"use one of: {', '.join(sorted(reported))}",
        )


def _variants(search: Search, document: Mapping[str, Any], keys: tuple[str, ...]) -> Iterator[Experiment]:
    """The experiment with every combination of what the space says of some keys."""
    chosen: dict[str, Domain] = {key: search.space[key] for key in keys if key in search.space}
    for values in product(*(domain.extremes() for domain in chosen.values())):
        yield trial_experiment(document, dict(zip(chosen, values, strict=True)), search.name)


def reportable(dataset: Dataset, experiment: Experiment) -> set[str]:
    """Figures that `validate_alignment` reports on a dataset: they depend on what its pictures show.

    Raises:
        FinedeficsError: the split val has no labelled picture.
    """
    rows = dataset.table("samples", ["split", "category_id"]).to_pylist()
    shown = [row["category_id"] for row in rows if row["split"] == "val" and row["category_id"] is not None]
    if not shown:
        raise FinedeficsError(
            "no labelled picture in the split val",
            place=dataset.reference,
            cure="add a val split: a search is judged on it",
        )
    limit = experiment.evaluation.limit
    stride = max(1, len(shown) // limit) if limit else 1
    learns_labels = any("labelled" in stage.feeds for stage in experiment.stages)
    labelled = dataset.labelled_category_ids() if learns_labels else set()
    known = {category in labelled for category in shown[::stride][:limit]}
    kinds = {True: "val_alignment_labelled", False: "val_alignment_new"}
    return {"val_alignment", *(kinds[each] for each in known)}
