"""A registered version for others: a folder that transformers alone loads, and its card."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from registered import answers, evaluation_of, trained_run
from typer.testing import CliRunner

from finedefics.errors import FinedeficsError
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.cli.models import app
from finedefics_platform.models.exporting import card_of, export
from finedefics_platform.models.promotion import promote
from finedefics_platform.models.references import open_model
from finedefics_platform.models.registration import register_run


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """One version of a tiny model with an index of two categories, which is champion."""
    from finedefics.base_model import untrained_backbone
    from finedefics.records import Category
    from finedefics.scoring import Recogniser

    folder = tmp_path_factory.mktemp("made")
    workspace = open_workspace(folder / "a workspace")
    backbone = untrained_backbone()
    backbone.save_pretrained(folder / "final")
    categories = [Category("tern", "Tern", description="a white bird"), Category("auk", "Auk")]
    Recogniser(backbone, categories).index.save(folder / "index")
    run = trained_run(workspace, "shared", model=folder / "final")
    evaluated = evaluation_of(workspace, run, answers(300), index=folder / "index")
    register_run(workspace, "birds", run, evaluated)
    promote(workspace, "birds", 1, reason="the first")
    return workspace


LOADS = """
import sys
from transformers import AutoModelForImageTextToText, AutoProcessor
processor = AutoProcessor.from_pretrained(sys.argv[1])
model, told = AutoModelForImageTextToText.from_pretrained(sys.argv[1], output_loading_info=True)
assert not any(name.startswith("finedefics") for name in sys.modules)
text = processor.tokenizer("a white bird", return_tensors="pt")
print(sorted(told["missing_keys"]), model(**text).logits.shape[1] == text["input_ids"].shape[1])
"""


def test_plain_transformers_loads_what_is_exported(recorded: Workspace, tmp_path: Path) -> None:
    version, folder = export(recorded, "birds@champion", tmp_path / "out", licence="apache-2.0")
    assert version.reference == "birds/1"
    done = subprocess.run(
        [sys.executable, "-c", LOADS, str(folder)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[] True"
    opened = open_model(recorded, str(folder))
    assert opened.index is not None, "it has its names with it"
    assert str(recorded.root) not in "".join(
        file.read_text() for file in folder.rglob("*") if file.suffix in (".json", ".md")
    )


def test_the_card_has_figures_recipe_limits_and_licence(recorded: Workspace) -> None:
    text = card_of(recorded, "birds/1")
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "unknown"
    assert "license: unknown  # unknown: fill in" in text
    assert (front["library_name"], front["pipeline_tag"]) == ("transformers", "image-text-to-text")
    (result,) = front["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == 0.75
    assert result["dataset"]["revision"] == "d1"
    words = (
        "| birds | alignment | new | 75.0 % | 70.5 to 79.0 | 400 |",
        "AutoModelForImageTextToText.from_pretrained",
        "- data: `birds@d1`",
        "| align | 4 |",
        "It names 2 categories (Tern, Auk)",
        "*Unknown* is said only where a threshold",
        "unknown: fill in. Base model",
    )
    assert [word for word in words if word not in text] == []
    named = card_of(recorded, "birds@champion", licence="apache-2.0")
    assert yaml.safe_load(named.split("---")[1])["license"] == "apache-2.0"
    assert "fill in" not in named


def test_nothing_is_written_over_without_being_asked_to(recorded: Workspace, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "precious.txt").write_text("x")
    with pytest.raises(FinedeficsError, match="there is something already") as caught:
        export(recorded, "birds/1", kept)
    assert caught.value.exit_code == 2
    with pytest.raises(FinedeficsError, match="no version 9"):
        export(recorded, "birds/9", kept, force=True)
    assert [file.name for file in kept.iterdir()] == ["precious.txt"], "it goes when the new one stands"
    export(recorded, "birds/1", kept, force=True)
    assert not (kept / "precious.txt").exists()
    assert (kept / "README.md").is_file()
    (tmp_path / "empty").mkdir()
    export(recorded, "birds/1", tmp_path / "empty")
    (tmp_path / "file").write_text("x")
    with pytest.raises(FinedeficsError, match="a file"):
        export(recorded, "birds/1", tmp_path / "file", force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "kept"], (
        "nothing is left beside"
    )


def test_the_command_line_exports_and_prints_cards(recorded: Workspace, tmp_path: Path) -> None:
    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, list(arguments), env={"FINEDEFICS_HOME": str(recorded.root)})

    done = run("export", "birds@champion", str(tmp_path / "out"), "--json")
    assert done.exit_code == 0, done.exception
    assert json.loads(done.stdout.splitlines()[-1])["reference"] == "birds/1"
    assert "fill it in" in run("export", "birds/1", str(tmp_path / "other")).output
    assert run("card", "birds").output.startswith("---\n")
    assert run("card", "birds", "--output", str(tmp_path / "CARD.md"), "--license", "mit").exit_code == 0
    assert "license: mit" in (tmp_path / "CARD.md").read_text()
    assert "something already" in str(run("card", "birds", "--output", str(tmp_path / "CARD.md")).exception)
