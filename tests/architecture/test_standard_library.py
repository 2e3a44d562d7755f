"""The folder `platform/` never shadows the standard library's module of that name."""

import platform
import subprocess
import sys
import sysconfig
import uuid
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STANDARD = Path(sysconfig.get_paths()["stdlib"]).resolve()
PROGRAM = "import platform, uuid; print(platform.__file__); print(uuid.__file__)"


def test_standard_modules_are_found_from_the_repository_root() -> None:
    # `-c` puts the current folder first in sys.path: the case in which a package `platform` would win.
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert [Path(line).resolve().parent for line in done.stdout.split()] == [STANDARD, STANDARD]


def test_standard_modules_are_found_in_the_test_process() -> None:
    assert Path(platform.__file__).resolve().parent == STANDARD
    assert Path(uuid.__file__).resolve().parent == STANDARD


def test_standard_modules_are_found_inside_a_ray_worker(ray_cluster: Any) -> None:
    @ray_cluster.remote
    def locate() -> list[str]:
        import platform
        import uuid

        return [platform.__file__, uuid.__file__]

    found = ray_cluster.get(locate.remote(), timeout=120)
    assert [Path(file).resolve().parent for file in found] == [STANDARD, STANDARD]


def test_the_folder_is_a_source_root_and_no_package() -> None:
    assert (ROOT / "platform" / "finedefics_platform" / "__init__.py").is_file()
    assert not (ROOT / "platform" / "__init__.py").exists()
    assert not (ROOT / "tests" / "platform").exists()
