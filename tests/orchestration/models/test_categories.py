"""Categories added to a registered model by a text: named at once, and nothing registered is touched."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from pyarrow import csv
from registered import answers, evaluation_of, trained_run

from finedefics.base_model import untrained_backbone
from finedefics.data.generated import random_birds
from finedefics.records import Category
from finedefics.scoring import Recogniser
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.cli.main import main
from finedefics_platform.models.categories import add, known, open_recogniser
from finedefics_platform.models.promotion import promote
from finedefics_platform.models.references import open_model
from finedefics_platform.models.registration import register_run
from finedefics_platform.tracking.mlflow_client import open_client
from finedefics_platform.tracking.own_registry import own_registry

CATEGORIES = [Category("tern", "Tern", description="white belly and black crown"), Category("auk", "Auk")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and its index."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    made = tmp_path_factory.mktemp("made")
    backbone = untrained_backbone()
    backbone.save_pretrained(made / "model")
    Recogniser(backbone, CATEGORIES).index.save(made / "index")
    return made


@pytest.fixture(scope="module")
def registered(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = open_workspace(tmp_path_factory.mktemp("workspace"))
    run = trained_run(workspace, "one", model=folder / "model")
    evaluated = evaluation_of(workspace, run, answers(3, 12), index=folder / "index")
    register_run(workspace, "birds", run, evaluated)
    return workspace


@pytest.fixture(autouse=True)
def _workspace(registered: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINEDEFICS_HOME", str(registered.root))
    (registered.categories / "birds.jsonl").delete()


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_an_added_category_is_named_and_the_version_stays_as_it_was(
    registered: Workspace, tmp_path: Path, capfd: Any
) -> None:
    before = digests(open_model(registered, "birds/1").model.parent)
    ((image, _),) = random_birds(1, seed=2)
    image.save(tmp_path / "bird.png")
    words = ["--name", "Pine  Grosbeak", "--description", "red belly and stout beak"]
    assert main(["categories", "add", "birds/1", *words]) == 0
    assert main(["predict", "birds/1", str(tmp_path / "bird.png"), "--top", "9", "--json"]) == 0
    (prediction,) = [
        line
        for line in map(json.loads, filter(lambda t: t.startswith("{"), capfd.readouterr().out.splitlines()))
        if line["event"] == "prediction"
    ]
    assert {c["name"] for c in prediction["candidates"]} == {"Tern", "Auk", "Pine Grosbeak"}
    assert digests(open_model(registered, "birds/1").model.parent) == before


@pytest.mark.parametrize("name", ["names.parquet", "names.csv"])
def test_a_folder_is_named_a_batch_at_a_time_into_a_table(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setattr("finedefics.scoring.recogniser.BATCH", 2)
    monkeypatch.setattr("finedefics_platform.cli.predict.SHOWN", 2)
    (tmp_path / "birds").mkdir()
    for number, (image, _) in enumerate(random_birds(5, seed=2)):
        image.save(tmp_path / "birds" / f"{number}.png")
    asked = ["predict", "birds/1", str(tmp_path / "birds"), "--top", "2"]
    assert main([*asked, "--output", str(tmp_path / name)]) == 0
    assert "the first 2 of 5 pictures" in capfd.readouterr().out
    read = pq.read_table if name.endswith("parquet") else csv.read_csv
    rows = read(tmp_path / name).to_pylist()
    assert [(Path(row["picture"]).name, row["rank"]) for row in rows] == [
        (f"{number}.png", rank) for number in range(5) for rank in (1, 2)
    ]
    assert {row["category_id"] for row in rows} == {"tern", "auk"}
    (tmp_path / "birds" / "3.png").write_bytes(b"no picture")
    whole = {row["picture"]: row["category_id"] for row in rows if row["rank"] == 1}
    assert main([*asked, "--output", str(tmp_path / name), "--json"]) == 1
    told, errors = capfd.readouterr()
    assert errors.count("3.png") == 1
    (failed,) = [line for line in map(json.loads, told.splitlines()) if line["event"] == "failed"]
    assert failed["damaged"] == 1
    again = read(tmp_path / name).to_pylist()
    assert [row.keys() for row in again] == [rows[0].keys()] * 9
    (damaged,) = [row for row in again if row["error"]]
    assert damaged["picture"].endswith("3.png")
    assert damaged["rank"] is None
    named = {row["picture"]: row["category_id"] for row in again if row["rank"] == 1}
    assert named == {picture: category for picture, category in whole.items() if "3.png" not in picture}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["birds", name], "nothing half-written is left"
    assert main([*asked, "--output", str(tmp_path / "names.txt")]) == 2


def test_an_added_category_scores_as_if_it_had_always_been_there(registered: Workspace) -> None:
    extra = add(registered, "birds@candidate", "Grosbeak", "red belly")
    grown = open_recogniser(registered, "birds@candidate")
    whole = Recogniser(grown.backbone, [*CATEGORIES, extra])
    images = [image for image, _ in random_birds(3, seed=5)]
    for answer in ("alignment", "names"):
        torch.testing.assert_close(
            grown.answer(images, answer).scores, whole.answer(images, answer).scores, atol=1e-5, rtol=0
        )


def test_the_list_tells_index_from_added_and_what_was_added_can_go(registered: Workspace, capfd: Any) -> None:
    add(registered, "birds/1", "Grosbeak")
    assert main(["categories", "list", "birds/1", "--json"]) == 0
    *rows, last = map(json.loads, capfd.readouterr().out.splitlines())
    assert {row["name"]: row["source"] for row in rows} == {
        "Tern": "index",
        "Auk": "index",
        "Grosbeak": "added",
    }
    assert (last["event"], last["index"], last["added"]) == ("done", 2, 1)
    assert main(["categories", "list", "birds/1"]) == 0
    assert "Grosbeak" in capfd.readouterr().out
    assert main(["categories", "remove", "birds/1", "--name", "grosbeak"]) == 0
    assert known(registered, "birds/1").added == ()


def test_what_a_later_version_learned_is_not_added_again(registered: Workspace) -> None:
    file = registered.categories / "birds.jsonl"
    file.write_text('{"name": "AUK", "description": null}\n{"name": "Gull", "description": null}\n')
    assert [category.name for category in known(registered, "birds/1").added] == ["Gull"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add", "birds/1", "--name", "tern"], "two categories have the"),
        (["add", "birds/1", "--name", "!"], "--name: '!' is no name for a category;"),
        (["add", "cars", "--name", "Audi"], "cars: no registered model of this name;"),
        (["remove", "birds/1", "--name", "Tern"], "no category 'Tern' was added; added: none was"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(arguments: list[str], message: str, capfd: Any) -> None:
    assert main(["categories", *arguments]) == 2
    error = capfd.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_folder_has_its_index_and_takes_no_more(folder: Path, registered: Workspace, capfd: Any) -> None:
    assert known(registered, str(folder)).added == ()
    assert main(["categories", "add", str(folder), "--name", "Gull"]) == 2
    assert "not to a folder or run; register it" in capfd.readouterr().err


def predicted(workspace: Workspace, picture: Path) -> tuple[int, str, str]:
    """Exit code, last line and errors of a process that asks the champion, and tells what it imported."""
    script = (
        "import sys\n"
        "from finedefics_platform.cli.main import main\n"
        "code = main(['predict', 'birds@champion', sys.argv[1]])\n"
        "print('imported', sorted({'ray', 'mlflow', 'pandas', 'sqlalchemy'} & set(sys.modules)))\n"
        "sys.exit(code)\n"
    )
    environment = {**os.environ, "FINEDEFICS_HOME": str(workspace.root)}
    done = subprocess.run(
        [sys.executable, "-c", script, str(picture)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout.splitlines()[-1], done.stderr


def test_the_registry_is_read_without_mlflow_and_says_what_mlflow_says(
    registered: Workspace, tmp_path: Path
) -> None:
    ((image, _),) = random_birds(1, seed=2)
    image.save(tmp_path / "bird.png")
    promote(registered, "birds", 1, reason="the first", force="a test")
    client, own = open_client(registered), own_registry(registered)
    assert own is not None
    for wanted in (None, "name = 'birds'", "name = 'birds-decisions'", "name = 'away'"):
        theirs, ours = client.search_registered_models(wanted), own.search_registered_models(wanted)
        aliases = [{alias: int(number) for alias, number in model.aliases.items()} for model in theirs]
        assert [(model.name, model.tags) for model in theirs] == [(model.name, model.tags) for model in ours]
        assert aliases == [model.aliases for model in ours]
    for name in ("birds", "birds-decisions", "away"):
        both = [reader.search_model_versions(f"name = '{name}'") for reader in (client, own)]
        facts = ("name", "run_id", "creation_timestamp", "source", "description", "tags")
        theirs, ours = ([[getattr(v, fact) for fact in facts] for v in found] for found in both)
        assert theirs == ours
        assert [int(v.version) for v in both[0]] == [v.version for v in both[1]]

    assert predicted(registered, tmp_path / "bird.png")[:2] == (0, "imported []")
    # what changed a moment ago is seen: the alias is looked up, and compared with the log, each time
    client.set_registered_model_alias("birds", "candidate", "1")
    client.delete_registered_model_alias("birds", "champion")
    code, last, error = predicted(registered, tmp_path / "bird.png")
    assert (code, last) == (1, "imported []")
    assert (
        "birds@champion: the alias champion was moved by hand to nothing; the log of decisions says birds/1"
        in error
    )
    client.set_registered_model_alias("birds", "champion", "1")
    assert predicted(registered, tmp_path / "bird.png")[0] == 0


def test_a_registry_that_is_not_known_is_left_to_mlflow(
    registered: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert own_registry(open_workspace(tmp_path / "nothing yet")) is None
    assert not (tmp_path / "nothing yet").exists()
    monkeypatch.setattr("finedefics_platform.tracking.own_registry.REVISIONS", ("another",))
    assert own_registry(registered) is None
    assert open_model(registered, "birds/1").version is not None, "MLflow answers in its place"
    monkeypatch.undo()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/elsewhere.db")
    assert own_registry(registered) is None
