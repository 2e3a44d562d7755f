"""The experiments under jobs/experiments: valid as they stand, shared out evenly over their workers."""

from pathlib import Path

import pytest

from finedefics_platform.config.experiment import Experiment, load_experiment
from finedefics_platform.training.sharding import deepspeed_settings
from finedefics_platform.training.stream import check_divides

EXPERIMENTS = sorted((Path(__file__).parents[3] / "jobs/experiments").glob("*.yaml"))
CARDS = {"released-8gpu-qlora": 8, "one-gpu": 1, "eight-gpu": 8, "sixty-four-gpu": 64}


@pytest.fixture(params=EXPERIMENTS, ids=lambda file: file.stem)
def experiment(request: pytest.FixtureRequest) -> Experiment:
    return load_experiment(request.param)


def test_every_experiment_is_there() -> None:
    assert {file.stem for file in EXPERIMENTS} == set(CARDS)


def test_an_experiment_is_named_like_its_file_and_asks_for_the_cards_it_names(experiment: Experiment) -> None:
    assert experiment.resources.workers * experiment.resources.gpus_per_worker == CARDS[experiment.name]


def test_every_worker_gets_as_many_rows_and_settings_that_deepspeed_takes(experiment: Experiment) -> None:
    for stage in experiment.stages:
        check_divides(stage, experiment.resources.workers)
        deepspeed_settings(experiment, stage, experiment.resources.workers)


def test_the_released_schedule_is_the_published_one() -> None:
    released = load_experiment(EXPERIMENTS[[file.stem for file in EXPERIMENTS].index("released-8gpu-qlora")])
    for stage in released.stages:
        assert (stage.steps, stage.warmup_steps, stage.weight_decay) == (602, 60, 0.01)
        assert stage.final_learning_rate == 0
    align, instruct = released.stages
    weights = {name: term.weight for name, term in align.terms.items()}
    contrast = ("object_attribute", "attribute_category", "category_category")
    assert weights == {"answer": 1, **dict.fromkeys(contrast, 0.5)}
    assert sum(align.feeds.values()) == 64
    # one open and one closed question a picture
    assert sum(instruct.feeds.values()) * len(instruct.terms) == 128
