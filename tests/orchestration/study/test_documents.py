"""What a study file may not say, and how its steps are shared and addressed."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from finedefics.errors import FinedeficsError
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.section import parse_document
from finedefics_platform.study.document import Study, load_study
from finedefics_platform.study.plan import Cell, Plan, plan

from .conftest import EXPERIMENT, SMALL, document_of


def compared(**changes: Any) -> dict[str, Any]:
    return {"comparisons": [{"arm": "oracle", "against": "base", "metric": "new/names", **changes}]}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (compared(metric="labels/names"), "comparisons.0: there is no figure of labels 'names'"),
        (compared(against_condition="c"), "comparisons.0: there is no condition 'c'"),
        (
            {"conditions": {"c": {}}, **compared(against_condition="c")},
            "comparisons.0: `against_condition` needs a `condition`",
        ),
        ({"arms": {"a": {"train": False, "labels": "truth"}}, "comparisons": []}, "arm a measures labels"),
        (compared(arm="other"), "comparisons.0: there is no arm 'other' .there are base, oracle."),
        (compared(against="other"), "comparisons.0: there is no arm 'other'"),
        (compared(metric="old/names"), "comparisons.0: there is no group 'old'"),
        (compared(metric="new/alignment"), "comparisons.0: there is no answer 'alignment'"),
        (compared(condition="other"), "comparisons.0: there is no condition 'other' .there are none."),
        (compared(against="oracle"), "comparisons.0: oracle is compared with itself"),
        (compared(against_metric="new/alignment"), "comparisons.0: there is no answer 'alignment'"),
        ({"arms": {}}, "`arms` is wrong"),
        ({"set": {"data.dataset": "d"}}, "set changes data.dataset: arms that differ in data are not"),
        ({"set": {"model": {}}}, "set changes model: arms that differ in base model are not paired"),
        ({"arms": {"a": {"set": {"seed": 1}}}}, "arms.a.set changes seed: arms that differ in seed are not"),
        (
            {"arms": {"a": {"labels": "inferred"}}},
            "arm a takes inferred labels, and the study has no `label`",
        ),
        ({"arms": {"a": {"train": False, "set": {"name": "b"}}}}, "arm a is not trained"),
        ({"experiment": None}, "arm oracle has no experiment"),
        ({"seeds": [0, 0]}, "a value of `seeds` stands there twice"),
        ({"worlds": {"seeds": [1, 1]}}, "a value of `worlds.seeds` stands there twice"),
        ({"worlds": None}, "give either `worlds` or `datasets`"),
        ({"worlds": None, "datasets": ["d"]}, "`datasets` need a `model`"),
        ({"worlds": None, "datasets": ["d", "d"], "model": "m"}, "a value of `datasets` stands there twice"),
        ({"worlds": None, "datasets": ["d"], "model": "m"}, "arm oracle takes the truth"),
        ({"model": "m"}, "worlds have base models of their own"),
        ({"mystery": 1}, "unknown key `mystery`"),
    ],
)
def test_a_wrong_study_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(FinedeficsError, match=reason) as refusal:
        parse_document(Study, document_of(**changes), place="small.yaml")
    assert refusal.value.exit_code == 2


@pytest.mark.parametrize("section", [{"data": {"dataset": "birds"}}, {"model": {"path": "base"}}])
def test_an_experiment_that_names_its_own_data_or_model_is_refused(
    tmp_path: Path, section: dict[str, Any]
) -> None:
    (tmp_path / "one.yaml").write_text(yaml.safe_dump({**EXPERIMENT, **section}))
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(document_of()))
    with pytest.raises(FinedeficsError, match=f"the experiment names its own {next(iter(section))}"):
        load_study(tmp_path / "small.yaml")


@pytest.mark.parametrize(("change", "reason"), [({"test": -1}, "`test`"), ({"tset": 1}, "tset")])
def test_a_condition_that_no_world_has_is_refused(
    workspace: Workspace, change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(FinedeficsError, match=f"conditions.c.*{reason}") as refusal:
        planned(workspace, conditions={"c": change})
    assert refusal.value.exit_code == 2


def planned(workspace: Workspace, experiment: dict[str, Any] = EXPERIMENT, **changes: Any) -> Plan:
    study = Study.model_validate(document_of(**changes))
    trained = {name: experiment for name, arm in study.arms.items() if arm.train}
    return plan(workspace, study, trained)


def test_arms_share_what_is_equal(workspace: Workspace) -> None:
    found = planned(workspace)
    kinds = [step.kind for step in found.steps.values()]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "data": 2,
        "base": 2,
        "evaluate": 4,
        "label": 2,
        "train": 2,
    }
    assert {found.uses[a] for a, step in found.steps.items() if step.kind in ("data", "base")} == {2}
    places = {address: place for place, address in enumerate(found.steps)}
    assert all(places[need] < places[step.address] for step in found.steps.values() for need in step.needs)
    same = {"a": {"labels": "truth"}, "b": {"labels": "truth"}}
    twice = planned(workspace, arms=same, comparisons=[])
    assert sum(step.kind == "train" for step in twice.steps.values()) == 2
    assert len(twice.cells) == 4


def test_labels_are_held_against_the_truth_beside_the_training_or_alone(workspace: Workspace) -> None:
    label = {"labeller": "reading:{base}", "precision": 0.8}
    arms = {"alone": {"train": False, "labels": label}, "trained": {"labels": label}}
    found = planned(workspace, arms=arms, comparisons=[])
    kinds = {
        arm: [type(found.steps[address].task).__name__ for address in found.cells[Cell("", arm, "0", 0)]]
        for arm in arms
    }
    assert kinds == {"alone": ["Judge"], "trained": ["Evaluate", "Judge", "Train"]}
    assert kinds_of(found, set(found.steps)).count("label") == 4, "both take the same labels, in two worlds"


def test_addresses_are_of_what_goes_in(workspace: Workspace) -> None:
    found = planned(workspace)
    renamed = planned(workspace, name="other", question="why?", limits="none")
    assert renamed.steps.keys() == found.steps.keys()
    assert (renamed.digest, renamed.key) == (found.digest, f"other-{found.digest}")
    longer = deepcopy(EXPERIMENT)
    longer["stages"][0]["steps"] = 3
    changed = planned(workspace, longer)
    assert kinds_of(changed, changed.steps.keys() - found.steps.keys()) == ["evaluate"] * 2 + ["train"] * 2
    more = planned(workspace, worlds={"seeds": [0, 1], "settings": {**SMALL, "test": 3}})
    assert kinds_of(more, more.steps.keys() & found.steps.keys()) == ["base"] * 2, "texts are the same"
    assert len({found.digest, changed.digest, more.digest}) == 3


def kinds_of(found: Plan, addresses: set[str]) -> list[str]:
    return sorted(found.steps[address].kind for address in addresses)


def test_labels_that_wait_for_their_own_arm_are_refused(workspace: Workspace) -> None:
    arms = {"a": {"labels": {"labeller": "alignment:{b}"}}, "b": {"labels": {"labeller": "reading:{a}"}}}
    with pytest.raises(FinedeficsError, match=r"its labels wait for its own model .a → b → a"):
        planned(workspace, arms=arms, comparisons=[])
    with pytest.raises(FinedeficsError, match="there is no arm 'c'"):
        planned(workspace, arms={"a": {"labels": {"labeller": "alignment:{c}"}}}, comparisons=[])
