"""What is found before the first trial starts, and what makes two searches one."""

from pathlib import Path
from typing import Any

import pytest

from finedefics.errors import FinedeficsError
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.store import Dataset
from finedefics_platform.search.checks import check_search, reportable
from finedefics_platform.search.document import load_search
from finedefics_platform.search.run import longest, run_search, search_key
from finedefics_platform.search.space import trial_experiment
from finedefics_platform.training.run import run_key

from .conftest import STEPS, document_of, search_of

NEGATIVES = {"data.negatives": {"choice": [0, 2, 9]}}
UNUSED = {"data.negatives": {"choice": [0, 2]}}


@pytest.mark.parametrize(
    ("changes", "experiment", "message"),
    [
        ({"space": NEGATIVES}, {}, "9 hard negatives a sample are asked, 5 were mined"),
        ({"space": {"data.negatives": {"integers": [1, 6]}}}, {}, "6 hard negatives .*, 5 were mined"),
        ({"metric": "val_names"}, {}, "no validation check reports `val_names`.*use one of: val_alignment, "),
        ({"space": UNUSED}, {"evaluation": {"every": 2, "limit": 1}}, "reports `val_alignment_labelled`"),
        ({"space": UNUSED}, {"evaluation": {}}, "nothing is checked during training; set evaluation.every"),
        ({"space": {"data.negative": {"choice": [1]}}}, {}, "unknown key `data.negative`"),
        ({"space": {"seed": {"choice": [1, "one"]}}}, {}, "`seed` is wrong"),
    ],
)
def test_a_search_that_could_not_be_judged_never_starts(
    drawn_workspace: Workspace,
    drawn_dataset: Dataset,
    tiny_model: Path,
    changes: dict[str, Any],
    experiment: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(FinedeficsError, match=message) as refused:
        run_search(drawn_workspace, search_of(**changes), document_of(tiny_model, **experiment))
    assert refused.value.exit_code == 2


def test_a_value_of_the_space_may_be_what_makes_the_metric_reportable(
    drawn_workspace: Workspace, drawn_dataset: Dataset, tiny_model: Path
) -> None:
    document = document_of(tiny_model, evaluation={"every": 2, "limit": 1})
    assert reportable(drawn_dataset, trial_experiment(document, {}, "small")) == {
        "val_alignment",
        "val_alignment_new",
    }
    check_search(drawn_workspace, search_of(), document)  # one of its limits is 2


def test_a_search_is_what_it_searches_and_what_it_is_judged_by(
    drawn_workspace: Workspace, drawn_dataset: Dataset, tiny_model: Path
) -> None:
    def key(document: dict[str, Any] | None = None, **changes: Any) -> str:
        return search_key(drawn_workspace, search_of(**changes), document or document_of(tiny_model))

    same = [
        key(),
        key(concurrent=1),
        key(experiment="moved/one.yaml"),
        key(document_of(tiny_model, resources={"workers": 2}, deepspeed={"zero_stage": 2})),
    ]
    assert len(set(same)) == 1
    others = [
        key(metric="val_alignment"),
        key(trials=4),
        key(seed=2),
        key(grace_steps=4),
        key(space={"evaluation.limit": {"choice": [3, 2]}}),
        key(document_of(tiny_model, evaluation={"every": 2, "limit": 6})),
        key(document_of(tiny_model, evaluation={"every": 4})),
        key(document_of(tiny_model, seed=1)),
    ]
    assert len({same[0], *others}) == len(others) + 1


def test_a_trial_judged_by_other_pictures_is_another_run(
    drawn_workspace: Workspace, drawn_dataset: Dataset, tiny_model: Path
) -> None:
    keys = {
        run_key(
            drawn_workspace,
            trial_experiment(document_of(tiny_model), {"evaluation.limit": limit}, "small"),
            drawn_dataset,
        )
        for limit in (2, 3)
    }
    assert len(keys) == 2


def test_the_search_of_the_demo_can_be_read() -> None:
    from finedefics_platform.demo.journey import HERE

    search, document = load_search(HERE / "search.yaml")
    filled = {**document, "data": {"dataset": "birds"}, "model": {"path": "base"}}
    for key, domain in search.space.items():
        for value in domain.extremes():
            trial_experiment(filled, {key: value}, search.name)


def test_the_scheduler_counts_to_the_longest_trial_of_the_space(tiny_model: Path) -> None:
    assert longest(search_of(), document_of(tiny_model)) == sum(STEPS)
    space = {"stages.0.steps": {"integers": [2, 50]}, "stages.0.warmup_steps": {"choice": [0, 1]}}
    assert longest(search_of(space=space), document_of(tiny_model)) == 50 + STEPS[1]
