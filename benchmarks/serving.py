"""One picture from the command line, and many from a server: what comes on top of the model.

The model is tiny, so that the rest is what is measured.
"""

import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.registry import Result, benchmark, in_turn
from finedefics_platform.base.workspace import open_workspace

ROUNDS = 3
CLIENTS, EACH, CROWDS = 64, 4, 2
WARM = 40  # pictures one after the other


@benchmark("predict_one_seconds")
def predict_one() -> dict[str, Result]:
    """The command beside the imports that any program of this kind pays."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, files = _model(folder)
        environment = {**os.environ, "FINEDEFICS_HOME": str(folder / "home")}

        def run(*arguments: str) -> None:
            subprocess.run(
                [sys.executable, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL
            )

        command = ("-m", "finedefics_platform.cli.main", "predict", str(folder), str(files[0]))
        seconds = in_turn(
            {"imports": lambda: run("-c", "import torch, transformers"), "predict": lambda: run(*command)},
            ROUNDS,
        )
    ratios = [own / bare for own, bare in zip(seconds["predict"], seconds["imports"], strict=True)]
    ours, theirs = (statistics.median(seconds[name]) for name in ("predict", "imports"))
    how = (
        f"`finedefics predict FOLDER one.jpg` with a tiny model ({ours:.1f} s) over "
        f"`python -c 'import torch, transformers'` ({theirs:.1f} s)"
    )
    spread = (min(ratios), max(ratios))
    return {"predict_one_seconds": Result(statistics.median(ratios), "times", "lower", 1.5, spread, how)}


@benchmark("serve_warm_ms", "serve_throughput_64", "serve_lost_64")
def serve() -> dict[str, Result]:
    """One server for all: one client after another picture, then 64 clients at once."""
    with tempfile.TemporaryDirectory() as name:
        _, files = _model(Path(name))
        pictures = [file.read_bytes() for file in files]
        with _server(Path(name)) as client:
            for number in range(10):  # to warm up
                client.ask(pictures[number % len(pictures)])
            alone = [client.timed(pictures[number % len(pictures)]) for number in range(WARM)]
            rates, lost = [], 0
            for _ in range(CROWDS):
                started = time.perf_counter()
                answered = _crowd(client, pictures)
                rates.append(answered / (time.perf_counter() - started))
                lost += CLIENTS * EACH - answered
    warm = statistics.median(alone)
    one_client = 1 / warm
    ratios = [rate / one_client for rate in rates]
    sent = CROWDS * CLIENTS * EACH
    return {
        "serve_warm_ms": Result(
            1000 * warm, "ms", "lower", 300, (1000 * min(alone), 1000 * max(alone)),
            f"median of {WARM} pictures one after the other over HTTP, a tiny model, on an idle machine",
        ),
        "serve_throughput_64": Result(
            statistics.median(ratios), "times", "higher", 1, (min(ratios), max(ratios)),
            f"pictures a second of {CLIENTS} clients at once ({statistics.median(rates):.0f}) over those of "
            f"one client ({one_client:.0f}); one replica, batches of at most 16",
        ),
        "serve_lost_64": Result(
            lost, "pictures", "lower", 0, (lost, lost),
            f"of {sent} pictures that {CLIENTS} clients sent at once: not answered with what one is told",
        ),
    }  # fmt: skip


class _Client:
    """Asks one server; knows what each picture is called by it."""

    def __init__(self, url: str, token: str) -> None:
        self.place, self.headers = urlsplit(url).netloc, {"Authorization": f"Bearer {token}"}
        self.known: dict[bytes, tuple[str, float]] = {}

    def ask(self, picture: bytes) -> bool:
        """Whether it was answered, and as it was the first time."""
        try:
            return self._asked(picture)
        except (OSError, http.client.HTTPException):
            return False

    def _asked(self, picture: bytes) -> bool:
        connection = http.client.HTTPConnection(self.place, timeout=120)
        connection.request("POST", "/predict?nearest=0", picture, self.headers)
        answer = connection.getresponse()
        told = json.loads(answer.read())
        connection.close()
        if answer.status != 200:
            return False
        best = told["candidates"][0]
        name, score = self.known.setdefault(picture, (best["name"], best["score"]))
        return best["name"] == name and abs(best["score"] - score) < 1e-3

    def timed(self, picture: bytes) -> float:
        """Seconds of one picture."""
        started = time.perf_counter()
        assert self.ask(picture)
        return time.perf_counter() - started


def _crowd(client: _Client, pictures: Sequence[bytes]) -> int:
    """Pictures that were answered of those that all clients sent."""
    begin = threading.Barrier(CLIENTS)

    def one(number: int) -> int:
        begin.wait()
        return sum(client.ask(pictures[(number + turn) % len(pictures)]) for turn in range(EACH))

    with ThreadPoolExecutor(CLIENTS) as clients:
        return sum(clients.map(one, range(CLIENTS)))


@contextmanager
def _server(folder: Path) -> Iterator[_Client]:
    from finedefics_platform.models.categories import answerable
    from finedefics_platform.serving.run import Settings, serving

    workspace = open_workspace(folder / "home")
    with serving(workspace, answerable(workspace, str(folder)), Settings(port=0)) as server:
        answers = threading.Thread(target=server.until_ended)
        answers.start()
        try:
            while not server.server.started:
                time.sleep(0.05)
            yield _Client(server.url, server.token)
        finally:
            server.server.should_exit = True
            answers.join()


def _model(folder: Path) -> tuple[Path, list[Path]]:
    """A tiny model with an index of a few species, and pictures."""
    import torch

    from finedefics.base_model import untrained_backbone
    from finedefics.data.generated import make_world, random_birds
    from finedefics.records import Category
    from finedefics.scoring import Recogniser

    torch.manual_seed(0)
    backbone = untrained_backbone()
    backbone.save_pretrained(folder / "model")
    species = make_world(1, families=4, species_per_family=3).species
    categories = [Category(one.name.replace(" ", "-"), one.name) for one in species]
    Recogniser(backbone, categories).index.save(folder / "index")
    files = []
    for number, (image, _) in enumerate(random_birds(8, seed=3)):
        files.append(folder / f"{number}.jpg")
        image.save(files[-1])
    return folder, files
