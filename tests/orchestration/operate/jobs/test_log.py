"""A job's log: every line once, in order, on a disk and in an object store that goes away for a while."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from object_store import object_store, variables

from finedefics.errors import FinedeficsError
from finedefics_platform.base.storage import Location
from finedefics_platform.operate.jobs import log
from finedefics_platform.operate.jobs.log import LogReader, LogWriter


def test_a_reader_gets_every_line_once_over_pieces_and_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "PIECE_BYTES", 50)
    place = Location.of(tmp_path / "log")
    reader, read, said = LogReader(place), [], []
    for attempt in (1, 2):
        writer = LogWriter(place, attempt)
        for number in range(20):
            said.append(f"{attempt}: line {number}" if number % 5 else "")
            writer.write(said[-1] + "\n")
            if number % 3 == 0:
                read += reader.take()
        assert writer.close()
    assert read + reader.take(last=True) == said
    assert len(place.files()) > 6
    assert LogReader(place, 2).take() == said[20:]


def test_a_line_is_seen_at_once_on_a_disk_and_one_without_an_end_at_the_end(tmp_path: Path) -> None:
    place = Location.of(tmp_path / "log")
    writer, reader = LogWriter(place, 1), LogReader(place)
    writer.write("whole\nhalf")
    assert reader.take() == ["whole"]
    assert reader.take(last=True) == ["half"]
    writer.close()


class Flaky(Location):
    """A store whose uploads arrive and are said to have failed, every other time."""

    def __truediv__(self, name: str) -> "Flaky":
        return Flaky(f"{self.uri}/{name}")

    @property
    def local(self) -> None:
        return None

    def files(self) -> list[str]:
        return Location.of(self.uri.removeprefix("x://")).files()

    def read_bytes(self) -> bytes:
        return Path(self.uri.removeprefix("x://")).read_bytes()

    def write_bytes(self, content: bytes) -> None:
        Location(self.uri.removeprefix("x://")).write_bytes(content)
        Flaky.calls += 1
        if Flaky.calls % 2:
            raise FinedeficsError("away", place=self.uri, cure="wait")

    calls = 0


def test_an_upload_that_arrived_and_is_said_to_have_failed_loses_and_doubles_nothing(tmp_path: Path) -> None:
    place = Flaky(f"x://{tmp_path}/log")
    writer, reader, read, said = LogWriter(place, 1), LogReader(place), [], []
    for number in range(60):
        said.append(f"line {number}")
        writer.write(said[-1] + "\n")
        time.sleep(0.03)
        read += reader.take()
    assert writer.close()
    assert read + reader.take(last=True) == said


class Wire:
    """A TCP relay to a port; `cut` ends every connection through it and takes none until `mend`."""

    def __init__(self, port: int) -> None:
        self._to, self._whole, self._open = port, True, list[socket.socket]()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._whole = False
        for end in self._open:
            end.close()
        self._open.clear()

    def mend(self) -> None:
        self._whole = True

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            if not self._whole:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self._to))
            self._open += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(one, other), daemon=True).start()

    def close(self) -> None:
        self._server.close()
        self.cut()


def _pump(one: socket.socket, other: socket.socket) -> None:
    try:
        while data := one.recv(1 << 16):
            other.sendall(data)
    except OSError:
        pass
    finally:
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Location, Wire]]:
    with object_store() as uri:
        wire = Wire(int(uri.rpartition("-")[2]))
        for name, value in variables(wire.port).items():
            monkeypatch.setenv(name, value)
        yield Location.of(f"{uri}/log"), wire
        wire.close()


@pytest.mark.slow
def test_no_line_is_lost_where_the_connection_to_the_store_is_cut(store: tuple[Location, Wire]) -> None:
    place, wire = store
    writer, reader, read, said = LogWriter(place, 1), LogReader(place), [], []
    for number in range(120):
        said.append(f"line {number}")
        writer.write(said[-1] + "\n")
        time.sleep(0.05)
        if number == 40:
            wire.cut()
        if number == 80:
            wire.mend()
        if number % 10 == 0 and not 40 <= number <= 80:
            read += reader.take()
    assert writer.close()
    assert read + reader.take(last=True) == said
