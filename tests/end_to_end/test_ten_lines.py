"""The Python lines that README shows, run as they stand there."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from bird_folder import encoded, put
from tiny_models import save_tiny

import finedefics_platform

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs/python.md", ROOT / "README.md"]
LOOKS = {"tern": "red crown", "wren": "brown crown", "alba": "white crown"}
EXPERIMENT = {
    "name": "birds",
    "data": {"dataset": "birds", "negatives": 2},
    "model": {"path": "base"},
    "stages": [
        {
            "name": "align",
            "steps": 2,
            "feeds": {"labelled": 4, "text": 2},
            "terms": {"answer": 1, "object_attribute": 1, "attribute_category": 1},
        }
    ],
    "resources": {"workers": 0},
}


def shown(page: Path) -> list[str]:
    """The blocks of Python on a page."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.S | re.M)


def test_the_names_are_looked_up_when_they_are_used() -> None:
    heavy = "{'torch', 'ray', 'mlflow', 'pydantic'}"
    code = f"import sys, finedefics_platform; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr
    for name in finedefics_platform.__all__:
        assert getattr(finedefics_platform, name).__doc__
    assert set(finedefics_platform.__all__) <= set(dir(finedefics_platform))
    with pytest.raises(AttributeError, match="no attribute 'spice'"):
        _ = finedefics_platform.spice  # type: ignore[attr-defined]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of photographs with attributes, an experiment, and a picture to name."""
    monkeypatch.chdir(tmp_path)
    number, notes = 0, []
    for species, look in LOOKS.items():
        for split, count in (("train", 4), ("val", 2), ("test", 2)):
            for _ in range(count):
                source = f"{split}/{number}.png"
                put(tmp_path / "photos", source, encoded(number))
                attributes = {"crown": look.split()[0]}
                notes.append({"image": source, "split": split, "category": species, "attributes": attributes})
                number += 1
    known = [
        {"name": name, "description": look, "attributes": {"crown": look.split()[0]}}
        for name, look in LOOKS.items()
    ]
    for name, rows in (("annotations", notes), ("categories", known)):
        (tmp_path / f"photos/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_tiny("idefics2", tmp_path / "base")
    (tmp_path / "birds.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    put(tmp_path, "new.jpg", encoded(999, "JPEG"))
    return tmp_path


@pytest.mark.slow
def test_what_is_shown_runs(here: Path, ray_cluster: object, capsys: pytest.CaptureFixture[str]) -> None:
    [code] = shown(PAGES[0])
    names: dict[str, Any] = {}
    exec(compile(code, "ten lines", "exec"), names)
    said = capsys.readouterr().out
    assert "'accuracy': " in said
    assert [line.rpartition(" ")[0] for line in said.splitlines()[1:]].count("lorn siskin") <= 1
    assert {line.rpartition(" ")[0] for line in said.splitlines()[1:]} <= {*LOOKS, "lorn siskin"}
    assert len(said.splitlines()) == 1 + 3
    assert (here / ".finedefics" / "runs" / names["run"].key / "result.json").is_file()
    categories = names["predict"](names["shown"].version, ["new.jpg"], top=9)[0]
    assert {named.name for named in categories} == {*LOOKS, "lorn siskin"}


def test_the_pages_show_the_same_lines() -> None:
    assert len({tuple(shown(page)) for page in PAGES}) == 1
    assert [len(shown(page)) for page in PAGES] == [1, 1]
