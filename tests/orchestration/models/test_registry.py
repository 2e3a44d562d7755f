"""Registering, opening, promoting and rolling back, in a real registry (SQLite)."""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from PIL import Image
from typer.testing import CliRunner

from finedefics.errors import FinedeficsError
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.cli.evaluate import _register
from finedefics_platform.cli.models import app
from finedefics_platform.evaluation.run import Evaluated
from finedefics_platform.models.gate import GatePolicy
from finedefics_platform.models.promotion import history, promote, rollback
from finedefics_platform.models.registry import ModelVersion, get_version, open_model, register, versions
from finedefics_platform.tracking.mlflow_client import open_client
from finedefics_platform.tracking.tracker import Tracker


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return open_workspace(tmp_path_factory.mktemp("a workspace"))


@pytest.fixture(scope="module")
def client(recorded: Workspace) -> MlflowClient:
    return open_client(recorded)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder as training and evaluation leave it, without weights that work."""
    folder = tmp_path_factory.mktemp("trained")
    for name, text in (
        ("final/config.json", "{}"),
        ("final/w.safetensors", "W"),
        ("names/categories.json", "[]"),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def evaluation(accuracy: float, n: int = 100) -> dict[str, Any]:
    return {"alignment": {"new": {"accuracy": accuracy, "n": n}, "pictures_per_second": 7.0}}


def finished_run(workspace: Workspace, key: str) -> str:
    tracker = Tracker(workspace, "models")
    run = tracker.parent("train", key=key)
    tracker.finish(run)
    return run


def registered(
    workspace: Workspace, trained: Path, name: str, accuracy: float, *, run: str | None = None, **more: Any
) -> ModelVersion:
    count = len(versions(workspace, name))
    settings = {"dataset_digest": "d1", "base": "tiny", "index_folder": trained / "names"} | more
    return register(
        workspace,
        name=name,
        model_folder=trained / "final",
        run_id=run or finished_run(workspace, f"{name}-{count}"),
        evaluation=evaluation(accuracy),
        **settings,
    )


def test_a_version_says_where_it_comes_from(recorded: Workspace, client: MlflowClient, trained: Path) -> None:
    run = finished_run(recorded, "origin")
    made = registered(recorded, trained, "origin", 0.8, run=run, adapter="lora-1")
    assert (made.reference, made.run_id, made.aliases) == ("origin/1", run, ("candidate",))
    assert made.evaluation == evaluation(0.8)
    stored = client.get_model_version("origin", "1")
    assert stored.run_id == run
    assert stored.tags["finedefics.dataset_digest"] == "d1"
    assert (stored.tags["finedefics.base"], stored.tags["finedefics.adapter"]) == ("tiny", "lora-1")
    assert client.get_logged_model(stored.tags["finedefics.logged_model"]).source_run_id == run


@pytest.mark.parametrize(
    ("adapters", "identity"), [({"kind": "lora", "targets": ["text"]}, "lora r8 alpha8 on text"), ({}, None)]
)
def test_a_version_names_the_adapters_of_its_run(
    recorded: Workspace, trained: Path, tmp_path: Path, adapters: dict[str, Any], identity: str | None
) -> None:
    name = "adapted" if identity else "whole"
    folder = recorded.runs / name
    shutil.copytree(trained / "final", folder / "model")
    experiment = {"model": {"path": "tiny"}, "adapters": adapters}
    (folder / "experiment.json").write_text(json.dumps(experiment))
    origin = {"parent_run_id": finished_run(recorded, name), "metrics": {}}
    (folder / "result.json").write_text(json.dumps({"config_digest": "c", "dataset_digest": "d", **origin}))
    shutil.copytree(trained / "names", tmp_path / "index")
    pq.write_table(pa.table({"picture": ["a"]}), tmp_path / "items.parquet")
    made = _register(recorded, name, name, Evaluated(tmp_path, {}), "d1", evaluation(0.8))
    assert get_version(recorded, made).tags.get("adapter") == identity


def test_a_run_is_registered_once(recorded: Workspace, trained: Path) -> None:
    run = finished_run(recorded, "once")
    first = registered(recorded, trained, "once", 0.8, run=run)
    assert registered(recorded, trained, "once", 0.8, run=run) == first
    assert registered(recorded, trained, "once", 0.9, run=run).evaluation == evaluation(0.9)
    assert len(versions(recorded, "once")) == 1
    assert registered(recorded, trained, "once", 0.8).version == 2
    assert get_version(recorded, "once/1").aliases == (), "the newest is the candidate"


def test_a_version_opens_as_a_folder(recorded: Workspace, trained: Path) -> None:
    registered(recorded, trained, "opened", 0.8)
    folder = open_model(recorded, "opened@candidate")
    assert (folder / "model" / "w.safetensors").read_text() == "W"
    assert (folder / "index" / "categories.json").read_text() == "[]"
    assert open_model(recorded, "opened/1") == folder
    assert open_model(recorded, str(folder)) == folder
    registered(recorded, trained, "bare", 0.8, index_folder=None)
    assert [path.name for path in open_model(recorded, "bare/1").iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("nothing@champion", "use one of: .*known"),
        ("known@champion", "no alias champion; use one of: known/1 @candidate"),
        ("known", "no alias champion"),
        ("known/7", "no version 7; use one of: known/1"),
        ("known/latest", "not a version number"),
        ("kn own", "not a model name"),
        ("./nowhere", "no such folder"),
    ],
)
def test_a_wrong_reference_names_the_right_ones(
    recorded: Workspace, trained: Path, reference: str, words: str
) -> None:
    if not versions(recorded, "known"):
        registered(recorded, trained, "known", 0.8)
    with pytest.raises(FinedeficsError, match=words) as caught:
        open_model(recorded, reference)
    assert caught.value.exit_code == 2


def test_what_cannot_be_registered_is_refused(recorded: Workspace, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(FinedeficsError, match=r"config\.json"):
        registered(recorded, tmp_path, "refused", 0.8, index_folder=None)
    with pytest.raises(FinedeficsError, match="index does not exist"):
        registered(recorded, trained, "refused", 0.8, index_folder=tmp_path / "none")
    with pytest.raises(FinedeficsError, match="no run 123"):
        registered(recorded, trained, "refused", 0.8, run="123")
    with pytest.raises(FinedeficsError, match="runs sync"):
        registered(recorded, trained, "refused", 0.8, run="unsent-1")
    with pytest.raises(FinedeficsError, match="not a model name"):
        registered(recorded, trained, "a/b", 0.8, run="any")
    with pytest.raises(FinedeficsError, match="no model/ in it"):
        open_model(recorded, str(tmp_path))
    assert versions(recorded, "refused") == []


def test_promotion_moves_aliases_and_rollback_moves_them_back(recorded: Workspace, trained: Path) -> None:
    def holders() -> dict[str, int]:
        return {alias: one.version for one in versions(recorded, "gulls") for alias in one.aliases}

    registered(recorded, trained, "gulls", 0.70)
    with pytest.raises(FinedeficsError, match="no earlier champion"):
        rollback(recorded, "gulls", reason="none yet")
    assert promote(recorded, "gulls", 1, reason="the first", by="ann").changed
    assert holders() == {"champion": 1}
    registered(recorded, trained, "gulls", 0.75)
    promote(recorded, "gulls", 2, reason="better", by="ann")
    assert holders() == {"champion": 2, "previous": 1}
    again = promote(recorded, "gulls", 2, reason="again", by="bob")
    assert (again.changed, holders()) == (False, {"champion": 2, "previous": 1})
    rollback(recorded, "gulls", reason="confuses terns", by="cid")
    assert holders() == {"champion": 1, "previous": 2}
    rollback(recorded, "gulls", reason="it was the light", by="cid")
    assert holders() == {"champion": 2, "previous": 1}

    told = [
        (e["action"], e["version"], e["before"], e["by"], e["reason"]) for e in history(recorded, "gulls")
    ]
    assert told == [
        ("promote", 1, None, "ann", "the first"),
        ("promote", 2, 1, "ann", "better"),
        ("rollback", 1, 2, "cid", "confuses terns"),
        ("rollback", 2, 1, "cid", "it was the light"),
    ]
    assert history(recorded, "gulls")[1]["evaluation"] == evaluation(0.75)
    assert get_version(recorded, "gulls@champion").tags["promoted_by"] == "cid"


def test_the_gate_guards_the_champion(recorded: Workspace, trained: Path) -> None:
    registered(recorded, trained, "terns", 0.80)
    promote(recorded, "terns", 1, reason="the first")
    registered(recorded, trained, "terns", 0.60)
    with pytest.raises(FinedeficsError, match=r"candidate 0\.600, champion 0\.800") as caught:
        promote(recorded, "terns", 2, reason="newer")
    assert caught.value.exit_code == 1
    assert get_version(recorded, "terns").version == 1
    assert len(history(recorded, "terns")) == 1
    with pytest.raises(FinedeficsError, match="reason is empty"):
        promote(recorded, "terns", 2, reason="newer", force=" ")

    forced = promote(recorded, "terns", 2, reason="newer", force="the old one leaks", by="ann")
    assert forced.forced == "the old one leaks"
    last = history(recorded, "terns")[-1]
    assert (last["forced"], last["decision"]["allowed"]) == ("the old one leaks", False)
    decision = json.loads(get_version(recorded, "terns").tags["promotion_decision"])
    assert decision["forced"] == "the old one leaks"
    assert promote(recorded, "terns", 1, reason="back", policy=GatePolicy(max_drop=0)).changed


def items_table(path: Path, correct: int, n: int, *, shift: int = 0) -> Path:
    """``correct`` of ``n`` on all names, beginning at item ``shift``; nothing right among the options."""
    right = {(number + shift) % n for number in range(correct)}
    rows = [
        {"sample_id": f"p{i}", "group": "new", "answer": "alignment", "scope": scope, "correct": hit}
        for i in range(n)
        for scope, hit in (("all", i in right), ("options", False))
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_the_gate_pairs_the_items_of_both_versions(
    recorded: Workspace, trained: Path, tmp_path: Path
) -> None:
    old = items_table(tmp_path / "old.parquet", 80, 100)
    other = items_table(tmp_path / "other.parquet", 80, 100, shift=20)
    registered(recorded, trained, "pairs", 0.8, items=old)
    promote(recorded, "pairs", 1, reason="the first")
    registered(recorded, trained, "pairs", 0.8, items=other)
    with pytest.raises(FinedeficsError, match=r"paired difference \+0\.000 \[-0\.1.* over 100 pictures"):
        promote(recorded, "pairs", 2, reason="as accurate, on other pictures")
    registered(recorded, trained, "pairs", 0.8, items=old)
    same = promote(recorded, "pairs", 3, reason="the same answers")
    assert "paired difference +0.000" in same.decision.reasons[0]


def test_the_command_line_tells_the_same(recorded: Workspace, trained: Path) -> None:
    environment = {"FINEDEFICS_HOME": str(recorded.root)}

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, list(arguments), env=environment)

    registered(recorded, trained, "auks", 0.8)
    done = run("promote", "auks", "candidate", "--reason", "the first", "--by", "ann")
    assert done.exit_code == 0, done.exception
    assert "auks/1 is now the champion" in done.output
    assert "already" in run("promote", "auks", "1", "--reason", "again").output
    registered(recorded, trained, "auks", 0.5)
    refused = run("promote", "auks", "2", "--reason", "newer")
    assert isinstance(refused.exception, FinedeficsError)
    assert run("promote", "auks", "2", "--reason", "newer", "--force", "a trial").exit_code == 0
    assert "auks/1" in run("rollback", "auks", "--reason", "enough").output
    shown = run("show", "auks").output
    assert [word for word in ("the first", "enough", "a trial", "ann", "0.800") if word not in shown] == []
    lines = [json.loads(line) for line in run("list", "--json").stdout.splitlines()]
    mine = {line["version"]: line for line in lines[:-1] if line["name"] == "auks"}
    assert mine[1]["aliases"] == ["champion"]
    assert mine[2]["evaluation"] == evaluation(0.5)
    assert lines[-1]["event"] == "done"
    assert "auks/2" in run("list").output


def test_the_model_answers_through_mlflow_alone(recorded: Workspace, tmp_path: Path) -> None:
    from finedefics.base_model import untrained_backbone
    from finedefics.records import Category
    from finedefics.scoring import Recogniser

    backbone = untrained_backbone()
    backbone.save_pretrained(tmp_path / "final")
    categories = [Category("tern", "Tern", description="a white bird"), Category("auk", "Auk")]
    recogniser = Recogniser(backbone, categories)
    recogniser.index.save(tmp_path / "names")
    registered(recorded, tmp_path, "answers", 0.8)
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 80).convert("RGB").save(buffer, format="PNG")
    picture = buffer.getvalue()
    (tmp_path / "picture.png").write_bytes(picture)
    script = (
        "import base64, json, sys, mlflow, pandas as pd\n"
        "from pathlib import Path\n"
        "model = mlflow.pyfunc.load_model('models:/answers/1')\n"
        "picture = Path(sys.argv[1]).read_bytes()\n"
        "frames = [[picture, picture], [base64.b64encode(picture).decode()] * 2]\n"
        "tables = [model.predict(pd.DataFrame({'image': f}), params={'top': 1}) for f in frames]\n"
        "import finedefics\n"
        "print(json.dumps([finedefics.__file__, *[t.to_dict('records') for t in tables]]))\n"
    )
    # From an empty folder and without the source tree: the method's code comes out of the model itself.
    environment = {**os.environ, "MLFLOW_TRACKING_URI": recorded.tracking_uri, "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "picture.png")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    source, from_bytes, from_text = json.loads(done.stdout.splitlines()[-1])
    assert Path(source).is_relative_to(recorded.artifacts)
    expected = recogniser.recognise([picture], top=1)[0][0]
    assert from_bytes == from_text
    assert len(from_bytes) == 2
    assert (from_bytes[0]["category_id"], from_bytes[0]["name"]) == expected[:2]
    assert from_bytes[0]["score"] == pytest.approx(expected[2], abs=1e-5)
    assert [len(row["answers"]) for row in from_bytes] == [1, 1]


def test_a_wrong_table_is_refused_in_words() -> None:
    from finedefics_platform.models.recogniser_model import RecogniserModel

    model = RecogniserModel()
    with pytest.raises(ValueError, match="no column `image`; the columns are: picture"):
        model.predict(None, pd.DataFrame({"picture": [b""]}))
    with pytest.raises(ValueError, match="row 1 is neither bytes nor base64"):
        model.predict(None, pd.DataFrame({"image": [base64.b64encode(b"x").decode(), "no!"]}))
