"""Answers are kept as they arrive: a process that is killed half-way has asked nothing for nothing."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from bird_folder import encoded, put
from model_endpoint import HANG, Asked, endpoint, knows

from finedefics.describers.models import Answer
from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.describing import Settings, describe
from finedefics_platform.data.describing.answers import AnswerLog
from finedefics_platform.data.ingesting import ingest

pytest.importorskip("openai")
DRIVER = Path(__file__).with_name("describe_driver.py")
PICTURES, BEFORE = 24, 10


def test_no_request_twice_after_a_kill(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_cluster: Any
) -> None:
    for number in range(PICTURES):
        put(tmp_path / "plain", f"train/auk/{number}.png", encoded(number))
    ingest(workspace, "plain", tmp_path / "plain", row_group_rows=5)
    killed = threading.Event()

    def until_killed(asked: Asked) -> str:
        """Answers the first questions; leaves the others unanswered until whoever asks has been killed."""
        return knows(asked) if killed.is_set() or asked.number <= BEFORE else HANG

    with endpoint(until_killed) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        driver = subprocess.Popen(
            [sys.executable, str(DRIVER), str(workspace.root), "openai:parrot"], env=dict(os.environ)
        )
        try:
            deadline = time.monotonic() + 120
            while (
                len(AnswerLog(workspace.answers, "openai:parrot")) < BEFORE or len(server.asked) < BEFORE + 3
            ):
                assert time.monotonic() < deadline
                assert driver.poll() is None
                time.sleep(0.1)
        finally:
            driver.send_signal(signal.SIGKILL)
            driver.wait()
        killed.set()
        in_flight = {asked.question for asked in server.asked[BEFORE:]}
        assert len(in_flight) == 3, "as many as may be in flight"
        made = describe(
            workspace, "plain", describer="openai:parrot", settings=Settings({"concurrency": 3, "retries": 0})
        )
        assert made.manifest["provenance"]["descriptions"]["without_description"] == 0
        assert set(server.answered.values()) == {1}, "nothing was answered twice"
        assert len(server.answered) == 1 + PICTURES
        assert len(server.asked) == 1 + PICTURES + len(in_flight)


def test_a_line_that_was_cut_off_is_no_answer(tmp_path: Path) -> None:
    log = AnswerLog(Location.of(tmp_path), "openai:parrot")
    for number in range(3):
        log.keep(f"{number:024}", Answer(f"said\n{number} \u2028 ü", number, 1))
    (file,) = tmp_path.rglob("*.jsonl")
    content = file.read_bytes()
    file.write_bytes(content[:-5])
    again = AnswerLog(Location.of(tmp_path), "openai:parrot")
    assert [again.get(f"{number:024}") for number in range(3)] == [
        Answer("said\n0 \u2028 ü", 0, 1),
        Answer("said\n1 \u2028 ü", 1, 1),
        None,
    ]
    again.keep("f" * 24, Answer("more"))
    assert again.get("f" * 24) == Answer("more")
    assert len(AnswerLog(Location.of(tmp_path), "openai:parrot")) == 3
    assert len(AnswerLog(Location.of(tmp_path), "openai-parrot")) == 0, "another model's answers are others"


def test_what_is_no_text_is_no_answer(tmp_path: Path) -> None:
    log = AnswerLog(Location.of(tmp_path), "openai:parrot")
    log.keep("a" * 24, Answer("red"))
    (file,) = tmp_path.rglob("*.jsonl")
    line = file.read_bytes()
    parts = line.replace(b"a" * 24, b"b" * 24).replace(b'"red"', b'[{"type": "text"}]')
    file.write_bytes(parts + line)
    again = AnswerLog(Location.of(tmp_path), "openai:parrot")
    assert ("b" * 24 in again, again.get("b" * 24)) == (False, None), "it is asked for again"
    assert again.get("a" * 24) == Answer("red")


def test_answers_in_an_object_store(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINEDEFICS_CACHE", str(tmp_path / "cache"))
    place = Location.of(f"{bucket}/answers")
    log = AnswerLog(place, "m")
    for number in range(600):
        log.keep(f"{number:024}", Answer(str(number)))
        assert log.get(f"{number:024}") == Answer(str(number))
    log.flush()
    assert 2 <= len(log.place.files()) < 100, "few objects, however many answers"
    again = AnswerLog(place, "m")
    assert (len(again), again.get(f"{599:024}")) == (600, Answer("599"))
