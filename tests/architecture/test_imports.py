"""Imports run one way: jobs -> finedefics_platform -> finedefics, and the method knows no orchestration."""

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")
OWN = {"finedefics", "finedefics_platform", "jobs", "benchmarks", "tools", "tests"}


def python_files(*folders: str) -> list[Path]:
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def imported_packages(file: Path) -> set[str]:
    """Top-level names of what a file imports absolutely, imports inside functions included."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(), filename=str(file))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


def run_import_linter(folder: Path) -> subprocess.CompletedProcess[str]:
    # The copy's packages have to be found before the installed ones.
    return subprocess.run(
        [str(LINT_IMPORTS), "--no-cache"],
        cwd=folder,
        env={"PYTHONPATH": f"{folder}:{folder / 'platform'}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def copied_tree(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in ("finedefics", "platform"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_import_linter_keeps_its_contracts(copied_tree: Path) -> None:
    done = run_import_linter(copied_tree)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("place", "statement", "broken"),
    [
        ("finedefics", "import ray", "The method knows no orchestration BROKEN"),
        (
            "finedefics",
            "import finedefics_platform.base.workspace",
            "Imports run one way: the platform builds on the method BROKEN",
        ),
        (
            "platform/finedefics_platform/data",
            "import finedefics_platform.models.registry",
            "Rooms of the platform import downwards BROKEN",
        ),
        (
            "platform/finedefics_platform/search",
            "import finedefics_platform.models.registry",  # beside each other, not on top of each other
            "Rooms of the platform import downwards BROKEN",
        ),
    ],
)
def test_import_linter_refuses_an_import_that_runs_back(
    copied_tree: Path, place: str, statement: str, broken: str
) -> None:
    (copied_tree / place / "astray.py").write_text(statement + "\n")
    done = run_import_linter(copied_tree)
    assert done.returncode == 1
    assert broken in done.stdout


def test_a_room_that_no_floor_names_is_refused(copied_tree: Path) -> None:
    room = copied_tree / "platform/finedefics_platform/cellar"
    room.mkdir()
    (room / "__init__.py").touch()
    done = run_import_linter(copied_tree)
    assert done.returncode == 1
    assert "finedefics_platform.cellar" in done.stdout


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("index", "from finedefics.scoring.recogniser import Recogniser"),
        ("asked", "from finedefics.scoring.answers import ANSWERS"),
        ("weighing", "from finedefics.scoring.ensemble import PARTS"),
    ],
)
def test_import_linter_refuses_a_guarded_circle_in_scoring(
    copied_tree: Path, module: str, statement: str
) -> None:
    file = copied_tree / "finedefics" / "scoring" / f"{module}.py"
    guard = f"from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    {statement}\n"
    file.write_text(file.read_text() + guard)
    done = run_import_linter(copied_tree)
    assert done.returncode == 1
    assert "Scoring is layered: the model that is asked knows no answer BROKEN" in done.stdout


def test_no_package_imports_jobs_or_tests() -> None:
    for file in python_files("finedefics", "platform"):
        assert not imported_packages(file) & {"jobs", "tests", "benchmarks", "cluster", "tools"}, file


def test_jobs_know_the_platform_and_no_engine() -> None:
    engines = {"ray", "mlflow", "deepspeed", "torch", "transformers"}
    for file in python_files("jobs"):
        assert not imported_packages(file) & engines, file


def undeclared(files: list[Path], declared: set[str]) -> Iterator[str]:
    distributions = metadata.packages_distributions()
    for file in files:
        # helper modules: of a test's own folder, and of all tests
        beside = {other.stem for folder in (file.parent, ROOT / "tests") for other in folder.glob("*.py")}
        for name in imported_packages(file) - OWN - beside - sys.stdlib_module_names:
            providers = {canonicalize_name(one) for one in distributions.get(name, [name])}
            if not providers & declared:
                yield f"{file.relative_to(ROOT)} imports {name}"


def test_every_imported_package_is_a_declared_dependency() -> None:
    requirements = [Requirement(line) for line in metadata.requires("finedefics") or []]
    always = {canonicalize_name(one.name) for one in requirements if one.marker is None}
    any_extra = {canonicalize_name(one.name) for one in requirements}
    serving = {canonicalize_name(one.name) for one in requirements if 'extra == "serve"' in str(one.marker)}
    ours = python_files("finedefics", "platform", "jobs")
    room = [file for file in ours if "serving" in file.parts]
    assert list(undeclared([file for file in ours if file not in room], always)) == []
    assert list(undeclared(room, always | serving)) == []
    assert list(undeclared(python_files("tests", "benchmarks"), any_extra)) == []


def test_every_direct_dependency_is_explained() -> None:
    explained = (ROOT / "docs" / "dependencies.md").read_text().lower()
    for line in metadata.requires("finedefics") or []:
        assert f"`{Requirement(line).name.lower()}" in explained, (
            f"docs/dependencies.md does not explain {line}"
        )


def test_the_package_offers_what_its_interface_has() -> None:
    """The list stands twice, so that the package's own costs no import."""
    import finedefics_platform
    from finedefics_platform import api

    assert finedefics_platform.__all__ == api.__all__
    assert all(getattr(finedefics_platform, name) is getattr(api, name) for name in api.__all__)
