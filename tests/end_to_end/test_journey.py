"""The whole journey at a small size, asserted on what came out: images in, a promoted model out."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

from finedefics.scoring import Recogniser
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.cli.main import main
from finedefics_platform.demo.journey import Demo, run_demo
from finedefics_platform.demo.scale import SERVED, SMALL
from finedefics_platform.models.references import index_of, open_model
from finedefics_platform.tracking.tracker import server_run_id
from finedefics_platform.worlds.settings import BaseSettings

# What the demo's small journey makes, less what no assertion below needs: minutes of two cores. A run of two
# stages and a search of several trials are other tests' (test_training, test_search).
SCALE = replace(
    SMALL,
    world=SMALL.world.model_copy(
        update={"base": BaseSettings(birds=1500, vision_steps=300, language_steps=250)}
    ),
    arms=tuple(arm for arm in SMALL.arms if arm != "two_stage"),
    trials=1,
)
ANSWERS = ("names", "alignment", "describe")
# its arms are trained and evaluated before the first assertion; a busy machine takes its time
pytestmark = pytest.mark.timeout(1500)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return open_workspace(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def demo(home: Workspace, ray_cluster: Any) -> Demo:
    return run_demo(home, scale=SCALE)


@pytest.fixture(scope="module")
def table(demo: Demo) -> dict[str, Any]:
    return json.loads(demo.summary.table_file.read_text())


def accuracy(table: dict[str, Any], arm: str, answer: str, group: str) -> float:
    return table[arm][answer][group]["accuracy"]


def test_the_table_has_every_arm_answer_and_group(table: dict[str, Any]) -> None:
    assert set(table) == {"base", *SCALE.arms}
    for cells in table.values():
        assert set(cells) == set(ANSWERS)
        for answer in cells.values():
            assert answer["pictures_per_second"] > 0
            for group in ("labelled", "new"):
                cell = answer[group]
                assert cell["low"] <= cell["accuracy"] <= cell["high"]
                assert cell["n"] == {"labelled": 18, "new": 6}[group] * SCALE.world.test


def test_the_base_has_the_diagnosis(demo: Demo) -> None:
    """It can hardly name a picture, though it sees attributes and knows the texts."""
    items = demo.evaluations["base"].items().to_pylist()
    named = [row["correct"] for row in items if (row["answer"], row["scope"]) == ("names", "all")]
    assert np.mean(named) <= 0.10


def test_joint_training_names_species_that_never_had_a_label(table: dict[str, Any]) -> None:
    best = max(accuracy(table, arm, a, "new") for arm in ("base", "control") for a in ("names", "alignment"))
    assert accuracy(table, "joint", "alignment", "new") >= best + 0.30


def test_both_answers_name_species_that_never_had_a_label(table: dict[str, Any]) -> None:
    """Wide margins, at this size: the likelihood of names learns them, and alignment loses nothing by it."""
    assert accuracy(table, "both", "names", "new") >= accuracy(table, "control", "names", "new") + 0.40
    assert table["both"]["alignment"]["new"]["high"] >= table["joint"]["alignment"]["new"]["low"]
    assert accuracy(table, "both", "alignment", "new") >= accuracy(table, "joint", "alignment", "new") - 0.15


def test_instruction_tuning_learns_the_labelled_species(table: dict[str, Any]) -> None:
    assert accuracy(table, "instruction", "names", "labelled") >= 0.50


def test_loss_terms_fall(demo: Demo) -> None:
    steps = [e["metrics"] for e in demo.runs["joint"].events() if e["event"] == "step"]
    for term in ("answer", "object_attribute", "attribute_category", "category_category"):
        losses = [metrics[f"loss_{term}"] for metrics in steps]
        assert np.mean(losses[-8:]) < 0.5 * np.mean(losses[:8]), term


def test_two_workers_took_part_and_zero_shared_the_optimizer_state(demo: Demo) -> None:
    """In the run that is served; the arms beside it are trained in one process each."""
    for arm, run in demo.runs.items():
        facts = [e for e in run.events() if e["event"] == "facts"]
        assert facts
        for fact in facts:
            assert fact["world_size"] == (2 if arm == SERVED else 1)
            assert len({worker["pid"] for worker in fact["workers"]}) == fact["world_size"]
            held = [worker["optimizer_elements"] for worker in fact["workers"]]
            assert arm != SERVED or 0.4 < held[0] / sum(held) < 0.6


def test_the_champion_answers_as_the_evaluated_model_did(home: Workspace, demo: Demo) -> None:
    opened = open_model(home, f"{demo.version.name}@champion")
    recogniser = Recogniser.load(opened.model, index_of(opened))
    samples = demo.dataset.samples("test", limit=48)
    served = [best[0][0] for best in recogniser.recognise([s.image for s in samples], "alignment", top=1)]
    items = demo.evaluations[SERVED].items()
    wanted = items.filter((pc.field("answer") == "alignment") & (pc.field("scope") == "all")).to_pylist()
    evaluated = {row["sample_id"]: row["predicted"] for row in wanted}
    assert served == [evaluated[sample.sample_id] for sample in samples]


def test_the_run_is_browsable_through_the_mlflow_client(home: Workspace, demo: Demo) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=home.tracking_uri)
    for arm, run in demo.runs.items():
        assert run.parent_run_id is not None
        parent = client.get_run(server_run_id(home, run.parent_run_id))
        assert parent.info.status == "FINISHED"
        assert parent.data.metrics["test_alignment_new"] == pytest.approx(
            demo.summary.table[arm]["alignment"]["new"]["accuracy"]
        )
        children = client.search_runs(
            [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
        )
        stages = [c for c in children if c.data.metrics.get("loss") is not None]
        assert len(stages) == 1
        for child in stages:
            curve = client.get_metric_history(child.info.run_id, "loss")
            assert len(curve) >= 20
    champion = client.get_model_version_by_alias(demo.version.name, "champion")
    assert int(champion.version) == demo.version.version


def test_the_search_tried_what_it_was_asked(home: Workspace, demo: Demo) -> None:
    from mlflow import MlflowClient

    assert len(demo.search.trials) == SCALE.trials
    for trial in demo.search.trials:
        assert trial["error"] is None
        assert trial["config"]["data.negatives"] in (0, 1, 3, 7)
        assert 0.03 <= trial["config"]["stages.0.temperatures.object_attribute"] <= 0.2
        assert 0 <= trial["metric"] <= 1
    assert demo.search.best in demo.search.trials
    client = MlflowClient(tracking_uri=home.tracking_uri)
    parent = client.get_run(server_run_id(home, demo.search.parent_run_id or ""))
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    )
    assert len(children) == SCALE.trials


def test_the_command_line_shows_runs_and_champion(
    home: Workspace, demo: Demo, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In this process: `predict` below starts one of its own, and each costs seconds of imports."""
    monkeypatch.setenv("FINEDEFICS_HOME", str(home.root))
    found = {}
    for command in ("runs", "models"):
        assert main([command, "list", "--json"]) == 0
        found[command] = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert {*SCALE.arms} <= {line["name"] for line in found["runs"] if line["event"] == "run"}
    assert any("champion" in line["aliases"] for line in found["models"] if line["event"] == "model")


def test_the_command_line_predicts(home: Workspace, demo: Demo, tmp_path: Path) -> None:
    sample = demo.dataset.samples("test", limit=1)[0]
    picture = tmp_path / "bird.jpg"
    picture.write_bytes(sample.image)
    lines = finedefics(home, "predict", f"{demo.version.name}@champion", str(picture), "--json")
    prediction = next(line for line in lines if line["event"] == "prediction")
    items = demo.evaluations[SERVED].items().to_pylist()
    wanted = {(r["sample_id"], r["answer"], r["scope"]): r["predicted"] for r in items}
    best = prediction["candidates"][0]["category_id"]
    assert best == wanted[sample.sample_id, "alignment", "all"]


def test_a_second_journey_reuses_the_first(home: Workspace, demo: Demo) -> None:
    before = {way: (home.root / way).modified() for way in weights(home)}
    again = run_demo(home, scale=SCALE)
    assert {way: (home.root / way).modified() for way in weights(home)} == before
    assert again.runs == demo.runs
    assert again.version.version == demo.version.version


def weights(home: Workspace) -> list[str]:
    return [way for way in home.root.files() if way.endswith(".safetensors")]


def test_nothing_of_a_journey_names_where_its_workspace_lies(home: Workspace, demo: Demo) -> None:
    places = (home.evaluations, home.demo, home.datasets, home.models)
    texts = [place / way for place in places for way in place.files() if way.endswith((".json", ".html"))]
    assert any(text.name == "summary.json" for text in texts)
    naming = [text.uri for text in texts if str(home.root) in text.read_text()]
    assert naming == []


def test_the_report_is_one_self_contained_page(demo: Demo) -> None:
    page = demo.summary.report_file.read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    for arm in ("base", *SCALE.arms):
        assert arm in page


def finedefics(workspace: Workspace, *arguments: str) -> list[dict[str, Any]]:
    """Run a command in a process of its own; its JSON lines."""
    done = subprocess.run(
        [sys.executable, "-m", "finedefics_platform.cli.main", *arguments],
        env={**os.environ, "FINEDEFICS_HOME": str(workspace.root)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
