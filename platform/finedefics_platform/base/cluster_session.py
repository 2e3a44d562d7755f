"""One way into Ray for every command: join the cluster that RAY_ADDRESS names, or start one here."""

import logging
import os
import socket
import sys
from typing import Any

from finedefics.errors import FinedeficsError
from finedefics_platform.base.control_store import (
    ask_control_store,
    check_versions,
    token_of_environment,
)
from finedefics_platform.base.progress import SILENT, Progress
from finedefics_platform.base.signals import kept_handlers

# Read by Ray when it is imported or by processes it starts, so they are set first. A user's own value wins.
RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing phones home
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # by default a report waits up to 2 s for the controller
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's newer output prints a banner even when told to be silent
    # Actors of a run are more processes than two cores; that they start one after the other is no news.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "worker processes have been started on node",
    # By default a worker that waits for a second is ended, and the next task imports everything again.
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a task without a GPU leaves CUDA_VISIBLE_DEVICES as it is
}
_OBJECT_STORE_BYTES = 300_000_000
_KNOCK_SECONDS = 10
_LEAST_LOGICAL_CPUS = 8  # a controller, two workers and data tasks at once, also on two cores


def ensure_ray(num_cpus: int | None = None, progress: Progress = SILENT) -> None:
    """Connect to Ray, or start it on this machine; does nothing where this process is connected already.

    Args:
        num_cpus: logical CPUs of a local cluster; default: the machine's, at least 8.
        progress: is told what is waited for, as starting takes seconds.

    Raises:
        FinedeficsError: the cluster that RAY_ADDRESS names does not answer, asks for a token that is not
            there or another one, or runs other versions; or Ray cannot start.
    """
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    loaded = sys.modules.get("ray")
    if loaded is None or not loaded.is_initialized():
        with progress.progress("starting Ray", 1) as advance:
            _connect(os.environ.get("RAY_ADDRESS"), num_cpus)
            advance(1)
    _quiet_data()


def _connect(address: str | None, num_cpus: int | None) -> None:
    try:
        if address:
            _knock(address)
        import ray

        # Ray's own handler of SIGTERM ends the process in the middle of its native code.
        with kept_handlers():
            ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                **({} if address else _local_options(num_cpus)),
            )
    except FinedeficsError:
        raise
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FinedeficsError(
            f"Ray is not available ({reason})",
            place=address or "this machine",
            cure="correct or unset RAY_ADDRESS" if address else "free memory and /tmp, then try again",
        ) from error


def _knock(address: str) -> None:
    """Before Ray is told: it takes minutes, and many lines, to say that nobody is there or that it is let in
    nowhere.

    Raises:
        ConnectionError, OSError: nothing listens.
        FinedeficsError: the cluster does not take the token, or runs other versions.
    """
    if address.startswith(("http://", "https://")):
        raise FinedeficsError(
            "this is the address of a job API, and here a cluster is joined",
            place=address,
            cure="set RAY_ADDRESS to host:port of its control store, or send a job: finedefics jobs submit",
            exit_code=2,
        )
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not separator or not port.isdigit():  # "auto" has no port: Ray looks it up on this machine
        return
    if address.startswith("ray://"):
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_SECONDS).close()
        return
    told = ask_control_store(address, token_of_environment())
    if told is not None:
        check_versions(address, told.ray, told.python)
    elif os.environ.get("RAY_USE_TLS", "0") != "1":  # Ray would ask it the same for 20 s, in as many lines
        raise ConnectionError("what listens there does not answer as Ray's control store does")


def _local_options(num_cpus: int | None) -> dict[str, Any]:
    return {
        "num_cpus": num_cpus or max(_LEAST_LOGICAL_CPUS, os.cpu_count() or 1),
        "object_store_memory": _OBJECT_STORE_BYTES,
        "include_dashboard": False,
    }


def _quiet_data() -> None:
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
