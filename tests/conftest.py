"""What every test gets: nothing phones home, nothing of the user's is touched, one Ray cluster a session."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from finedefics_platform.base.workspace import Workspace, open_workspace

# Before torch, ray or mlflow is imported: they read them then. Processes that tests start inherit them.
os.environ.update(
    RAY_USAGE_STATS_ENABLED="0",
    # as commands set it: a worker that waits is not ended after a second, to be started and to import anew
    RAY_idle_worker_killing_time_threshold_ms="60000",
    MLFLOW_DISABLE_TELEMETRY="true",
    HF_HUB_OFFLINE="1",
    MPLBACKEND="agg",
    NO_COLOR="1",
    # several processes share the cores here: with more threads than that, each waits for the others
    OMP_NUM_THREADS="1",
)
# The same examples every time, however busy the machine: a red test is red again when it is looked into.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same")
# The user's own workspace, tracking server and cluster are not the tests' to write to.
for variable in ("FINEDEFICS_HOME", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
    os.environ.pop(variable, None)


# Files are begun in this order where several processes share them, so that no long one is left for the end:
# the journey takes minutes, and what has no Ray takes little.
FIRST = ("end_to_end/test_journey", "orchestration/search", "orchestration/training", "orchestration")
TESTS = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long files first where pytest-xdist runs them; skip tests marked ``gpu`` where CUDA is missing."""
    if hasattr(config, "workerinput"):
        items.sort(key=_turn)
    wanting = [item for item in items if item.get_closest_marker("gpu")]
    if not wanting:
        return
    import torch

    if not torch.cuda.is_available():
        for item in wanting:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def _turn(item: pytest.Item) -> int:
    place = item.path.relative_to(TESTS).as_posix()
    return next((turn for turn, start in enumerate(FIRST) if place.startswith(start)), len(FIRST))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty workspace of the test's own."""
    return open_workspace(tmp_path / "workspace")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    """A local Ray cluster with eight logical CPUs, whatever the machine has; yields the ``ray`` module."""
    import ray

    # Ray's sockets live under its folder, and a socket's path is limited to 107 characters: keep it short.
    folder = tempfile.mkdtemp(prefix="ray-")
    ray.init(
        address="local",
        num_cpus=8,
        object_store_memory=300_000_000,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=folder,
    )
    yield ray
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
