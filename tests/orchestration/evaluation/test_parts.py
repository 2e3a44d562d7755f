"""An evaluation is made in parts: each picture once, by whoever holds the model, and never by the driver."""

import json
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from ray import cloudpickle

from finedefics.backbones import Backbone, load_backbone
from finedefics.errors import FinedeficsError
from finedefics.evaluation.chance import near_chance
from finedefics.placing import MICRO_TOKENS
from finedefics.scoring import CategoryIndex, Recogniser, recogniser
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.config.experiment import Evaluation
from finedefics_platform.config.section import parse_document
from finedefics_platform.data.store import Dataset
from finedefics_platform.evaluation import recogniser as asking
from finedefics_platform.evaluation import run
from finedefics_platform.evaluation.items import Evaluated
from finedefics_platform.evaluation.run import evaluate
from finedefics_platform.operate.cleaning import dispensable

ASKED = Evaluation(split="val", answers=("names", "alignment", "describe"), calibration="off")


class Processes:
    """In place of a cluster's: one process, here, which knows whether it is the driver's turn.

    Attributes:
        decoded: how often each picture was.
        parts: numbers of the parts that were answered.
        crossed: everything that went from the driver to a process or back, pickled.
        stop_after: parts after which the process is lost; None: never.
    """

    def __init__(self) -> None:
        self.decoded: Counter[bytes] = Counter()
        self.parts: list[int] = []
        self.crossed: list[bytes] = []
        self.stop_after: int | None = None
        self.inside = False

    def run(self, items: Sequence[Any], make: Callable[[], Callable[[Any], Any]], **_: Any) -> None:
        self.crossed += [cloudpickle.dumps(make), *map(cloudpickle.dumps, items)]
        self.inside = True
        try:
            work = make()
            for item in items:
                if len(self.parts) == self.stop_after:
                    raise KeyboardInterrupt
                self.crossed.append(pickle.dumps(work(item)))
                self.parts.append(item.number)
        finally:
            self.inside = False


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Processes]:
    made = Processes()
    own_decode, own_read = recogniser.decode_image, Dataset.read

    def decode(data: bytes, name: str) -> Any:
        made.decoded[data] += 1
        return own_decode(data, name)

    def read(self: Dataset, group: Any, columns: Any) -> Any:
        assert made.inside or "image" not in columns.get("samples", ()), "the driver reads a picture"
        return own_read(self, group, columns)

    monkeypatch.setattr(recogniser, "decode_image", decode)
    monkeypatch.setattr(Dataset, "read", read)
    monkeypatch.setattr(run, "run_in_shares", made.run)
    monkeypatch.setattr(run, "PART", 5)
    monkeypatch.setattr(asking, "reserved_device", lambda: "cpu")
    asking._LOADED.clear()
    yield made
    asking._LOADED.clear()


def pictures(dataset: Dataset) -> set[bytes]:
    return {row["image"] for row in dataset.table("samples").to_pylist() if row["split"] == "val"}


def made(workspace: Workspace, model: Path, dataset: Dataset, settings: Evaluation = ASKED) -> Evaluated:
    return evaluate(workspace, model, str(dataset.root), settings)


def test_each_picture_is_decoded_once_and_none_crosses_the_driver(
    workspace: Workspace, drawn_dataset: Dataset, tiny_model: Path, processes: Processes
) -> None:
    shown = pictures(drawn_dataset)
    found = made(workspace, tiny_model, drawn_dataset)
    assert processes.parts == [0, 1, 2]
    assert processes.decoded == Counter(shown)
    assert not any(picture[:64] in message for message in processes.crossed for picture in shown)
    assert max(map(len, processes.crossed)) < 20_000
    rows = found.items().to_pylist()
    order = [(row["answer"], row["scope"]) for row in rows[::12]]
    assert order == [(a, s) for a in sorted(ASKED.answers) for s in ("all", "options")]
    processes.inside = True
    ids = [sample.sample_id for sample in drawn_dataset.samples("val")]
    assert [row["sample_id"] for row in rows] == ids * 6
    assert found.embeddings()["sample_ids"].tolist() == ids
    assert found.summary["leaks"] == {"pictures": 0, "of": 12, "against": [drawn_dataset.reference]}
    assert found.summary["near_chance"] == near_chance(found.items(), found.summary["chance"])
    again = evaluate(workspace, tiny_model, str(drawn_dataset.root), ASKED, trained_on="gone@d1")
    assert again.summary["leaks"] == {**found.summary["leaks"], "unchecked": ["gone@d1"]}
    assert again.place == found.place, "who asks does not determine the figures"
    assert not (workspace.evaluation_parts / found.place.name).exists()


def test_it_says_what_each_answer_alone_says(
    workspace: Workspace, drawn_dataset: Dataset, tiny_model: Path, processes: Processes
) -> None:
    found = made(workspace, tiny_model, drawn_dataset)
    processes.inside = True
    samples = drawn_dataset.samples("val")
    model = Recogniser(load_backbone(tiny_model), drawn_dataset.categories())
    for answer in ASKED.answers:
        best = model.answer([s.image for s in samples], answer).scores.argmax(1).tolist()
        rows = [r for r in found.items().to_pylist() if (r["answer"], r["scope"]) == (answer, "all")]
        assert [row["predicted"] for row in rows] == [model.categories[i].category_id for i in best]


def test_what_was_cut_off_goes_on_and_answers_no_picture_twice(
    workspace: Workspace,
    drawn_dataset: Dataset,
    tiny_model: Path,
    processes: Processes,
    tmp_path: Path,
) -> None:
    processes.stop_after = 1
    with pytest.raises(KeyboardInterrupt):
        made(workspace, tiny_model, drawn_dataset)
    assert processes.parts == [0]
    (left,) = dispensable(workspace, timedelta(0))
    asked = {"dataset": drawn_dataset.reference, "split": "val", "answers": [*ASKED.answers]}
    assert left.about.items() >= {"model": str(tiny_model), **asked}.items()
    processes.stop_after = None
    found = made(workspace, tiny_model, drawn_dataset)
    assert processes.parts == [0, 1, 2]
    assert processes.decoded == Counter(pictures(drawn_dataset))
    assert found.summary["placed"] == {"device": "cpu", "cards": 0, "micro_tokens": MICRO_TOKENS}
    whole = made(open_workspace(tmp_path / "another"), tiny_model, drawn_dataset)
    assert found.items().equals(whole.items())
    told = [json.loads((one.folder / "summary.json").read_text()) for one in (found, whole)]
    for summary in told:
        assert set(summary.pop("pictures_per_second")) == set(ASKED.answers)
        del summary["finished"]
    assert told[0] == told[1]


def test_a_calibration_that_is_there_is_not_made_again(
    workspace: Workspace, drawn_dataset: Dataset, tiny_model: Path, processes: Processes
) -> None:
    settings = Evaluation(split="val", answers=("alignment_calibrated",), calibration="on")
    processes.stop_after = 2  # one part of 48 fitting pictures, and one of five that are asked
    with pytest.raises(KeyboardInterrupt):
        made(workspace, tiny_model, drawn_dataset, settings)
    processes.stop_after = None
    found = made(workspace, tiny_model, drawn_dataset, settings)
    assert processes.parts == [0, 0, 1, 2]
    assert set(processes.decoded.values()) == {1}
    assert len(processes.decoded) == 48 + 12
    assert CategoryIndex.load(found.index).calibration is not None


@pytest.fixture(scope="module")
def half_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("half")
    load_backbone(tiny_model, dtype="bfloat16").save_pretrained(folder)
    return folder


def test_a_model_is_judged_in_the_dtype_it_was_trained_in(
    workspace: Workspace,
    drawn_dataset: Dataset,
    half_model: Path,
    processes: Processes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a card that is made up: what is placed there is noted, and stays on the CPU."""
    placed: list[str] = []
    inputs: set[torch.dtype] = set()
    own = Backbone.encode_images

    def to(self: Backbone, device: str) -> Backbone:
        placed.append(device)
        return self

    def encode(self: Backbone, images: Any) -> Any:
        inputs.update(t.dtype for t in images.values() if t.is_floating_point())
        inputs.update(p.dtype for p in self.parameters())
        return own(self, images)

    monkeypatch.setattr(Backbone, "to", to)
    monkeypatch.setattr(Backbone, "encode_images", encode)
    monkeypatch.setattr(asking, "reserved_device", lambda: "cuda")
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: True)
    monkeypatch.setattr("finedefics.placing.memory_of", lambda device: [80 * 2**30])
    found = made(workspace, half_model, drawn_dataset)
    assert (placed, inputs) == (["cuda"], {torch.bfloat16})
    assert found.summary["dtype"] == "bfloat16"
    inputs.clear()
    whole = made(workspace, half_model, drawn_dataset, ASKED.model_copy(update={"dtype": "float32"}))
    assert (inputs, whole.summary["dtype"]) == ({torch.float32}, "float32")
    assert whole.place != found.place
    assert whole.summary["protocol"] == found.summary["protocol"]
    inputs.clear()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    served = Recogniser.load(half_model, found.index)
    processes.inside = True
    served.recognise([sample.image for sample in drawn_dataset.samples("val")])
    assert (placed, inputs) == (["cuda"] * 3, {torch.bfloat16})


def test_a_dtype_that_cannot_be_had_is_refused(
    workspace: Workspace,
    drawn_dataset: Dataset,
    half_model: Path,
    processes: Processes,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    with pytest.raises(FinedeficsError, match=r"dtype") as unknown:
        parse_document(Evaluation, {"dtype": "int8"}, place="test")
    with pytest.raises(FinedeficsError, match="unknown dtype 'int8'") as asked:
        load_backbone(half_model, dtype="int8")
    config = json.loads((half_model / "config.json").read_text())
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text(json.dumps({**config, "dtype": "float8_e4m3fn"}))
    with pytest.raises(FinedeficsError, match="stored in float8_e4m3fn") as stored:
        made(workspace, tmp_path / "odd", drawn_dataset)
    monkeypatch.setattr(asking, "reserved_device", lambda: "cuda")
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: False)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "an old card")
    with pytest.raises(FinedeficsError, match="an old card: the card does not compute in bfloat16") as lacks:
        made(workspace, half_model, drawn_dataset)
    for caught in (unknown, asked, stored, lacks):
        assert len(str(caught.value).splitlines()) == 1


def test_settings_without_a_dtype_are_what_they_were() -> None:
    """Studies and evaluations are addressed by them."""
    assert Evaluation().model_dump(mode="json", exclude={"every"}) == {
        "split": "test",
        "answers": ["names", "alignment", "describe"],
        "calibration": "auto",
        "seed": 0,
        "options": 4,
        "limit": None,
    }
    assert Evaluation(dtype="bfloat16").model_dump(mode="json")["dtype"] == "bfloat16"


@pytest.mark.slow
def test_a_killed_evaluation_answers_no_picture_twice(
    workspace: Workspace,
    drawn_dataset: Dataset,
    tiny_model: Path,
    ray_cluster: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = Path(__file__).with_name("killed_evaluation.py")
    address = ray_cluster.get_runtime_context().gcs_address
    given = [address, str(workspace.root), str(tiny_model), str(drawn_dataset.root)]
    first = subprocess.Popen([sys.executable, str(script), *given], stderr=subprocess.PIPE, text=True)
    parts = workspace.evaluation_parts

    def there() -> set[str]:
        files = [file.name for folder in parts.children() for file in folder.children()]
        return {name for name in files if name.startswith("asked-")}

    while len(there()) < 2:
        assert first.poll() is None, first.communicate()[1]
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    time.sleep(3)  # what its processes had in hand is written, or lost with them
    before = there()
    assert 2 <= len(before) < 12, "it was not killed in the middle"
    asked: list[str] = []
    own = run.run_in_shares

    def noted(items: Sequence[Any], *more: Any, **named: Any) -> Any:
        asked.extend(item.name for item in items)
        return own(items, *more, **named)

    monkeypatch.setattr(run, "run_in_shares", noted)
    monkeypatch.setattr(run, "PART", 1)
    settings = Evaluation(split="val", answers=("alignment", "describe"), calibration="off")
    done = made(workspace, tiny_model, drawn_dataset, settings)
    assert not before & set(asked)
    assert len(before) + len(asked) == done.summary["pictures"] == 12
