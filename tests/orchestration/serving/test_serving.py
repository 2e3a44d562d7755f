"""A model behind Ray Serve: many ask at once, nothing is lost, and nothing is left behind."""

import http.client
import json
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from finedefics.errors import FinedeficsError
from finedefics_platform.base.content import model_digest
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.store import Dataset
from finedefics_platform.models.answerable import Answerable
from finedefics_platform.serving.deployment import deployed
from finedefics_platform.serving.nearest import TrainingPictures, choose, kept_at, thumbnail
from finedefics_platform.serving.run import TOKEN, Serving, Settings, _held, serving

pytestmark = pytest.mark.slow  # Ray Serve takes half a minute to be there on a busy machine


def ask(server: Serving, picture: bytes, query: str = "") -> tuple[int, dict[str, Any]]:
    """Status and answer."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    headers = {"Authorization": f"Bearer {server.token}"}
    connection.request("POST", f"/predict{query}", picture, headers)
    answer = connection.getresponse()
    told = json.loads(answer.read())
    connection.close()
    return answer.status, told


def test_everyone_who_asks_at_once_gets_the_answer_to_their_own_picture(
    running: Serving, to_serve: Answerable, pictures: Sequence[bytes]
) -> None:
    expected = [ranking[0] for ranking in to_serve.load().recognise(pictures, top=1)]
    sent = [number % len(pictures) for number in range(30)] + [-1, -2]
    bad = [b"a letter", b""]  # by -2 and -1
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda n: ask(running, (pictures if n >= 0 else bad)[n]), sent))
    for number, (status, told) in zip(sent, answers, strict=True):
        if number < 0:
            assert (status, "cannot be decoded" in told["error"]) == (400, True)
            continue
        assert status == 200
        best = told["candidates"][0]
        assert (best["category_id"], best["name"]) == expected[number][:2]
        assert best["score"] == pytest.approx(expected[number][2], abs=1e-4)
    assert running.front.inside == 0


def test_training_pictures_are_embedded_while_it_answers_and_kept(
    running: Serving,
    to_serve: Answerable,
    drawn_workspace: Workspace,
    drawn_dataset: Dataset,
) -> None:
    deadline = time.monotonic() + 60
    while running.front.training.note or not len(running.front.training):
        assert time.monotonic() < deadline, running.front.training.note
        time.sleep(0.05)
    places = choose(drawn_dataset, 2)
    samples = {sample.sample_id: sample for sample in drawn_dataset.samples_at(places)}
    per_category = [sample.category_id for sample in samples.values()]
    assert max(map(per_category.count, per_category)) == 2
    assert set(per_category) == drawn_dataset.labelled_category_ids()
    sample = next(iter(samples.values()))
    status, told = ask(running, sample.image, "?nearest=3")
    assert status == 200
    assert told["nearest"][0]["sample_id"] == sample.sample_id
    assert told["nearest"][0]["similarity"] == pytest.approx(1, abs=1e-3)
    assert told["training_pictures"] == {"there": len(samples), "wanted": len(samples), "note": None}
    place = kept_at(drawn_workspace, model_digest(to_serve.opened.model), drawn_dataset, 2)
    deadline = time.monotonic() + 20
    while (kept := TrainingPictures.load(place)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(kept) == len(samples)
    assert kept.nearest(kept._objects[1], 1)[0].thumbnail == thumbnail(list(samples.values())[1].image)


def test_what_keeps_it_from_serving_is_said_in_one_line(
    ray_cluster: Any,
    running: Serving,
    to_serve: Answerable,
    drawn_workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(**settings: Any) -> str:
        with (
            pytest.raises(FinedeficsError) as caught,
            serving(drawn_workspace, to_serve, Settings(**settings)),
        ):
            pass
        return str(caught.value)

    port = urlsplit(running.url).port
    assert f"127.0.0.1:{port}: port {port} cannot be taken (address already in use)" in refused(port=port)
    assert "--host 192.0.2.1: no address of this machine" in refused(host="192.0.2.1", port=0)
    assert "--host not.a.host.invalid: no address of this machine" in refused(host="not.a.host.invalid")
    assert "answer" in refused(answer="guess", port=0)
    assert "no threshold for `unknown` was stored with it" in refused(unknown=True, port=0)
    monkeypatch.setenv(TOKEN, "short")
    assert f"{TOKEN}: the token has to be 16 or more letters" in refused(port=0)
    # a model that cannot be loaded: said by the replica, told by the server
    held = _held(to_serve, Settings(dtype="float17"), embeds=False)
    with pytest.raises(FinedeficsError, match="float17"), deployed(held, replicas=1, queue=4):
        pass


def test_the_port_is_free_as_soon_as_it_has_ended(running: Serving) -> None:
    assert running.server.started
    running.server.should_exit = True
    address = urlsplit(running.url)
    deadline = time.monotonic() + 20
    while True:
        with socket.socket() as probe:
            if probe.connect_ex((str(address.hostname), address.port or 0)):
                break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert Path(running.front.model).is_dir()
