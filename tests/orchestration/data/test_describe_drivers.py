"""Several drivers that describe the same pictures at once: what one asked, none of the others pays for."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from bird_folder import encoded, put
from model_endpoint import Asked, Reply, endpoint, knows

from finedefics.errors import FinedeficsError
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.describing import Settings, describe
from finedefics_platform.data.ingesting import ingest
from finedefics_platform.data.store import Dataset

pytest.importorskip("openai")
PICTURES = 6


class Waiting:
    """Progress of drivers that counts how often one of them waits for the other."""

    def __init__(self) -> None:
        self._times = threading.Semaphore(0)

    def event(self, name: str, /, **fields: Any) -> None:
        if name == "waiting":
            self._times.release()

    def say(self, text: str) -> None:
        pass

    @contextmanager
    def progress(self, label: str, total: int | None) -> Iterator[Any]:
        yield lambda count: None

    def wait(self) -> None:
        assert self._times.acquire(timeout=60)


def test_a_driver_that_waited_asks_for_nothing_that_was_answered_meanwhile(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_cluster: Any
) -> None:
    """Both need the attribute names; whoever describes first loses its key at the last picture."""
    for number in range(PICTURES):
        put(tmp_path / "plain", f"train/{('tern', 'auk')[number % 2]}/{number}.png", encoded(number))
    ingest(workspace, "plain", tmp_path / "plain")
    waiting = Waiting()

    def says(asked: Asked) -> Reply | str:
        if asked.number == 1:
            waiting.wait()  # the other one stands before the names
        if asked.number == 1 + PICTURES:
            waiting.wait()  # and now before the pictures
            return Reply("no", 401)
        return knows(asked)

    def driver(_: int) -> Dataset | FinedeficsError:
        settings = Settings({"concurrency": 1, "retries": 0})
        try:
            return describe(
                workspace, "plain", describer="openai:parrot", settings=settings, progress=waiting
            )
        except FinedeficsError as error:
            return error

    with endpoint(says) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(driver, range(2)))
        (made,) = (one for one in found if isinstance(one, Dataset))
        assert made.manifest["provenance"]["descriptions"]["without_description"] == 0
        assert len(server.asked) == 1 + PICTURES + 1, "the picture that was refused, and nothing else"
        assert set(server.answered.values()) == {1}
