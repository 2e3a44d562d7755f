"""What a user may call a model, and where its files are found: copied workspaces, an object store, MLflow."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from object_store import object_store
from PIL import Image
from registered import answers, evaluation_of, registered, trained_run

from finedefics.errors import FinedeficsError
from finedefics_platform.base.storage import fetch
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.models.evidence import measured
from finedefics_platform.models.promotion import promote
from finedefics_platform.models.references import base_of_model, open_model
from finedefics_platform.models.registration import register_run
from finedefics_platform.models.registry import get_version, versions


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return open_workspace(tmp_path_factory.mktemp("a workspace"))


def test_a_version_a_run_and_a_folder_are_all_models(
    recorded: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = registered(recorded, "opened", 3, 12)
    version = open_model(recorded, "opened@candidate")
    assert (version.model / "w.safetensors").read_text() == "opened-0"
    assert version.index is not None
    assert (version.index / "categories.json").read_text() == "[]"
    assert (version.version, version.labelled) == (made, ("tern",))
    run = open_model(recorded, "opened-0")
    assert run.run is not None
    assert (run.model / "w.safetensors").read_text() == "opened-0"
    assert (run.labelled, run.version) == (("tern",), None)
    assert open_model(recorded, str(version.model)).model == version.model
    with_index = open_model(recorded, str(version.model.parent))
    assert (with_index.model, with_index.index) == (version.model, version.index)
    monkeypatch.chdir(version.model.parent.parent)
    assert open_model(recorded, "artifacts").model == version.model


def test_a_version_as_mlflow_writes_it_and_a_hub_model_at_its_commit(
    recorded: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = registered(recorded, "written", 3, 12)
    for reference in ("models:/written/1", "models:/written@candidate"):
        opened = open_model(recorded, reference)
        assert (opened.version, opened.called) == (made, "written/1")
    with pytest.raises(FinedeficsError, match="written has no version 9; use one of: written/1"):
        open_model(recorded, "models:/written/9")
    commit = "a1" * 20
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--someone--birds"
    for file, text in (("config.json", "{}"), ("w.safetensors", "weights")):
        (cached / "snapshots" / commit).mkdir(parents=True, exist_ok=True)
        (cached / "snapshots" / commit / file).write_text(text)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    for reference in ("someone/birds", f"someone/birds@{commit}", "someone/birds@main"):
        opened = open_model(recorded, reference)
        assert opened.model == cached / "snapshots" / commit
        assert opened.called == opened.hub == f"someone/birds@{commit}"
    for unknown in ("someone/birds@v2", "someone/wrens"):
        with pytest.raises(
            FinedeficsError, match=f"^{unknown}: neither a run, a registered model nor a folder"
        ):
            open_model(recorded, unknown)


def test_a_folder_without_weights_is_refused_before_anything_loads_it(
    recorded: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FinedeficsError, match="no weights in it"):
        open_model(recorded, str(tmp_path))


def test_the_base_of_a_run_and_of_its_version_is_known(recorded: Workspace, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    run = trained_run(recorded, "tuned-1", model=None)
    told = (run.place / "result.json").read_json()
    told["experiment"]["model"]["path"] = str(tmp_path)
    (run.place / "result.json").write_json(told)
    version = register_run(recorded, "tuned", run, evaluation_of(recorded, run, answers(3, 12)))
    for reference in ("tuned-1", version.reference):
        assert base_of_model(recorded, open_model(recorded, reference)).model == tmp_path
    folder = open_model(recorded, str(open_model(recorded, "tuned-1").model))
    with pytest.raises(FinedeficsError, match="nothing here says what this model was tuned from"):
        base_of_model(recorded, folder)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("nothing@candidate", "use one of: .*known"),
        ("known@previous", "no alias previous; use one of: known/1 @candidate"),
        ("known", "no alias champion"),
        ("known/7", "no version 7; use one of: known/1"),
        ("known/latest", "not a version number"),
        ("kn own", "not a model name"),
        ("./nowhere", "no such folder"),
        ("no/such/model", "no such folder"),
    ],
)
def test_a_wrong_reference_names_the_right_ones(recorded: Workspace, reference: str, words: str) -> None:
    if not versions(recorded, "known"):
        registered(recorded, "known", 3, 12)
    with pytest.raises(FinedeficsError, match=words) as caught:
        open_model(recorded, reference)
    assert caught.value.exit_code == 2


def test_a_copied_workspace_opens_its_own_package(tmp_path: Path) -> None:
    original = open_workspace(tmp_path / "original")
    registered(original, "birds", 300)
    promote(original, "birds", 1, reason="the first")
    shutil.copytree(tmp_path / "original", tmp_path / "copy")
    copy = open_workspace(tmp_path / "copy")
    beside = open_model(copy, "birds@champion")
    assert beside.model.is_relative_to(tmp_path / "copy")
    for description in (tmp_path / "copy").rglob("MLmodel"):
        assert str(tmp_path) not in description.read_text()
    shutil.rmtree(tmp_path / "original")
    assert (open_model(copy, "birds@champion").model / "w.safetensors").read_text() == "birds-0"
    (shown,) = measured(copy, get_version(copy, "birds/1"))
    assert len(shown.slices["alignment/new"].items) == 400


@pytest.mark.slow
def test_a_workspace_in_an_object_store_has_a_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINEDEFICS_CACHE", str(tmp_path / "cache"))
    with object_store() as uri:
        workspace = open_workspace(f"{uri}/home")
        registered(workspace, "birds", 300)
        assert promote(workspace, "birds", 1, reason="the first").changed
        registered(workspace, "birds", 310)
        assert promote(workspace, "birds", 2, reason="better").before == 1
        assert get_version(workspace, "birds/2").source.startswith(f"{uri}/home/models/registered/birds-")
        shutil.rmtree(tmp_path / "cache" / "folders")
        opened = open_model(open_workspace(f"{uri}/home"), "birds@champion")
        assert (opened.model / "w.safetensors").read_text() == "birds-1"
        assert opened.index is not None
        assert str(opened.place).startswith(f"{uri}/home/models/registered/"), "as other machines find it"
        assert (fetch(opened.place) / "w.safetensors").read_text() == "birds-1"


def test_the_champion_answers_through_mlflow_alone(recorded: Workspace, tmp_path: Path) -> None:
    from finedefics.base_model import untrained_backbone
    from finedefics.records import Category
    from finedefics.scoring import Recogniser

    backbone = untrained_backbone()
    backbone.save_pretrained(tmp_path / "final")
    categories = [Category("tern", "Tern", description="a white bird"), Category("auk", "Auk")]
    recogniser = Recogniser(backbone, categories)
    recogniser.index.save(tmp_path / "names")
    run = trained_run(recorded, "answering", model=tmp_path / "final")
    register_run(
        recorded, "answers", run, evaluation_of(recorded, run, answers(50, 60), index=tmp_path / "names")
    )
    promote(recorded, "answers", 1, reason="the first")
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 80).convert("RGB").save(buffer, format="PNG")
    picture = buffer.getvalue()
    (tmp_path / "picture.png").write_bytes(picture)
    script = (
        "import base64, json, sys, mlflow, pandas as pd\n"
        "from pathlib import Path\n"
        "model = mlflow.pyfunc.load_model('models:/answers@champion')\n"
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
    assert recorded.models.local is not None
    assert Path(source).is_relative_to(recorded.models.local / "registered")
    expected = recogniser.recognise([picture], top=1)[0][0]
    assert from_bytes == from_text
    assert len(from_bytes) == 2
    assert (from_bytes[0]["category_id"], from_bytes[0]["name"]) == expected[:2]
    assert from_bytes[0]["score"] == pytest.approx(expected[2], abs=1e-5)
