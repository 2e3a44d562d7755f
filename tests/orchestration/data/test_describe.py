"""Describing without a model: which describer is taken, what a file or a category says, one vocabulary."""

import json
from pathlib import Path
from typing import Any

import pytest
from bird_folder import encoded, put

from finedefics.errors import FinedeficsError
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.cli.main import main
from finedefics_platform.data.describing import Settings, best_describer, describe
from finedefics_platform.data.describing.run import _allowed
from finedefics_platform.data.ingesting import ingest
from finedefics_platform.data.store import Dataset, open_dataset


@pytest.fixture
def known(workspace: Workspace, tmp_path: Path, ray_cluster: Any) -> Dataset:
    """Four pictures of two kinds; of the kinds something is known, of the pictures nothing."""
    for number in range(4):
        put(tmp_path / "known", f"train/{('auk', 'wren')[number % 2]}/{number}.png", encoded(number))
    rows = [
        {"name": "auk", "super_category": "bird", "attributes": {"bill": "Grey", "tail": "short"}},
        {"name": "wren", "super_category": "bird", "attributes": {"bill": "grey ", "tail": "very short"}},
    ]
    (tmp_path / "known/categories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ingest(workspace, "known", tmp_path / "known", row_group_rows=3)


def test_categories_describe_where_pictures_are_not_annotated(
    workspace: Workspace, known: Dataset, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("FINEDEFICS_HOME", str(workspace.root))
    assert best_describer(known) == "categories"
    assert main(["data", "describe", "known"]) == 0
    shown = capfd.readouterr().out
    assert "describer: categories" in shown
    assert "whether or not a picture shows it" in shown
    assert "Wordings taken for one value" in shown, "Grey, grey"
    made = open_dataset(workspace, "known")
    told = made.manifest["provenance"]["descriptions"]
    assert (told["of"], told["coverage"]) == ("category", {"bill": 1.0, "tail": 1.0})
    bills = {
        pair["value"]
        for row in made.table("descriptions").to_pylist()
        for pair in row["attributes"]
        if pair["name"] == "bill"
    }
    assert len(bills) == 1, "two spellings are one value"
    texts = {c.category_id: c.description for c in made.categories()}
    assert texts == {"auk": "Grey bill and short tail", "wren": "Grey bill and very short tail"}
    described = set(made.table("descriptions")["description"].to_pylist())
    assert described == set(texts.values()), "and pictures and categories speak with one tongue"


def test_a_file_describes_and_rows_without_a_picture_are_told(
    workspace: Workspace, known: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("FINEDEFICS_HOME", str(workspace.root))
    sources = known.table("samples", ["source", "sample_id"]).to_pylist()
    rows = [
        {"source": sources[0]["source"], "attributes": {"tail": "long"}},
        {"sample_id": sources[1]["sample_id"], "description": "a grey bird"},
        {"source": "nowhere.png", "description": "nobody"},
    ]
    notes = tmp_path / "notes.jsonl"
    notes.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["data", "describe", "known", "--describer", f"file:{notes}", "--json"]) == 0
    last = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (last["without_description"], last["rows_without_picture"]) == (2, 1)
    found = {
        row["sample_id"]: row["description"]
        for row in open_dataset(workspace, "known").table("descriptions").to_pylist()
    }
    assert sorted(text for text in found.values() if text) == ["a grey bird", "long tail"]
    assert main(["data", "describe", "known", "--describer", f"file:{notes}"]) == 0
    shown = capfd.readouterr().out
    assert "1 rows of the file name no picture here: nowhere.png" in shown
    assert "2: the describer has nothing to say of it" in shown


def test_where_nothing_is_known_the_describers_are_named(
    workspace: Workspace, tmp_path: Path, ray_cluster: Any
) -> None:
    put(tmp_path / "plain", "train/auk/0.png", encoded(0))
    ingest(workspace, "plain", tmp_path / "plain")
    with pytest.raises(
        FinedeficsError, match=r"says nothing of its pictures or categories; name one: --describer openai"
    ):
        describe(workspace, "plain")


def test_a_describer_of_ones_own_is_a_file(workspace: Workspace, known: Dataset, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from finedefics.describers import DESCRIBERS, Description\n"
        "@DESCRIBERS.register('mine')\n"
        "class Mine:\n"
        "    reads_images = True\n"
        "    describer_id = 'mine-1'\n"
        "    def __init__(self, given): self.names = [c.name for c in given.categories]\n"
        "    def __call__(self, subjects):\n"
        "        of = str(len(self.names))\n"
        "        return [Description('', {'bytes': str(len(s.image)), 'of': of}) for s in subjects]\n"
    )
    made = describe(workspace, "known", describer=str(mine))
    rows = made.table("descriptions").to_pylist()
    assert all(row["description"].endswith("bytes and 2 of") for row in rows)
    assert {row["describer_id"] for row in rows} == {"mine-1"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--describer", "clever"], "unknown describer; choose one of: annotations, categories, file"),
        (["--describer", "openai"], "no model is named; write openai:MODEL"),
        (["--describer", "openai:m", "--wording", "verse"], "unknown wording"),
        (["--describer", "categories", "--estimate"], "it asks no model about pictures"),
        (["--describer", "openai:m"], "no endpoint is named; set OPENAI_BASE_URL"),
    ],
)
def test_wrong_use_is_one_line(
    known: Dataset,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Any,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setenv("FINEDEFICS_HOME", str(workspace.root))
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert main(["data", "describe", "known", *arguments]) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


def test_all_may_fail_where_the_user_says_so() -> None:
    assert _allowed(Settings(allow_failed=0.05), 40) == 2
    assert _allowed(Settings(allow_failed=1.0), 40) == float("inf")
