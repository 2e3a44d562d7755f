"""The machine: its interpreter, disk, memory, devices and ports."""

import os
import re
import shutil
import socket
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from finedefics_platform.base.storage import cache_folder
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.operate.checks.finding import GIB, Check, at_least, gib, run_command, run_python
from finedefics_platform.operate.checks.packages import DISTRIBUTION, is_installed
from finedefics_platform.operate.clusters.record import known

DISK_NEEDED, DISK_COMFORTABLE = 1 * GIB, 5 * GIB  # the demo writes about half a GiB, a real run much more
MEMORY_NEEDED, MEMORY_COMFORTABLE = 2 * GIB, 4 * GIB  # Ray, MLflow and two small workers take about 3 GiB
PORTS = {  # that commands take unless they are told another one
    5000: "finedefics ui",
    6379: "a cluster's control store",
    8265: "a cluster's job API",
}


def check_python() -> Check:
    """The interpreter is one that the distribution was made for."""
    version = "{}.{}.{}".format(*sys.version_info[:3])
    wanted = metadata.metadata(DISTRIBUTION).json.get("requires_python", "") if is_installed() else ""
    if wanted and not Requirement(f"python{wanted}").specifier.contains(version):
        return Check(
            "python", "fail", f"{version}, needed {wanted}", "make the environment with another Python"
        )
    return Check("python", "ok", f"{version} ({sys.executable})")


def check_standard_library(folder: Path | None = None) -> Check:
    """A Python started in ``folder`` (default: the current one) still finds the standard ``platform``."""
    found = run_python("import platform, uuid; print(platform.__file__)", seconds=30, folder=folder)
    standard = Path(sysconfig.get_paths()["stdlib"])
    if found.ok and Path(found.output).parent.resolve() == standard.resolve():
        return Check("standard library", "ok", "`platform` is the standard one here")
    place = found.output.splitlines()[-1] if found.output else "unknown"
    cure = "remove platform.py or platform/__init__.py from this folder, or work from another one"
    return Check("standard library", "fail", f"`import platform` finds something else here ({place})", cure)


def check_disk(workspace: Workspace) -> Check:
    """Room on the disk of the workspace, or of the cache where the workspace is in an object store."""
    if workspace.root.local is not None:
        folder, what, variable = existing(workspace.root.local), str(workspace.root), "FINEDEFICS_HOME"
    else:
        folder = cache_folder()
        what, variable = f"the cache, {folder}", "FINEDEFICS_CACHE"
    free = shutil.disk_usage(folder).free
    cure = f"free space, or set {variable} to a larger disk"
    return at_least("disk", free, DISK_NEEDED, DISK_COMFORTABLE, f"{gib(free)} free at {what}", cure)


def check_memory() -> Check:
    """Memory that is free to this process, a container's limit included."""
    import psutil

    free = int(psutil.virtual_memory().available)
    limit = _container_memory()
    if limit is not None:
        free = min(free, limit)
    cure = "end other programs, or use a machine with more memory"
    return at_least("memory", free, MEMORY_NEEDED, MEMORY_COMFORTABLE, f"{gib(free)} free", cure)


def check_devices() -> Check:
    """What there is to compute on."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return Check("devices", "ok", f"{cores} CPU cores, {len(names)} GPU: {', '.join(sorted(set(names)))}")
    if shutil.which("nvidia-smi") and run_command(["nvidia-smi", "-L"], seconds=20).ok:
        cure = "install a CUDA build of torch in the version that constraints.txt pins"
        return Check("devices", "warn", f"a GPU, and torch {torch.__version__} cannot use it", cure)
    if cores < 2:
        return Check("devices", "warn", "1 CPU core, no GPU", "expect the demo to take twice as long")
    return Check("devices", "ok", f"{cores} CPU cores, no GPU (small models only)")


def check_ports(ports: dict[int, str] | None = None) -> Check:
    """The ports that commands take by themselves are free on loopback, or a cluster of ours has them."""
    ours = {_port(address) for record in known() for address in (record.address, record.jobs_address)}
    wanted = PORTS if ports is None else ports
    taken = {port: use for port, use in wanted.items() if port not in ours and not _is_free(port)}
    if taken:
        found = ", ".join(f"{port} ({use}) is taken" for port, use in taken.items())
        return Check("ports", "warn", found, "end what listens there, or give another one (--port)")
    return Check("ports", "ok", f"{', '.join(map(str, wanted))} are free or a local cluster's")


def _port(address: str) -> int:
    return int(address.rstrip("/").rpartition(":")[2])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # as servers do: what is left of connections that ended does not keep them from listening
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
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


def existing(folder: Path) -> Path:
    """The folder, or the next one above it that there is."""
    while not folder.exists():
        folder = folder.parent
    return folder
