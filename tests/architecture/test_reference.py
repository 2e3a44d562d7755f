"""What is written about keys and commands is what the code says, and every key is worth reading about."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from finedefics_platform.cli.main import COMMANDS, main
from finedefics_platform.cli.schema import KINDS, schema_of
from tools import reference

ROOT = Path(__file__).parents[2]
FILES = {
    "experiment": "jobs/experiments/*.yaml",
    "recipe": "jobs/studies/recipes/*.yaml",
    "search": "platform/finedefics_platform/demo/search.yaml",
    "study": "jobs/studies/*.yaml",
    "job": "jobs/specs/*.yaml",
    "cluster": "cluster/*.yaml",
    "gate": "jobs/gates/*.yaml",
}


def test_the_pages_are_current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert reference.main(["--check"]) == 0, capsys.readouterr().out
    monkeypatch.setattr(reference, "PAGES", tmp_path)
    assert reference.main([]) == 0
    (tmp_path / "experiment.md").write_text("old")
    assert reference.main(["--check"]) == 1
    assert "experiment.md" in capsys.readouterr().out


def test_every_command_is_on_the_page() -> None:
    said = (ROOT / "docs/reference/cli.md").read_text()
    assert [name for name in COMMANDS if f"\n## `finedefics {name}`\n" not in said] == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_says_what_it_is_for(kind: str) -> None:
    assert [path for path, said in _keys(schema_of(kind)) if len(said) < 8] == []


@pytest.mark.parametrize("kind", FILES)
def test_what_is_shipped_is_right_by_its_schema(kind: str) -> None:
    right = Draft202012Validator(schema_of(kind))
    files = sorted(ROOT.glob(FILES[kind]))
    assert files
    for file in files:
        document = yaml.safe_load(file.read_text())
        assert [error.message for error in right.iter_errors(document)] == [], file
        document["surprise"] = 1
        assert [error.validator for error in right.iter_errors(document)] == ["additionalProperties"]


def test_a_schema_takes_what_the_program_takes_in_another_form() -> None:
    """A weight as a number, a duration with a unit, a switch that YAML reads as a truth value."""
    experiment = yaml.safe_load((ROOT / "jobs/experiments/one-gpu.yaml").read_text())
    experiment["stages"][0]["terms"] = {"answer": 1, "caption": {"weight": 2, "feeds": ["captioned"]}}
    experiment["evaluation"] = {"calibration": True}
    assert list(Draft202012Validator(schema_of("experiment")).iter_errors(experiment)) == []
    job = yaml.safe_load((ROOT / "jobs/specs/train.yaml").read_text())
    job |= {"stop_grace": "5min", "deadline": 60, "environment": {"N": 3}, "entrypoint": {"memory": "4GiB"}}
    assert list(Draft202012Validator(schema_of("job")).iter_errors(job)) == []


def test_a_schema_is_printed_or_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "experiment"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == schema_of("experiment")
    file = tmp_path / "job.json"
    assert main(["schema", "job", "--output", str(file)]) == 0
    assert yaml.safe_load(file.read_text()) == schema_of("job")
    assert f"$schema={file}" in capsys.readouterr().out
    assert main(["schema", "jbo"]) == 2
    assert "use experiment, search" in capsys.readouterr().err
    assert main(["schema", "job", "--output", str(tmp_path / "no" / "job.json")]) == 1
    assert "cannot be written" in capsys.readouterr().err


def _keys(schema: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every key of a schema with what is said of it, by itself or by its section."""
    sections = {"": schema} | schema.get("$defs", {})
    for name, section in sections.items():
        for key, value in section.get("properties", {}).items():
            of_section = sections.get(value.get("$ref", "").rsplit("/", 1)[-1], {}) if "$ref" in value else {}
            yield f"{name}.{key}", value.get("description", of_section.get("description", ""))
