"""Checks of the surroundings: what would stop a run is found in seconds, with the cure beside it."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from finedefics.errors import FinedeficsError
from finedefics_platform.base.secrets import without_secrets
from finedefics_platform.base.storage import Location, cache_folder
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.tracking.own_database import artifact_uri, has_records
from finedefics_platform.tracking.reachability import reach_tracking

DISTRIBUTION = "finedefics"
GIB = 2**30
DISK_NEEDED, DISK_COMFORTABLE = 1 * GIB, 5 * GIB  # the demo writes about half a GiB, a real run much more
MEMORY_NEEDED, MEMORY_COMFORTABLE = 2 * GIB, 4 * GIB  # Ray, MLflow and two small workers take about 3 GiB
SLOW_IMPORT_SECONDS = 180
RAY_SECONDS = 120
STORE_SECONDS = 10.0
STORE_CURES = {  # by what the store says
    "no.?such.?bucket|bucket does not exist": "make the bucket, or correct FINEDEFICS_HOME",
    "access.?denied|access.?key|signature|credential|token|forbidden": (
        "check the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for s3://) and their rights"
    ),
}


@dataclass(frozen=True)
class Check:
    """One finding: what was looked at, how it stands, and what to do where it is not well."""

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    cure: str = ""


def examine(workspace: Workspace, *, with_ray: bool = False) -> Iterator[Check]:
    """Yield the checks one by one as they are made; a Ray cluster is started only where asked for."""
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("python", check_python),
        ("standard library", check_standard_library),
        ("packages", check_packages),
        ("disk", lambda: check_disk(workspace)),
        ("memory", check_memory),
        ("devices", check_devices),
        ("workspace", lambda: check_workspace(workspace)),
        ("tracking", lambda: check_tracking(workspace)),
        ("deepspeed", check_deepspeed),
    ]
    if with_ray:
        checks.append(("ray", check_ray))
    for name, check in checks:
        try:
            yield check()
        except FinedeficsError as error:
            yield Check(name, "fail", f"{error.place}: {error.thing}", error.cure)


def check_python() -> Check:
    """The interpreter is one that the distribution was made for."""
    version = "{}.{}.{}".format(*sys.version_info[:3])
    wanted = metadata.metadata(DISTRIBUTION).json.get("requires_python", "") if _is_installed() else ""
    if wanted and not Requirement(f"python{wanted}").specifier.contains(version):
        return Check(
            "python", "fail", f"{version}, needed {wanted}", "make the environment with another Python"
        )
    return Check("python", "ok", f"{version} ({sys.executable})")


def check_standard_library(folder: Path | None = None) -> Check:
    """A Python started in ``folder`` (default: the current one) still finds the standard ``platform``."""
    found = _python("import platform, uuid; print(platform.__file__)", seconds=30, folder=folder)
    standard = Path(sysconfig.get_paths()["stdlib"])
    if found.ok and Path(found.output).parent.resolve() == standard.resolve():
        return Check("standard library", "ok", "`platform` is the standard one here")
    place = found.output.splitlines()[-1] if found.output else "unknown"
    cure = "remove platform.py or platform/__init__.py from this folder, or work from another one"
    return Check("standard library", "fail", f"`import platform` finds something else here ({place})", cure)


def check_packages() -> Check:
    """Every package that the distribution asks for is there in a version it works with."""
    if not _is_installed():
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


def check_disk(workspace: Workspace) -> Check:
    """Room on the disk of the workspace, or of the cache where the workspace is in an object store."""
    if workspace.root.local is not None:
        folder, what, variable = _existing(workspace.root.local), str(workspace.root), "FINEDEFICS_HOME"
    else:
        folder = cache_folder()
        what, variable = f"the cache, {folder}", "FINEDEFICS_CACHE"
    free = shutil.disk_usage(folder).free
    cure = f"free space, or set {variable} to a larger disk"
    return _at_least("disk", free, DISK_NEEDED, DISK_COMFORTABLE, f"{_gib(free)} free at {what}", cure)


def check_memory() -> Check:
    """Memory that is free to this process, a container's limit included."""
    import psutil

    free = int(psutil.virtual_memory().available)
    limit = _container_memory()
    if limit is not None:
        free = min(free, limit)
    cure = "end other programs, or use a machine with more memory"
    return _at_least("memory", free, MEMORY_NEEDED, MEMORY_COMFORTABLE, f"{_gib(free)} free", cure)


def check_devices() -> Check:
    """What there is to compute on."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return Check("devices", "ok", f"{cores} CPU cores, {len(names)} GPU: {', '.join(sorted(set(names)))}")
    if shutil.which("nvidia-smi") and _command(["nvidia-smi", "-L"], seconds=20).ok:
        cure = "install a CUDA build of torch in the version that constraints.txt pins"
        return Check("devices", "warn", f"a GPU, and torch {torch.__version__} cannot use it", cure)
    if cores < 2:
        return Check("devices", "warn", "1 CPU core, no GPU", "expect the demo to take twice as long")
    return Check("devices", "ok", f"{cores} CPU cores, no GPU (small models only)")


def check_workspace(workspace: Workspace) -> Check:
    """A file can be written and read where datasets, runs and models will live."""
    root = workspace.root.local
    if root is None:
        return _check_object_store(workspace.root)
    folder = _existing(root)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
        list(folder.iterdir())
    except OSError as error:
        cure = "set FINEDEFICS_HOME to a folder you may write to and read"
        return Check("workspace", "fail", f"cannot write to {folder} ({error.strerror})", cure)
    return Check("workspace", "ok", f"{root}{'' if root.exists() else ' (will be made)'}")


def _check_object_store(root: Location) -> Check:
    module = "finedefics_platform.operate.storage_probe"
    command = [sys.executable, "-m", module, root.uri, str(STORE_SECONDS)]
    found = _command(command, seconds=SLOW_IMPORT_SECONDS)
    if found.ok and not found.output:
        return Check("workspace", "ok", f"{root} can be written to and read")
    reason = found.output.splitlines()[-1] if found.output else "no reason given"
    cures = (cure for pattern, cure in STORE_CURES.items() if re.search(pattern, reason, re.IGNORECASE))
    cure = next(cures, "check the network and the address (AWS_ENDPOINT_URL for s3://)")
    return Check("workspace", "fail", f"{root}: {without_secrets(reason)}", cure)


def check_tracking(workspace: Workspace) -> Check:
    """The tracking database opens, or the tracking server answers."""
    if chosen := os.environ.get("MLFLOW_TRACKING_URI"):
        return Check("tracking", "ok", reach_tracking(chosen))
    artifact_uri(workspace.artifacts)
    if workspace.root.local is None:
        found = f"runs are recorded on this machine alone (SQLite in {cache_folder() / 'workspaces'})"
        cure = "to have them on every machine, set MLFLOW_TRACKING_URI to a tracking server"
        return Check("tracking", "warn", found, cure)
    if not has_records(workspace):
        return Check("tracking", "ok", "SQLite in the workspace (will be made)")
    return Check("tracking", "ok", reach_tracking(workspace.tracking_uri))


def check_deepspeed() -> Check:
    """DeepSpeed is importable, and importing it compiles nothing."""
    with tempfile.TemporaryDirectory() as built:
        found = _python("import deepspeed", seconds=SLOW_IMPORT_SECONDS, TORCH_EXTENSIONS_DIR=built)
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
    found = _python(program, seconds=RAY_SECONDS)
    if found.ok and found.output.endswith("answered"):
        return Check(
            "ray", "ok", f"the cluster at {address} answers" if address else "a local cluster starts"
        )
    reason = found.output.splitlines()[-1] if found.output else "no reason given"
    cure = "unset RAY_ADDRESS or correct it" if address else "free memory and room in the temporary folder"
    return Check("ray", "fail", f"no task came back ({reason})", cure)


@dataclass(frozen=True)
class _Outcome:
    ok: bool
    output: str


def _python(program: str, *, seconds: float, folder: Path | None = None, **environment: str) -> _Outcome:
    """Run a program in a fresh interpreter, so that a crash, a hang or a log line is its own."""
    return _command([sys.executable, "-c", program], seconds=seconds, folder=folder, **environment)


def _command(
    arguments: list[str], *, seconds: float, folder: Path | None = None, **environment: str
) -> _Outcome:
    try:
        done = subprocess.run(
            arguments,
            cwd=folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return _Outcome(False, f"no answer within {seconds:.0f} s")
    except OSError as error:
        return _Outcome(False, str(error))
    return _Outcome(done.returncode == 0, (done.stdout if done.returncode == 0 else done.stderr).strip())


def _is_installed() -> bool:
    try:
        metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return False
    return True


def _container_memory() -> int | None:
    """Bytes left under the control group's limit; None where there is none."""
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (group / "memory.max").read_text(), (group / "memory.current").read_text()
        # The page cache counts as used and is given back on demand.
        cache = re.search(r"^inactive_file (\d+)", (group / "memory.stat").read_text(), re.MULTILINE)
        return int(limit) - int(used) + (int(cache[1]) if cache else 0)
    except (OSError, ValueError):  # no control group, or "max": no limit
        return None


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def _at_least(name: str, amount: int, needed: int, comfortable: int, found: str, cure: str) -> Check:
    if amount < needed:
        return Check(name, "fail", f"{found}, at least {_gib(needed)} needed", cure)
    if amount < comfortable:
        return Check(name, "warn", f"{found}, {_gib(comfortable)} are comfortable", cure)
    return Check(name, "ok", found)


def _gib(amount: int) -> str:
    return f"{amount / GIB:.1f} GiB"
