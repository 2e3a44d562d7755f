"""The packages: their versions, and whether the large ones work."""

import os
import tempfile
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from finedefics_platform.operate.checks.finding import SLOW_IMPORT_SECONDS, Check, run_python

DISTRIBUTION = "finedefics"
RAY_SECONDS = 120


def check_packages() -> Check:
    """Every package that the distribution asks for is there in a version it works with."""
    if not is_installed():
        return Check("packages", "fail", "the distribution is not installed", "run `pip install -e .`")
    wrong = []
    needed = [Requirement(line) for line in metadata.requires(DISTRIBUTION) or []]
    needed = [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    for one in needed:
        try:
            version = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{one.name} is missing")
            continue
        if not one.specifier.contains(version, prereleases=True):
            wrong.append(f"{one.name} {version} (needed {one.specifier})")
    if wrong:
        return Check("packages", "fail", ", ".join(wrong), "run `pip install -c constraints.txt -e .`")
    return Check("packages", "ok", f"{len(needed)} packages in versions that fit")


def check_deepspeed() -> Check:
    """DeepSpeed is importable, and importing it compiles nothing."""
    with tempfile.TemporaryDirectory() as built:
        found = run_python("import deepspeed", seconds=SLOW_IMPORT_SECONDS, TORCH_EXTENSIONS_DIR=built)
        compiled = sorted(path.name for path in Path(built).iterdir())
    if not found.ok:
        reason = found.output.splitlines()[-1] if found.output else "no reason given"
        cure = "set DS_IGNORE_CUDA_DETECTION=1 where nvcc is missing, else reinstall with constraints.txt"
        return Check("deepspeed", "fail", f"cannot be imported ({reason})", cure)
    if compiled:
        cure = "unset the DS_BUILD_* variables; the platform needs no compiled operation"
        return Check("deepspeed", "warn", f"its import compiles {', '.join(compiled)}", cure)
    return Check("deepspeed", "ok", f"{metadata.version('deepspeed')}, nothing to compile")


def check_ray() -> Check:
    """A Ray cluster starts (or the one named by RAY_ADDRESS answers) and runs a task."""
    address = os.environ.get("RAY_ADDRESS")
    start = "" if address else "num_cpus=1, include_dashboard=False, "
    program = (
        f"import ray; ray.init({start}log_to_driver=False); "
        "print(ray.get(ray.remote(num_cpus=0)(lambda: 'answered').remote()))"
    )
    found = run_python(program, seconds=RAY_SECONDS)
    if found.ok and found.output.endswith("answered"):
        return Check(
            "ray", "ok", f"the cluster at {address} answers" if address else "a local cluster starts"
        )
    reason = found.output.splitlines()[-1] if found.output else "no reason given"
    cure = "unset RAY_ADDRESS or correct it" if address else "free memory and room in the temporary folder"
    return Check("ray", "fail", f"no task came back ({reason})", cure)


def is_installed() -> bool:
    """Whether the distribution is installed and not only on the path."""
    try:
        metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return False
    return True
