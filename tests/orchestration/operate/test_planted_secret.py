"""Secrets planted in the environment, in an address and in a setting: nothing that is written holds one."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.store import Dataset

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

PLANTED = {
    "HF_TOKEN": "hf_" + "Planted7" * 4,
    "AWS_SECRET_ACCESS_KEY": "planted/in+the/environment",
    "DB_PASSWORD": "planted-in-an-environment-7",
}
IN_SETTING, IN_ADDRESS = "planted-in-a-setting-7", "planted-in-an-address-7"
ALL = (*PLANTED.values(), IN_SETTING, IN_ADDRESS)


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Where Ray writes its sessions; short, as its sockets lie there."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def holders(folder: Path, texts: Sequence[str] = ALL) -> list[str]:
    """Files at or below a folder that hold one of the texts (a planted secret), with the text."""
    return [
        f"{file}: {secret}"
        for file in folder.rglob("*")
        if file.is_file() and not file.is_symlink()
        for secret in texts
        if secret.encode() in file.read_bytes()
    ]


def test_a_run_that_knows_secrets_writes_none(
    drawn_workspace: Workspace, drawn_dataset: Dataset, tiny_model: Path, tmp_path: Path, ray_folder: Path
) -> None:
    document: dict[str, Any] = {
        "name": "planted",
        "data": {"dataset": drawn_dataset.reference, "negatives": 2},
        "model": {"path": str(tiny_model)},
        "resources": {"workers": 1},
        "stages": [{"name": "name", "steps": 2, "feeds": {"labelled": 2}, "terms": {"answer": 1}}],
    }
    file = tmp_path / "experiment.yaml"
    file.write_text(json.dumps(document))
    written = tmp_path / "written"
    assert drawn_workspace.datasets.local is not None
    shutil.copytree(drawn_workspace.datasets.local, written / "home" / "datasets")
    environment = {
        **os.environ,
        **PLANTED,
        "FINEDEFICS_HOME": str(written / "home"),
        "FINEDEFICS_CACHE": str(written / "cache"),
        "RAY_TMPDIR": str(ray_folder),
    }

    def told(code: int, *arguments: str, **more: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "finedefics_platform.cli.main", *arguments, "--debug"],
            env={**environment, **more},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == code, said
        assert not [secret for secret in ALL if secret in said]
        return said

    assert "holds a secret" in told(2, "train", str(file), "--set", f"model.api_key={IN_SETTING}")
    told(0, "train", str(file), "--json")
    with socket.socket() as reserved:  # bound and not listening: nobody answers at this address
        reserved.bind(("127.0.0.1", 0))
        away = f"http://ann:{IN_ADDRESS}@127.0.0.1:{reserved.getsockname()[1]}"
        retrained = told(0, "train", str(file), "--force", "--json", MLFLOW_TRACKING_URI=away)
        assert "127.0.0.1" in told(1, "runs", "list", MLFLOW_TRACKING_URI=away)
    assert "step" in retrained
    assert (written / "home" / "mlflow.db").is_file() or list(written.rglob("mlflow.db"))
    assert list(written.rglob("*.jsonl")), "what waits for the server that is away"
    assert list(ray_folder.rglob("*.log")), "Ray's own logs"
    # What is in no secret is found, so the secrets would be: the run's name, and what Ray says of itself.
    assert holders(written, [document["name"]])
    assert holders(ray_folder, ["raylet"])
    assert holders(written) == []
    assert holders(ray_folder) == []
