"""The tree stays readable and portable: short files, no path of one machine, pinned dependencies."""

import re
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LONGEST_FILE = 400
# Written in pieces, so that this file does not find itself.
MACHINE_PATH = re.compile("/" + "(?:work|root)" + "/")


def tracked_files() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def text_of(file: Path) -> str:
    try:
        return file.read_text()
    except UnicodeDecodeError:  # a picture
        return ""


def test_python_files_are_short() -> None:
    lengths = {file: len(text_of(file).splitlines()) for file in tracked_files() if file.suffix == ".py"}
    assert {str(file): length for file, length in lengths.items() if length >= LONGEST_FILE} == {}


def test_no_tracked_file_names_a_path_of_one_machine() -> None:
    assert [str(file) for file in tracked_files() if MACHINE_PATH.search(text_of(file))] == []


def test_constraints_pin_every_direct_dependency_in_its_range() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    versions = {canonicalize_name(name): version for name, version in pins.items()}
    for one in map(Requirement, metadata.requires("finedefics") or []):
        version = versions.get(canonicalize_name(one.name))
        assert version is not None, f"{one.name} is not pinned"
        assert one.specifier.contains(version, prereleases=True), f"{one} excludes the pinned {version}"
