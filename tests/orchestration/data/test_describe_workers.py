"""Describing with a model of this machine: in this process, in workers, and behind `transformers serve`."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bird_folder import encoded, put
from tiny_models import save_tiny

from finedefics.describers import DESCRIBERS, Given
from finedefics.describers.models import Answer, Failure, Outcome
from finedefics.describers.questions import Question, ask_category, ask_values
from finedefics.describers.transformers import TransformersModel
from finedefics.errors import FinedeficsError
from finedefics_platform.base.progress import SILENT
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.describing import Settings, describe
from finedefics_platform.data.describing.workers import Workers
from finedefics_platform.data.ingesting import ingest

PICTURES = 5


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("smolvlm", tmp_path_factory.mktemp("models") / "tiny")


def questions() -> list[Question]:
    """Of few words, as the tiny models have room for few."""
    shown = [
        replace(ask_values("bird", ["crown"], f"h{n}"), text="what is this ?", image=encoded(n), tokens=6)
        for n in range(PICTURES)
    ]
    told = [
        replace(ask_category("bird", ["crown"], name), text=f"describe {name} .", tokens=6)
        for name in ("tern", "wren")
    ]
    return [shown[0], told[0], *shown[1:], told[1], replace(shown[0], picture="broken", image=b"no picture")]


def asked_of(model: Any) -> dict[str, Outcome]:
    found: dict[str, Outcome] = {}
    model.answer_all(iter(questions()), lambda question, outcome: found.__setitem__(question.key, outcome))
    return found


def test_workers_answer_as_one_process_does(tiny: Path, ray_cluster: Any) -> None:
    model = TransformersModel(str(tiny), batch=2)
    here = asked_of(model)
    assert len(here) == len(questions())
    *good, broken = [here[question.key] for question in questions()]
    assert all(isinstance(one, Answer) and one.prompt_tokens > 0 for one in good)
    assert len({one.text for one in good}) > 1, "the model looks at what it is asked"  # type: ignore[union-attr]
    assert isinstance(broken, Failure)
    assert "the picture cannot be used" in broken.reason
    alone = asked_of(TransformersModel(str(tiny), batch=1))
    assert {k: getattr(v, "text", v) for k, v in alone.items()} == {
        k: getattr(v, "text", v) for k, v in here.items()
    }, "padding changes no answer"
    with Workers(model, count=2, gpus=0, progress=SILENT) as workers:
        assert asked_of(workers) == here
        assert asked_of(workers) == here, "the workers keep their model"


def test_a_model_that_cannot_be_loaded_says_so(tmp_path: Path, ray_cluster: Any) -> None:
    model = TransformersModel(str(tmp_path))
    with (
        Workers(model, count=1, gpus=0, progress=SILENT) as workers,
        pytest.raises(FinedeficsError, match="no model is in this folder"),
    ):
        asked_of(workers)


def test_a_model_is_known_by_its_content(tiny: Path, tmp_path: Path) -> None:
    first = DESCRIBERS["transformers"](Given(str(tiny)))
    copy = tmp_path / "tiny"
    copy.mkdir()
    for file in tiny.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert TransformersModel(str(copy)).model_id == TransformersModel(str(tiny)).model_id
    assert first.describer_id == DESCRIBERS["transformers"](Given(str(copy))).describer_id
    weights = copy / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert TransformersModel(str(copy)).model_id != TransformersModel(str(tiny)).model_id


@pytest.fixture
def server(tiny: Path, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """``transformers serve``: its address and its log, where every request is a line."""
    pytest.importorskip("openai")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path / "serve.log"
    command = [
        Path(sys.executable).with_name("transformers"),
        "serve",
        "--device",
        "cpu",
        "--host",
        "127.0.0.1",
    ]
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, "--port", str(port)], stdout=out, stderr=out, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1", log
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


@pytest.mark.slow
def test_a_real_server_is_asked_once_a_question(
    tiny: Path,
    server: tuple[str, Path],
    workspace: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ray_cluster: Any,
) -> None:
    """A tiny model of random weights says garbage: it is asked again, kept with its reason, and left so."""
    address, log = server
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for number in range(PICTURES):
        put(tmp_path / "plain", f"train/auk/{number}.png", encoded(number))
    ingest(workspace, "plain", tmp_path / "plain")
    options = {"attributes": ("crown",), "attempts": 2, "concurrency": 2, "deadline": 120}
    settings = Settings(options, allow_failed=1.0)
    made = describe(workspace, "plain", describer=f"openai:{tiny}", settings=settings)
    told = made.manifest["provenance"]["descriptions"]
    assert told["without_description"] == PICTURES
    assert told["usage"]["requests"] == 2 * PICTURES
    assert told["usage"]["prompt_tokens"] > 2 * PICTURES
    (reason,) = told["reasons"]
    assert reason.startswith("the answer cannot be used")
    assert requests(log) == 2 * PICTURES
    changed = Settings({**options, "wording": "model"}, allow_failed=1.0)
    again = describe(workspace, "plain", describer=f"openai:{tiny}", settings=changed)
    assert again.manifest["provenance"]["descriptions"]["usage"]["kept_before"] == PICTURES
    assert requests(log) == 2 * PICTURES


def requests(log: Path) -> int:
    return len(re.findall(r'"POST /v1/chat/completions HTTP/1.1" 200', log.read_text()))
