"""`finedefics predict`: which models, which names, which pictures, and what becomes of bad ones."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image
from registered import evaluation_of, trained_run
from served import model_folder, pictures
from tiny_models import save_tiny

from finedefics.errors import FinedeficsError
from finedefics.scoring import Recogniser
from finedefics.scoring.unknown import Unknown
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.cli.main import main
from finedefics_platform.models.category_file import read_categories

__all__ = ["model_folder", "pictures"]


@pytest.fixture
def picture(tmp_path: Path, pictures: Sequence[bytes]) -> Path:
    file = tmp_path / "bird.png"
    file.write_bytes(pictures[0])
    return file


@pytest.fixture
def home(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("FINEDEFICS_HOME", str(workspace.root))
    return workspace


def asked(capfd: Any, *arguments: object, code: int = 0) -> list[list[str]]:
    """Names of the candidates of every picture that was told of."""
    assert main(["predict", *map(str, arguments), "--json"]) == code
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    return [[c["name"] for c in line["candidates"]] for line in lines if line["event"] == "prediction"]


NAMES = "# of a garden\nGreat Tit\tyellow belly\n\nRobin\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.txt", NAMES),
        ("names.csv", 'number,name,description\n1,Great Tit,"yellow belly"\n2,Robin,\n'),
        ("names.tsv", "name\tdescription\nGreat Tit\tyellow  belly\nRobin\t\n"),
        ("n.jsonl", '{"name": "Great Tit", "description": "yellow belly", "more": 1}\n\n{"name": "Robin"}\n'),
    ],
)
def test_a_file_of_categories_has_names_and_descriptions(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    found = read_categories(tmp_path / name)
    assert [(c.category_id, c.name, c.description) for c in found] == [
        ("great-tit", "Great Tit", "yellow belly"),
        ("robin", "Robin", None),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"# nothing\n", "a.txt: there is no category in it; give a name a line"),
        ("a.txt", b"\xff\xfe\x00", "a.txt: the file is not UTF-8 text"),
        ("a.txt", b"Tern\ntern\n", "two categories have the id 'tern'"),
        ("a.txt", b"Tern\n!\n", "a.txt, line 2: '!' is no name for a category"),
        ("a.csv", b"species\nTern\n", "a.csv: no column `name`; the columns are: species"),
        ("a.jsonl", b'{"name": "Tern"}\n{"name"\n', "a.jsonl, line 2: no JSON"),
        ("a.jsonl", b'["Tern"]\n', "a.jsonl, line 1: no object"),
        ("a.jsonl", b'{"name": 3}\n', "a.jsonl, line 1: `name` is no text but 3"),
        ("a.csv", None, "a.csv: the categories cannot be read (no such file or directory)"),
    ],
)
def test_a_wrong_file_of_categories_is_named_by_its_line(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(FinedeficsError) as caught:
        read_categories(tmp_path / name)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_folder_and_a_run_answer_with_their_own_names_or_those_of_a_file(
    home: Workspace, model_folder: Path, picture: Path, tmp_path: Path, capfd: Any
) -> None:
    names = tmp_path / "names.txt"
    names.write_text(NAMES)
    assert set(asked(capfd, model_folder, picture)[0]) == {"Tern", "Auk", "Gull"}
    assert set(asked(capfd, model_folder, picture, "--categories", names)[0]) == {"Great Tit", "Robin"}
    bare = model_folder / "model"
    assert set(asked(capfd, bare, picture, "--categories", names)[0]) == {"Great Tit", "Robin"}
    assert main(["predict", str(bare), str(picture)]) == 1
    assert "it has no category index; give the names: --categories FILE" in capfd.readouterr().err

    run = trained_run(home, "one-1", model=bare, tracked=False)
    assert main(["predict", "one-1", str(picture)]) == 1
    error = capfd.readouterr().err
    assert "the data it was trained on is not here (there is no such dataset)" in error
    assert "--categories FILE, or evaluate it: `finedefics evaluate one-1 --data DATASET`" in error
    evaluation_of(home, run, [True], dataset="cars@d1", index=model_folder / "index")
    assert main(["predict", "one-1", str(picture)]) == 1, "an index of other data is not the run's own"
    capfd.readouterr()
    evaluation_of(home, run, [True], index=model_folder / "index")
    assert set(asked(capfd, "one-1", picture)[0]) == {"Tern", "Auk", "Gull"}


def test_below_the_threshold_the_answer_is_unknown(
    home: Workspace, model_folder: Path, picture: Path, tmp_path: Path, capfd: Any
) -> None:
    folder = tmp_path / "model with a threshold"
    folder.mkdir()
    (folder / "model").symlink_to(model_folder / "model")
    (folder / "index").mkdir()
    for file in (model_folder / "index").iterdir():
        (folder / "index" / file.name).write_bytes(file.read_bytes())
    plain = asked(capfd, folder, picture)
    assert main(["predict", str(folder), str(picture), "--unknown"]) == 1
    assert "no threshold was chosen for this model" in capfd.readouterr().err
    score = Recogniser.load(folder / "model", folder / "index").recognise([picture.read_bytes()])[0][0][2]
    for threshold, expected in [
        (score - 0.01, plain[0]),
        (score + 0.01, ["unknown", *plain[0][:2]]),
    ]:
        Unknown({"alignment": threshold}, "birds", "val", 10).save(folder / "index")
        assert asked(capfd, folder, picture, "--unknown") == [expected]
    assert main(["predict", str(folder), str(picture), "--unknown", "--answer", "names"]) == 1
    assert "no threshold was chosen for the answer names; use --answer with one that has one (alignment)" in (
        capfd.readouterr().err
    )


def test_bad_files_are_reported_and_skipped_and_the_others_answered(
    home: Workspace, model_folder: Path, picture: Path, tmp_path: Path, capfd: Any
) -> None:
    bad = {"empty.jpg": b"", "text.png": b"a letter to nobody", "cut.png": picture.read_bytes()[:300]}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    table = tmp_path / "names.parquet"
    files = [*(tmp_path / name for name in bad), tmp_path / "away.png", picture]
    named = asked(capfd, model_folder, *files, "--top", 1, "--output", table, code=1)
    assert [len(names) for names in named] == [0, 0, 0, 0, 1]
    rows = pq.read_table(table).to_pylist()
    assert [Path(row["picture"]).name for row in rows] == [file.name for file in files]
    assert rows[-1]["error"] is None
    assert main(["predict", str(model_folder), *map(str, files)]) == 1
    errors = capfd.readouterr().err
    for words in (
        "empty.jpg: the picture cannot be decoded (the file is empty); copy it again, or leave it out",
        "text.png: the picture cannot be decoded (the file is text); give a JPEG, PNG or WebP file",
        "cut.png: the picture cannot be decoded (",
        "away.png: cannot be read (no such file or directory); give its path as it is",
    ):
        assert f"error: {tmp_path}/{words}" in errors
    assert "0x" not in errors


def test_what_the_models_processor_refuses_costs_that_picture_alone(
    home: Workspace, picture: Path, tmp_path: Path, capfd: Any
) -> None:
    model = save_tiny("qwen2_5_vl", tmp_path / "model")  # refuses what is much longer than it is wide
    (tmp_path / "names.txt").write_text("Tern\nWren\n")
    Image.new("RGB", (400, 1)).save(tmp_path / "line.png")
    files = [tmp_path / "line.png", picture]
    named = asked(capfd, model, *files, "--categories", tmp_path / "names.txt", "--top", 1, code=1)
    assert [len(names) for names in named] == [0, 1]
    assert main(["predict", str(model), *map(str, files), "--categories", str(tmp_path / "names.txt")]) == 1
    assert f"error: {tmp_path}/line.png: the model's processor refuses the picture" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["bird.png", "model"], 2, "bird.png: this is a picture; name the model first"),
        (["model", "away.png"], 2, "away.png: there is no such picture; give pictures"),
        (["model", "nothing"], 2, "nothing: no picture in it; give pictures"),
        (["model", "bird.png", "--output", "names.txt"], 2, "names.txt: neither CSV nor Parquet"),
        (["model", "bird.png", "--output", "away/names.csv"], 2, "away: there is no such folder"),
        (["./away", "bird.png"], 2, "./away: there is no such folder"),
    ],
)
def test_what_cannot_be_asked_is_said_before_anything_is_loaded(
    home: Workspace,
    picture: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    message: str,
    capfd: Any,
) -> None:
    monkeypatch.chdir(picture.parent)
    Path("nothing").mkdir()
    assert main(["predict", *arguments]) == code
    assert message in capfd.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_not_called_empty(tmp_path: Path, capfd: Any) -> None:
    (tmp_path / "closed").mkdir(mode=0o000)
    assert main(["predict", "model", str(tmp_path / "closed")]) == 1
    assert "closed: the folder cannot be read (permission denied); check its rights" in capfd.readouterr().err


def test_a_local_model_is_asked_without_ray_mlflow_or_pandas(
    model_folder: Path, picture: Path, tmp_path: Path
) -> None:
    script = (
        "import sys\n"
        "from finedefics_platform.cli.main import main\n"
        "assert main(['predict', *sys.argv[1:]]) == 0\n"
        "heavy = {'ray', 'mlflow', 'pandas', 'deepspeed', 'sqlalchemy', 'peft', 'sklearn', 'pydantic.v1'}\n"
        "print('imported', sorted(heavy & set(sys.modules)))\n"
    )
    environment = {**os.environ, "FINEDEFICS_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", script, str(model_folder), str(picture)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported []"
    assert not (tmp_path / "home").exists(), "asking makes no workspace"
