"""The workspace's storage, and where runs are recorded."""

import os
import re
import sys
import tempfile

from finedefics_platform.base.secrets import without_secrets
from finedefics_platform.base.storage import Location, cache_folder
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.operate.checks.finding import SLOW_IMPORT_SECONDS, Check, run_command
from finedefics_platform.operate.checks.machine import existing
from finedefics_platform.tracking.own_database import artifact_uri, has_records
from finedefics_platform.tracking.reachability import (
    OPEN,
    enter_tracking,
    is_alone,
    reach_tracking,
)

STORE_SECONDS = 10.0
STORE_CURES = {  # by what the store says
    "no.?such.?bucket|bucket does not exist": "make the bucket, or correct FINEDEFICS_HOME",
    "access.?denied|access.?key|signature|credential|token|forbidden": (
        "check the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for s3://) and their rights"
    ),
}


def check_workspace(workspace: Workspace) -> Check:
    """A file can be written and read where datasets, runs and models will live."""
    root = workspace.root.local
    if root is None:
        return _check_object_store(workspace.root)
    folder = existing(root)
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
    found = run_command(command, seconds=SLOW_IMPORT_SECONDS)
    if found.ok and not found.output:
        return Check("workspace", "ok", f"{root} can be written to and read")
    reason = found.output.splitlines()[-1] if found.output else "no reason given"
    cures = (cure for pattern, cure in STORE_CURES.items() if re.search(pattern, reason, re.IGNORECASE))
    cure = next(cures, "check the network and the address (AWS_ENDPOINT_URL for s3://)")
    return Check("workspace", "fail", f"{root}: {without_secrets(reason)}", cure)


def check_tracking(workspace: Workspace) -> Check:
    """The tracking database opens, or the tracking server answers."""
    if chosen := os.environ.get("MLFLOW_TRACKING_URI"):
        reached = reach_tracking(chosen)
        asked = enter_tracking(chosen)
        if asked.endswith(OPEN) and not is_alone(chosen):
            cure = "start the server with `--app-name basic-auth` (docs/security.md), or keep it on loopback"
            return Check("tracking", "warn", f"{reached}{asked}", cure)
        return Check("tracking", "ok", f"{reached}{asked}")
    artifact_uri(workspace.artifacts)
    if workspace.root.local is None:
        found = f"runs are recorded on this machine alone (SQLite in {cache_folder() / 'workspaces'})"
        cure = "to have them on every machine, set MLFLOW_TRACKING_URI to a tracking server"
        return Check("tracking", "warn", found, cure)
    if not has_records(workspace):
        return Check("tracking", "ok", "SQLite in the workspace (will be made)")
    return Check("tracking", "ok", reach_tracking(workspace.tracking_uri))
