"""Checks of the surroundings: what would stop a run is found in seconds, with the cure beside it."""

from collections.abc import Callable, Iterator

from finedefics.errors import FinedeficsError
from finedefics_platform.base.secrets import without_secrets
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.operate.checks import machine, movable, network, packages, storage
from finedefics_platform.operate.checks.finding import Check


def examine(workspace: Workspace, *, with_ray: bool = False) -> Iterator[Check]:
    """Yield the checks one by one as they are made; a Ray cluster is started only where asked for."""
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("python", machine.check_python),
        ("standard library", machine.check_standard_library),
        ("packages", packages.check_packages),
        ("disk", lambda: machine.check_disk(workspace)),
        ("memory", machine.check_memory),
        ("devices", machine.check_devices),
        ("ports", machine.check_ports),
        ("workspace", lambda: storage.check_workspace(workspace)),
        ("movable", lambda: movable.check_movable(workspace)),
        ("tracking", lambda: storage.check_tracking(workspace)),
        ("cluster", network.check_cluster),
        ("hub", network.check_hub),
        ("clock", lambda: network.check_clock(workspace)),
        ("deepspeed", packages.check_deepspeed),
    ]
    if with_ray:
        checks.append(("ray", packages.check_ray))
    for name, check in checks:
        try:
            yield check()
        except FinedeficsError as error:
            yield Check(name, "fail", without_secrets(f"{error.place}: {error.thing}"), error.cure)
