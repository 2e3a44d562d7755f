"""A starter experiment has what the data has, is valid, divides, and cannot run out of contrasts."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from bird_folder import encoded, put

from finedefics.errors import FinedeficsError
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.cli.main import main
from finedefics_platform.config.documents import parse_yaml
from finedefics_platform.config.experiment import Experiment, load_experiment, parse_experiment
from finedefics_platform.data.ingesting import ingest
from finedefics_platform.data.store import Dataset
from finedefics_platform.training.checks import check
from finedefics_platform.training.sharding import deepspeed_settings
from finedefics_platform.training.starter import Facts, Machine, starter_experiment
from finedefics_platform.training.stream import check_divides

LAPTOP, CARD, CARDS = Machine(2, 0), Machine(16, 1), Machine(128, 8)
FULL = Facts("parts", 20, 600, 600, 0.06, 200, 20, 16, {"val": 60, "test": 120})
PLAIN = replace(FULL, described=0, captioned=0, texts=0, mined=0)


def started(facts: Facts, machine: Machine = LAPTOP, model: str | None = None) -> Experiment:
    text = starter_experiment(facts, machine, model)
    return parse_experiment(parse_yaml(text, place="start"), place="start")


def test_everything_there_is_takes_part() -> None:
    made = started(FULL)
    (stage,) = made.stages
    assert set(stage.feeds) == {"labelled", "captioned", "text"}
    assert set(stage.terms) == {
        "answer",
        "caption",
        "text",
        "object_attribute",
        "attribute_category",
        "category_category",
    }
    assert (made.data.negatives, made.evaluation.split) == (3, "test")
    assert made.evaluation.every is not None


def test_without_descriptions_no_term_learns_from_them() -> None:
    made = started(PLAIN)
    (stage,) = made.stages
    assert set(stage.feeds) == {"labelled"}
    assert set(stage.terms) == {"answer", "category_category", "object_category"}
    assert made.data.negatives == 0
    assert "describe" not in made.evaluation.answers


def test_inferred_labels_are_learned_as_answers_where_there_are_some() -> None:
    text = starter_experiment(replace(FULL, inferred=150), LAPTOP)
    (stage,) = parse_experiment(parse_yaml(text, place="start"), place="start").stages
    assert stage.feeds["inferred"] == 8
    assert stage.term_feeds("answer") == ("labelled", "inferred")
    assert "# inferred: pictures without a label, learned by the name that was inferred for them" in text
    assert "150 without a label whose inferred one is sure enough" in text
    assert stage.terms["answer"].weight == 2, "1 for each feed, as in the recipe that did best"
    without = starter_experiment(FULL, LAPTOP)
    assert "inferred" not in without
    assert "finedefics data label parts --labeller reading:MODEL, then init anew" in without
    alone = started(replace(PLAIN, labelled=0, inferred=9)).stages[0]
    assert (alone.feeds, set(alone.terms)) == ({"inferred": 8}, {"answer"})


def test_a_dataset_with_inferred_labels_has_a_valid_start(
    inferred_dataset: Dataset, drawn_dataset: Dataset
) -> None:
    assert (Facts.of(drawn_dataset).inferred, Facts.of(inferred_dataset).inferred) == (0, 9)
    check(started(Facts.of(inferred_dataset)), inferred_dataset)


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (None, {"do_image_splitting": False}),
        ("Qwen/Qwen2.5-VL-7B-Instruct", {"max_pixels": 401408}),
        ("somebody/unheard-of", {}),
    ],
)
def test_the_picture_costs_what_its_family_needs(model: str | None, settings: dict[str, Any]) -> None:
    assert started(FULL, CARD, model).model.processor == settings


def test_negatives_and_splits_are_those_that_exist() -> None:
    assert started(replace(FULL, mined=2)).data.negatives == 2
    only_val = started(replace(FULL, held_out={"val": 9, "test": 0}))
    assert (only_val.evaluation.split, only_val.evaluation.every is None) == ("val", False)
    assert started(replace(FULL, held_out={"val": 0, "test": 9})).evaluation.every is None


def test_one_category_is_not_contrasted() -> None:
    made = started(replace(PLAIN, categories=1, largest=1.0))
    assert (set(made.stages[0].terms), made.data.negatives) == ({"answer"}, 0)


def test_nothing_to_learn_from_is_an_error() -> None:
    with pytest.raises(FinedeficsError, match="no training picture has a label or a description"):
        starter_experiment(replace(PLAIN, labelled=0), LAPTOP)


def test_rows_are_enough_for_a_contrast_in_every_step() -> None:
    two = replace(PLAIN, categories=2, largest=0.5)
    assert started(two).stages[0].feeds["labelled"] >= 28, "half of all pairs of rows are of one category"
    lopsided = started(replace(two, largest=0.99))
    assert set(lopsided.stages[0].terms) == {"answer"}
    few = started(replace(two, labelled=10))
    assert few.stages[0].feeds["labelled"] == 10, "all of them, in every step"


def test_descriptions_of_a_few_are_no_contrast_of_all() -> None:
    rare = started(replace(FULL, described=6, captioned=0, texts=0, mined=0))
    (stage,) = rare.stages
    assert "object_attribute" not in stage.terms
    assert {"caption", "object_category"} <= set(stage.terms)
    beside = started(replace(FULL, described=6)).stages[0]
    assert beside.term_feeds("object_attribute") == ("captioned",)
    assert beside.term_feeds("attribute_category") == ("text",)


@pytest.mark.parametrize(
    "machine", [LAPTOP, Machine(1, 0), CARD, CARDS], ids=["laptop", "one", "card", "cards"]
)
def test_it_is_valid_and_divides_whatever_there_is(machine: Machine) -> None:
    sizes = product((0, 1, 7, 50_000), (0, 0.3, 1), (0, 5), (0, 1, 12), (0, 4), (1, 2, 500))
    made = 0
    for labelled, share, captioned, texts, mined, categories in sizes:
        if not labelled + captioned or texts > categories:
            continue
        facts = Facts(
            "Parts.1",
            categories,
            labelled,
            round(share * labelled),
            min(1.0, 1.5 / categories),
            captioned,
            texts,
            mined,
            {"val": 0, "test": 3},
        )
        experiment = started(facts, machine)
        for stage in experiment.stages:
            check_divides(stage, experiment.resources.workers)
            deepspeed_settings(experiment, stage, experiment.resources.workers)
        assert experiment.resources.workers * experiment.resources.gpus_per_worker == machine.gpus
        made += 1
    assert made > 100


@pytest.mark.parametrize("name", ["1e5", "null", "no", "2024-01-01", "A.b_c"])
def test_a_name_that_yaml_would_read_otherwise_stays_a_name(name: str) -> None:
    assert started(replace(FULL, dataset=name)).data.dataset == name


def test_a_small_model_is_tuned_whole_and_its_path_survives(tmp_path: Path) -> None:
    folder = tmp_path / 'a "b" # c: d'
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"x")
    made = started(FULL, model=str(folder))
    assert (made.model.path, made.adapters.kind) == (str(folder), "full")
    assert started(FULL, model="hub/large").adapters.kind == "lora"


def test_the_command_writes_what_the_dataset_can_train(
    drawn_dataset: Dataset,
    drawn_workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: Any,
) -> None:
    monkeypatch.setenv("FINEDEFICS_HOME", str(drawn_workspace.root))
    monkeypatch.chdir(tmp_path)
    assert main(["init", "drawn"]) == 0
    assert "next: finedefics train drawn.yaml" in capfd.readouterr().out
    experiment = load_experiment("drawn.yaml")
    check(experiment, drawn_dataset, validating=True)
    assert experiment.stages[0].feeds["captioned"] <= 16
    before = Path("drawn.yaml").read_text()
    assert main(["init", "drawn", "--model", "other"]) == 2
    assert "drawn.yaml: this file is there already; add --force" in capfd.readouterr().err
    assert Path("drawn.yaml").read_text() == before
    assert main(["init", "drawn", "--model", "other", "--force"]) == 0
    assert load_experiment("drawn.yaml").model.path == "other"


def test_a_folder_is_found_by_what_was_made_of_it(
    ray_cluster: Any, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("FINEDEFICS_HOME", str(workspace.root))
    monkeypatch.chdir(tmp_path)
    for number in range(12):
        put(tmp_path / "pictures", f"{'ab'[number % 2]}/{number}.png", encoded(number))
    assert main(["init", "pictures"]) == 2
    error = capfd.readouterr().err
    assert "pictures: no dataset was made of this yet; make one: `finedefics data prepare" in error
    made = ingest(workspace, "parts", tmp_path / "pictures")
    assert main(["init", "pictures", "--output", "x.yaml"]) == 0
    experiment = load_experiment("x.yaml")
    assert (experiment.data.dataset, experiment.data.negatives) == ("parts", 0)
    check(experiment, made, validating=True)
