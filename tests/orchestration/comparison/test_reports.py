"""`finedefics report`: what is gathered of runs, searches and evaluations, and what the page says of them."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from registered import trained_run
from reported import NAMES, PICTURES, RIGHT, evaluated, workspace_of_runs

from finedefics.errors import FinedeficsError
from finedefics.evaluation import NOT_SHOWN, paired_difference
from finedefics_platform.base.content import model_digest
from finedefics_platform.base.storage import fetch
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.cli.main import main
from finedefics_platform.comparison.making import Made, gathered_runs, make_report
from finedefics_platform.comparison.reports import report_of
from finedefics_platform.comparison.subjects import find_subject
from finedefics_platform.data.store import open_dataset
from finedefics_platform.reporting.report import ReportData, render_report
from finedefics_platform.tracking.mlflow_client import open_client
from finedefics_platform.tracking.runs import get_run
from finedefics_platform.training.trained import TrainedRun


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = open_workspace(tmp_path_factory.mktemp("reported"))
    workspace_of_runs(workspace)
    return workspace


def data_of(workspace: Workspace, *names: str, **more: Any) -> ReportData:
    subjects = [find_subject(workspace, name) for name in names]
    return report_of(workspace, gathered_runs(workspace, subjects), **more)


def embedded(made: Made) -> dict[str, Any]:
    """The page's own data."""
    found = re.search(r'id="mistakes-data">(.*?)</script>', made.text, re.DOTALL)
    assert found is not None
    return dict(json.loads(found[1]))


def test_a_run_stands_beside_the_base_it_began_with(home: Workspace) -> None:
    data = data_of(home, "joint")
    assert list(data.table) == ["base", "joint"]
    new, labelled = (data.table["joint"]["alignment"][group] for group in ("new", "labelled"))
    assert (new["accuracy"], new["n"]) == (RIGHT["joint"][1] / PICTURES, 2 * PICTURES)
    assert labelled["n"] == 4 * PICTURES
    assert set(data.embeddings) == {"base", "joint"}
    assert data.retrieval["base"]["object_to_name"] == 0.25
    assert len(data.histories["joint"]) == 20
    assert set(data.experiments) == {"joint"}
    assert "object_attribute × 0.5" in data.arms["joint"]


def test_the_verdict_is_three_sentences_with_their_intervals(home: Workspace) -> None:
    said = [one for one in data_of(home, "joint").verdict if not one.startswith(NOT_SHOWN)]
    assert len(said) == 3
    assert said[0].startswith(
        "The run joint names pictures of categories it never had a label for with 87.5 %"
    )
    # of 16 pictures of new categories 14 are right, of the base's 4: ten are gained and none is lost
    found = paired_difference([True] * 14 + [False] * 2, [True] * 4 + [False] * 12)
    assert f"{100 * found.mean:.1f} points [{100 * found.low:.1f}, {100 * found.high:.1f}] more" in said[1]
    assert said[2].startswith("Of 6 wrong answers the most frequent kind is ")
    assert any("flatters" in one for one in data_of(home, "joint").verdict)


def test_no_difference_is_called_one_where_its_interval_holds_zero(home: Workspace) -> None:
    dataset = open_dataset(home, "birds")
    twin = trained_run(home, "twin-777", name="twin", labelled=["c0"], dataset=dataset.reference)
    evaluated(home, dataset, "joint", model_digest(fetch(twin.model)))
    try:
        said = data_of(home, "joint", "twin-777").verdict
        assert "no difference to the next best, twin (alignment: 87.5 %) is shown: +0.0 points" in said[1]
    finally:
        shutil.rmtree(str(twin.place.local))


def test_facts_say_when_where_and_on_what(home: Workspace) -> None:
    facts = dict(data_of(home, "joint").facts)
    assert facts["evaluated"].startswith("2026-09-21")
    assert facts["commit"] == "0123456789ab"
    assert facts["hardware"] == "2 workers of 1 core, ZeRO 1, Linux x86_64"
    assert "48 pictures of test, 6 categories" in facts["measured on"]


def test_checks_speak_of_controls_chance_leaks_and_unread_replies(home: Workspace) -> None:
    checks = {what: (state, finding) for state, what, finding in data_of(home, "joint", "plain").checks}
    assert checks["before tuning"][0] == "good"
    assert checks["tuning without contrast"][0] == "open"
    assert checks["guessing among all categories: 16.7 %"][0] == "good", "the base's are no news"
    assert checks["test pictures that stand in the training split"] == ("good", "0 of 48")
    assert checks["the order of the options, joint letters"][0] == "bad"
    assert checks["refusing to name, plain alignment"][1].endswith(
        "75.0 % of the pictures, 10.0 % of them wrongly"
    )
    data = data_of(home, "joint", "plain")
    assert data.risks["plain"]["alignment"][-1] == [1.0, 0.3]
    section = render_report(data).split('id="refusing"')[1].split("</section>")[0]
    assert section.count("<polyline") == 2, "a line a run"
    state, finding = checks["replies that named no category or option"]
    assert (state, "joint letters 12.5 %" in finding) == ("bad", True)


def test_runs_that_are_compared_say_what_differs_and_by_how_much(home: Workspace) -> None:
    data = data_of(home, "plain", "joint")
    assert data.kind == "comparison of 2 runs"
    assert data.differing is not None
    rows = dict(data.differing.rows)
    assert rows["seed"] == ("1", "0")
    assert rows["stages"] == ("align, tune", "joint")
    assert rows["stages.tune.steps"] == ("6", None)
    assert {(row["arm"], row["against"]) for row in data.differences} == {
        ("plain", "base"),
        ("joint", "base"),
    }
    told = data_of(home, "plain", "joint", against="plain").differences
    assert {row["against"] for row in told} == {"plain"}
    with pytest.raises(FinedeficsError, match="no such arm was evaluated; there are: base, plain, joint"):
        data_of(home, "plain", "joint", against="nobody")


def test_pictures_stand_behind_the_cells_and_answers_say_all_that_is_known(home: Workspace) -> None:
    page = embedded(make_report(home, ["joint"], record=False))
    names = page["names"]
    assert sorted(names) == sorted(NAMES)
    views = {f"{view['arm']} {view['label']}": number for number, view in enumerate(page["views"])}
    assert page["views"][0]["label"] == "alignment, all categories", "the leading answer is seen first"
    first = page["views"][0]["pairs"]
    assert sum(n for truth, named, n in first if truth != named) == 6
    letters = views["joint letters, options"]
    shots = [shot["said"][str(letters)] for shot in page["shots"]]
    chosen = next(said for said in shots if said["p"] == -1)
    assert chosen["r"].startswith("Answer: ")
    assert len(chosen["o"]) == 4
    truths = {
        shot["said"][str(letters)]["o"][shot["said"][str(letters)]["k"]] == shot["truth"]
        for shot in page["shots"]
    }
    assert truths == {True}, "the truth is where the table says"
    assert len(page["shots"]) == 48, "all there are"


def test_a_page_is_bounded_and_says_what_it_left_out(
    home: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = make_report(home, ["joint"], pictures=4, record=False)
    page = embedded(few)
    assert len(page["shots"]) == 4
    assert {shot["truth"] != shot["said"]["0"]["p"] for shot in page["shots"]} == {True}, "wrong ones first"
    assert len({shot["truth"] for shot in page["shots"]}) == 4, "of one cell after the other"
    assert "4 of the 6 pictures that joint names wrongly by alignment, all categories are here" in few.text
    monkeypatch.setattr("finedefics_platform.comparison.looking.MOST_BYTES", 6000)
    small = make_report(home, ["joint"], record=False)
    assert 0 < len(embedded(small)["shots"]) < 10
    assert "a page holds 0.0 MB of them at most" in small.text


def test_categories_stand_with_the_worst_first(home: Workspace) -> None:
    table = data_of(home, "joint").per_category
    assert table is not None
    assert [column["answer"] for column in table.columns] == ["alignment", "names"]
    assert {row["category"] for row in table.rows} == set(NAMES)
    assert table.rows[0]["cells"][0]["accuracy"] == 7 / 8


def test_a_run_without_an_evaluation_says_which_command_makes_one(workspace: Workspace) -> None:
    run = trained_run(workspace, "alone-1", name="alone")
    made = make_report(workspace, ["alone"])
    assert made.missing == (
        ("How right alone is: it has no evaluation.", f"finedefics evaluate {run.key} --data birds@d1"),
    )
    assert made.verdict[0] == "alone is trained."
    assert "Nothing is known of how right it is" in made.verdict[1]
    assert "finedefics evaluate alone-1 --data birds@d1" in made.text
    assert 'id="mistakes"' not in made.text


def test_a_run_that_is_not_finished_has_its_course_and_the_way_on(workspace: Workspace) -> None:
    run = trained_run(workspace, "halfway-1", name="halfway")
    (run.place / "result.json").delete()
    events = run.place / "training-1" / "events" / "0001-0001-aaaaaa.jsonl"
    step = {
        "event": "step",
        "time": 1,
        "stage": "align",
        "step": 2,
        "total_step": 2,
        "metrics": {"loss": 2.5},
    }
    events.write_text(json.dumps(step) + "\n")
    made = make_report(workspace, ["halfway"])
    assert made.missing == (
        ("halfway is not finished (step 2 of 4).", "finedefics train --resume halfway-1"),
    )
    assert made.verdict[0] == "halfway is not finished: its loss went from 2.5 to 2.5 in 1 recorded steps."
    assert made.recorded == ()


def test_evaluations_on_other_pictures_do_not_stand_beside(home: Workspace) -> None:
    dataset = open_dataset(home, "birds")
    run = find_subject(home, "joint")
    digest = model_digest(fetch(run.place / "training-1" / "model"))
    evaluated(home, dataset, "base", digest, limit=5, pictures=5, finished=1_799_000_000.0)
    data = data_of(home, "joint")
    assert data.table["joint"]["alignment"]["new"]["accuracy"] == 7 / 8
    assert "evaluated elsewhere too" in data.provenance


def search_of(workspace: Workspace, run: str | None) -> None:
    trials: list[Mapping[str, Any]] = [
        {
            "trial": f"t{n}",
            "run": run,
            "config": {"stages.0.temperatures.object_attribute": 0.05 + n / 100},
            "metric": 0.5 + n / 10,
            "step": 9,
            "status": "finished" if n else "stopped",
            "error": None,
        }
        for n in range(3)
    ]
    told = {
        "name": "warm",
        "metric": "val_alignment",
        "mode": "max",
        "parent_run_id": None,
        "best": trials[2],
        "trials": trials,
    }
    (workspace.searches / "warm-9f" / "search.json").write_json(told)


def test_a_search_tells_its_trials_and_its_winner(home: Workspace) -> None:
    search_of(home, "joint-0a1b2c")
    made = make_report(home, ["warm"])
    assert made.verdict[0].startswith(
        "Of 3 trials (2 finished, 1 stopped) the best has val_alignment 0.7 with"
    )
    assert "The run joint names pictures" in made.verdict[1]
    assert '<section id="trials"' in made.text
    assert made.text.count("arm-first unfinished") == 1
    with pytest.raises(FinedeficsError, match="a search is reported alone"):
        make_report(home, ["warm", "joint"])


def test_a_search_whose_winner_was_not_evaluated_says_how(workspace: Workspace) -> None:
    trained_run(workspace, "winner-1", name="winner")
    search_of(workspace, "winner-1")
    made = make_report(workspace, ["warm-9f"])
    assert made.missing[0][1] == "finedefics evaluate winner-1 --data birds@d1"
    assert "flatters it" in made.verdict[2]


def test_names_are_those_that_lists_print(home: Workspace) -> None:
    run = find_subject(home, "joint-0a")
    assert (run.kind, run.key, run.name) == ("run", "joint-0a1b2c", "joint")
    assert find_subject(home, get_run(home, run.key).run_id[:12]) == run
    with pytest.raises(
        FinedeficsError, match="there is no run, search or study of this name; choose one of: joint"
    ):
        find_subject(home, "nobody")


def test_the_page_is_an_artefact_of_the_run(home: Workspace) -> None:
    made = make_report(home, ["joint", "plain"])
    assert len(made.recorded) == 2
    for run in made.recorded:
        there = [one.path for one in open_client(home).list_artifacts(run, "report")]
        assert f"report/{made.place.name}" in there
    assert made.place.read_text() == made.text


def test_nothing_in_a_page_names_where_its_workspace_lies(home: Workspace) -> None:
    assert str(home.root) not in make_report(home, ["joint", "plain"], record=False).text


def test_the_command_writes_where_it_is_told(
    home: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FINEDEFICS_HOME", str(home.root))
    page = tmp_path / "page.html"
    assert main(["report", "joint", "--output", str(page), "--json", "--no-record"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["event"], told["report"], told["mlflow_runs"]) == ("done", str(page), [])
    assert told["bytes"] == page.stat().st_size < 3_000_000
    for wrong, cure in (
        (["joint", "--output", str(tmp_path)], "name a file"),
        (["joint", "--output", str(tmp_path / "no" / "page.html")], "make "),
        (["nobody"], "choose one of"),
    ):
        assert main(["report", *wrong]) == 2
        (line,) = capsys.readouterr().err.splitlines()[-1:]
        assert cure in line


def test_a_dataset_that_is_gone_takes_the_pictures_and_nothing_else(tmp_path: Path) -> None:
    lone = open_workspace(tmp_path)
    runs: tuple[TrainedRun, TrainedRun] = workspace_of_runs(lone)
    shutil.rmtree(str(lone.datasets.local))
    made = make_report(lone, [runs[0].key], record=False)
    assert embedded(made)["shots"] == []
    assert "None of the 6 pictures" in made.text
    assert "is not in this workspace" in made.text
