"""Steps that are done once, and results that are told, without a cluster: tasks here are fakes."""

import json
from dataclasses import dataclass, field, replace
from html import unescape
from typing import Any

import pytest

from finedefics.errors import FinedeficsError
from finedefics_platform.base.events import read_events
from finedefics_platform.base.progress import SILENT
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.study import execution
from finedefics_platform.study.document import Study
from finedefics_platform.study.execution import Capacity, Outcome, carry_out
from finedefics_platform.study.page import markdown, notes, study_page, verdict, write_pages
from finedefics_platform.study.plan import Cell, Plan
from finedefics_platform.study.result import summary
from finedefics_platform.study.statistics import holm, paired
from finedefics_platform.study.steps import Step

from .conftest import document_of


@dataclass
class Fake:
    kind: str = "data"
    found: dict[str, Any] = field(default_factory=dict)
    error: Exception | None = None
    times: int = 0

    def do(self, room: Any, advance: Any) -> dict[str, Any]:
        self.times += 1
        if self.error is not None:
            raise self.error
        return self.found


def evaluated(new: float, labelled: float) -> Fake:
    figures = {"new/names": new, "labelled/names": labelled, "all/names": (new + labelled) / 2}
    return Fake("evaluate", {"figures": figures})


FIGURES = {"base": [(0.25, 0.5), (0.5, 0.5), (0.4, 0.6)], "oracle": [(0.5, 1.0), (0.9, 0.7), (0.6, 0.6)]}


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "ensure_ray", lambda **_: None)
    monkeypatch.setattr(execution, "capacity", lambda at_once: Capacity(2, 0, 0, at_once=at_once))


def study_of(**changes: Any) -> Study:
    return Study.model_validate(document_of(**changes))


def fake_plan(study: Study, worlds: int = 3) -> Plan:
    """For each world data, training of the second arm and the figures of both."""
    steps: dict[str, Step] = {}
    cells = {}
    for world in range(worlds):
        figures = {"training/coverage": 0.5}
        found = {"run": f"r{world}", "forwarded_tokens": 1000.0 * (world + 1), "figures": figures}
        trained = Fake("train", found)
        steps[f"d{world}"] = Step(f"d{world}", f"data {world}", (), Fake())  # type: ignore[arg-type]
        steps[f"t{world}"] = Step(f"t{world}", "train", (f"d{world}",), trained)  # type: ignore[arg-type]
        for arm, needs in (("base", (f"d{world}",)), ("oracle", (f"d{world}", f"t{world}"))):
            address = f"{arm}{world}"
            task = evaluated(*FIGURES[arm][world])
            steps[address] = Step(address, address, needs, task)  # type: ignore[arg-type]
            cells[Cell("", arm, str(world), 0)] = (address, *needs[1:])
    return Plan(study, "digest", steps, cells, {})


def do(workspace: Workspace, plan: Plan) -> Outcome:
    return carry_out(workspace, plan, workspace.studies / plan.key, SILENT)


def times(plan: Plan) -> dict[str, int]:
    return {address: step.task.times for address, step in plan.steps.items()}  # type: ignore[union-attr]


def test_what_is_finished_is_not_done_again(workspace: Workspace) -> None:
    plan = fake_plan(study_of())
    first = do(workspace, plan)
    assert (first.done, first.reused, first.failed) == (12, 0, {})
    assert set(times(plan).values()) == {1}
    again = do(workspace, plan)
    assert (again.done, again.reused) == (0, 12)
    assert set(times(plan).values()) == {1}
    assert again.records == first.records


def test_a_failed_step_stops_those_that_rest_on_it_and_no_others(workspace: Workspace) -> None:
    plan = fake_plan(study_of())
    plan.steps["t1"].task.error = FinedeficsError("no [room]", place="disk", cure="make some")  # type: ignore[union-attr]
    outcome = do(workspace, plan)
    assert outcome.failed.keys() == {"t1", "oracle1"}
    assert len(set(outcome.failed.values())) == 1
    assert outcome.done == 10
    told = summary(plan, outcome)
    assert [(f["arm"], f["world"]) for f in told["failed"]] == [("oracle", "1")]
    assert "no [room]" in told["failed"][0]["error"]
    (row,) = [row for row in told["differences"] if row["planned"]]
    assert (row["n"], row["missing"]) == (2, ["1"])
    assert any("new/names: without 1" in note for note in notes(told))
    events = [e["event"] for e in read_events(workspace.studies / plan.key / "events")]
    assert (events.count("step_finished"), events.count("step_failed")) == (10, 2)
    plan.steps["t1"].task.error = None  # type: ignore[union-attr]
    mended = do(workspace, plan)
    assert (mended.done, mended.reused, mended.failed) == (2, 10, {})


def test_steps_run_beside_each_other_as_far_as_there_is_room() -> None:
    small = Step("a", "a", (), Fake())  # type: ignore[arg-type]
    other, large = replace(small, address="b"), replace(small, address="c", cpus=9)
    room = Capacity(2, 0, 1)
    assert room.fits(large), "what is larger than everything runs alone"
    room.take(small)
    assert room.fits(other)
    assert not room.fits(large)
    training = Step("t", "t", (), Fake("train"))  # type: ignore[arg-type]
    assert not room.fits(training), "it leaves a CPU for reading"
    room.give_back(small)
    assert room.fits(training)
    room = Capacity(2, 0, 0, at_once=1)
    room.take(small)
    assert not room.fits(other)


def test_the_result_tells_planned_and_exploratory_differences(workspace: Workspace) -> None:
    names = [("new/names"), ("labelled/names")]
    study = study_of(comparisons=[{"arm": "oracle", "against": "base", "metric": m} for m in names])
    plan = fake_plan(study)
    told = summary(plan, do(workspace, plan))
    assert told == json.loads(json.dumps(told))
    assert (told["study"], told["worlds"]) == ("small", ["0", "1", "2"])
    assert told["arms"]["base"]["new/names"]["mean"] == pytest.approx(1.15 / 3)
    assert told["figures"]["oracle"]["0"]["harmonic/names"] == pytest.approx(2 / 3)
    planned = [row for row in told["differences"] if row["planned"]]
    assert [row["metric"] for row in planned] == names
    assert [row["holm"] for row in planned] == pytest.approx(holm([row["p"] for row in planned]))
    wanted = paired([0.5, 0.9, 0.6], [0.25, 0.5, 0.4])
    assert (planned[0]["mean"], planned[0]["low"]) == pytest.approx((wanted.mean, wanted.low))
    others = [row for row in told["differences"] if not row["planned"]]
    assert [row["metric"] for row in others] == ["all/names", "harmonic/names"]
    assert all(row["holm"] is None and row["p"] is not None for row in others)
    assert told["tokens"] == {"base": None, "oracle": 2000.0}
    assert told["arms"]["oracle"]["training/coverage"]["mean"] == 0.5
    assert "training/coverage" not in told["arms"]["base"]


def test_an_arm_is_compared_with_itself_by_another_metric(workspace: Workspace) -> None:
    one = {"arm": "oracle", "against": "oracle", "metric": "new/names", "against_metric": "labelled/names"}
    plan = fake_plan(study_of(comparisons=[one]))
    (row,) = [row for row in summary(plan, do(workspace, plan))["differences"] if row["planned"]]
    wanted = paired([0.5, 0.9, 0.6], [1.0, 0.7, 0.6])
    assert (row["mean"], row["low"], row["n"]) == pytest.approx((wanted.mean, wanted.low, 3))
    assert row["against"] == "oracle (labelled/names)"


def test_one_world_says_that_it_has_no_interval(workspace: Workspace) -> None:
    plan = fake_plan(study_of(), worlds=1)
    told = summary(plan, do(workspace, plan))
    assert {row["low"] for row in told["differences"]} == {None}
    page = markdown(told)
    assert "none: one pair" in page
    assert "One world: there is no interval" in page


def test_pages_have_all_figures_and_escape_what_users_wrote(workspace: Workspace) -> None:
    plan = fake_plan(study_of(question="Is a < b & <script>?", limits="Much."))
    told = summary(plan, do(workspace, plan))
    place = workspace.studies / plan.key
    write_pages(told, place)
    page, text = (place / "study.html").read_text(), (place / "study.md").read_text()
    assert "<script>?" not in page
    assert "Is a &lt; b &amp; &lt;script&gt;?" in page
    for shown in (page, text):
        for part in ("66.7", "+28.3", "2,000", "Exploratory", "Much."):
            assert part in shown, part
    assert "| base |" in text


def test_the_verdict_stands_first_and_says_no_more_than_the_intervals(workspace: Workspace) -> None:
    one = {"arm": "oracle", "against": "base", "metric": "new/names"}
    told = summary(plan := fake_plan(study_of(comparisons=[one])), do(workspace, plan))
    (row,) = [row for row in told["differences"] if row["planned"]]
    said = verdict({**told, "differences": [{**row, "low": -0.1, "holm": 0.4}]})
    assert said[0].startswith(
        "Of 1 planned comparisons 0 have a 95 % interval without 0, and 0 are significant"
    )
    assert len(said) == 2, "there is no largest difference to speak of"
    sure = {**told, "differences": [{**row, "low": 0.1, "holm": 0.01}]}
    assert "Of 1 planned comparisons 1 have a 95 % interval without 0, and 1 are" in verdict(sure)[0]
    assert "The largest: oracle is 28.3 points above base in new/names" in verdict(sure)[1]
    page, lead = study_page(sure)
    head = unescape(page[: page.index("<main")])
    assert all(sentence in head for sentence in lead)
    assert head.index('href="#planned"') < head.index('href="#figures"')
    assert verdict({**told, "differences": []}) == [
        "No comparison was planned: every difference below is exploratory."
    ]
