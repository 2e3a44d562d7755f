"""Runs on the cluster before a job does: what does it see of storage, tracking, files and variables?

``python -m finedefics_platform.operate.jobs.probe '{"outside": […], "variables": […], "written": …}'`` prints
one line that begins with `MARK`, JSON after it. ``written`` names a file that the submitter has just put into
the workspace: who sees the file sees the same workspace.
"""

import json
import os
import platform
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from finedefics.errors import FinedeficsError
from finedefics_platform.base.secrets import without_secrets
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.operate.jobs.sealing import open_sealed
from finedefics_platform.tracking.reachability import reach_tracking

MARK = "finedefics-probe: "
_STORE_SECONDS = 20.0


def look(asked: dict[str, Any]) -> dict[str, Any]:
    """What this node sees; every finding is empty where all is well."""
    os.environ.update(open_sealed())
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "variables": [name for name in asked["variables"] if not os.environ.get(name)],
        "outside": [path for path in asked["outside"] if not Path(path).exists()],
        "storage": "",
        "workspace": False,
        "tracking": "",
        "groups": _groups(),
    }
    workspace = open_workspace()
    found["storage"] = _storage(workspace)
    if not found["storage"]:
        with suppress(FinedeficsError):
            found["workspace"] = (workspace.root / asked["written"]).is_file()
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        try:
            reach_tracking(uri)
        except FinedeficsError as error:
            found["tracking"] = f"{error.place}: {error.thing}"
    return found


def _storage(workspace: Workspace) -> str:
    """A process of its own: what speaks to object stores cannot be told to stop."""
    module = "finedefics_platform.operate.storage_probe"
    command = [sys.executable, "-m", module, workspace.root.uri, str(_STORE_SECONDS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    if done.returncode != 0:
        return (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    return done.stdout.strip()


def _groups() -> list[dict[str, Any]]:
    """What the cluster's autoscaler can bring; empty where there is none that says so."""
    address = os.environ.get("RAY_ADDRESS", "")
    try:
        import ray._raylet
        from ray.core.generated import autoscaler_pb2

        native: Any = ray._raylet
        messages: Any = autoscaler_pb2
        kept = native.GcsClient(address=address).internal_kv_get(
            b"__autoscaler_cluster_config", namespace=b"__autoscaler", timeout=10
        )
        groups = messages.ClusterConfig.FromString(kept).node_group_configs if kept else []
        return [{"resources": dict(group.resources), "most": group.max_count} for group in groups]
    except Exception:  # a version of Ray that keeps it elsewhere: nothing is known, nothing is promised
        return []


def main(asked: str) -> None:
    """Print what this node sees."""
    try:
        found = look(json.loads(asked))
    except FinedeficsError as error:
        found = {"error": str(error)}
    print(MARK + without_secrets(json.dumps(found)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
