"""`make` asks nothing of the user but a Python, and says so in one line where none fits."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make")


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_help_lists_the_targets() -> None:
    told = make("help").stdout
    for target in ("demo", "test", "test-slow", "lint", "audit", "bench", "ui"):
        assert f"make {target} " in told


def test_a_python_that_only_exists_is_not_taken(tmp_path: Path) -> None:
    shim = tmp_path / "python3.12"
    shim.write_text("#!/bin/sh\necho 'command not found' >&2\nexit 127\n")
    shim.chmod(0o755)
    done = make("demo", f"VENV={tmp_path / 'venv'}", f"PYTHON={shim} no-such-python")
    assert done.returncode == 2
    assert done.stderr.startswith("error: Python: no interpreter from 3.11 to 3.13 with venv runs")
    assert "make PYTHON=/path/to/python" in done.stderr.splitlines()[0]
    assert not (tmp_path / "venv").exists()
