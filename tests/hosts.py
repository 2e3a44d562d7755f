"""Hosts on one machine for tests over a network: namespaces with addresses of their own, joined by a bridge.

A host has its own network, name, processes (Ray looks among all it sees for those of its node), shared
memory, and disk for Ray, mounted at the same path everywhere. Processors and every other folder are the
machine's: the workspace is a disk that all share. The bridge lies in a namespace too, so that nothing of the
machine's own network is touched.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

NETWORK = "10.213.77"
INTERFACE = "eth0"
_OWN_PLACES = (
    'echo "$1" > /proc/sys/kernel/hostname && mount --bind "$2" /etc/hosts && mount --bind "$3" "$4" && '
    'mount -t tmpfs -o size=1g shm /dev/shm && shift 4 && exec "$@"'
)
_END_SECONDS = 20


@dataclass(frozen=True)
class Host:
    """One of them.

    Attributes:
        address: its IP, which the others reach.
        namespace: of its network.
        disk: what lies at `ray_folder` there.
        ray_folder: Ray's temporary folder, the same path on every host.
    """

    address: str
    namespace: str
    disk: Path
    ray_folder: Path
    switch: str
    port: str

    def start(
        self, command: Sequence[str], variables: Mapping[str, str], **options: Any
    ) -> "subprocess.Popen[str]":
        """Start a program there, as the first process of a machine: whatever it starts ends with it."""
        own = ["unshare", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child"]
        places = [
            self.namespace,
            str(self.ray_folder.with_name("hosts")),
            str(self.disk),
            str(self.ray_folder),
        ]
        here = [*own, "sh", "-c", _OWN_PLACES, "sh", *places, *command]
        return subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, *here],
            env={**os.environ, **variables},
            text=True,
            stdin=subprocess.DEVNULL,
            **options,
        )

    def run(self, command: Sequence[str], variables: Mapping[str, str], seconds: float = 300) -> str:
        """Run a program there to its end; what it printed. An assertion fails where it does."""
        process = self.start(command, variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            said, complained = process.communicate(timeout=seconds)
        except BaseException:
            process.kill()
            process.wait()
            raise
        assert process.returncode == 0, f"{said}\n{complained}"
        return said

    def cut_off(self) -> None:
        """Pull its cable."""
        _ip("-n", self.switch, "link", "set", self.port, "down")

    def join_again(self) -> None:
        """Put its cable back."""
        _ip("-n", self.switch, "link", "set", self.port, "up")

    def processes(self) -> list[psutil.Process]:
        """What runs there."""
        found = []
        for number in _ip("netns", "pids", self.namespace).split():
            with suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(int(number)))
        return found

    def end(self) -> None:
        """Kill what runs there."""
        until = time.monotonic() + _END_SECONDS
        while (there := self.processes()) and time.monotonic() < until:
            for process in there:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)
            psutil.wait_procs(there, 2)


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """So many hosts that reach each other; afterwards nothing runs there, and none is left."""
    _skip_without_rights()
    tag, folder = f"fd{os.getpid()}", Path(tempfile.mkdtemp(prefix="h-"))
    ray_folder = folder / "r"
    ray_folder.mkdir()
    (folder / "hosts").write_text("127.0.0.1 localhost\n")
    switch, made = f"{tag}-switch", list[Host]()
    try:
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "addr", "add", f"{NETWORK}.254/24", "dev", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for number in range(count):
            disk = folder / f"disk-{number}"
            disk.mkdir()
            host = Host(
                f"{NETWORK}.{number + 1}", f"{tag}-{number}", disk, ray_folder, switch, f"port{number}"
            )
            made.append(host)
            with (folder / "hosts").open("a") as names:
                names.write(f"{host.address} {host.namespace}\n")
            _ip("netns", "add", host.namespace)
            _ip(
                *("-n", switch, "link", "add", host.port, "type", "veth"),
                *("peer", "name", INTERFACE, "netns", host.namespace),
            )
            _ip("-n", switch, "link", "set", host.port, "master", "bridge", "up")
            inside = ("-n", host.namespace)
            _ip(*inside, "addr", "add", f"{host.address}/24", "dev", INTERFACE)
            _ip(*inside, "link", "set", "lo", "up")
            _ip(*inside, "link", "set", INTERFACE, "up")
            # Ray asks for the way to an address outside to learn its own.
            _ip(*inside, "route", "add", "default", "via", f"{NETWORK}.254")
        yield made
    finally:
        for host in made:
            with suppress(RuntimeError):
                host.end()
        for namespace in [*(host.namespace for host in made), switch]:
            with suppress(RuntimeError):  # one that was not made
                _ip("netns", "del", namespace)
        shutil.rmtree(folder, ignore_errors=True)


def _skip_without_rights() -> None:
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip` here to make network namespaces with (Debian: apt install iproute2)")
    name = f"fd{os.getpid()}-try"
    try:
        _ip("netns", "add", name)
    except RuntimeError as error:
        pytest.skip(f"no network namespaces can be made here, which takes root ({error})")
    _ip("netns", "del", name)


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
