"""Evaluation asks as the model was trained, records what the ensemble was weighed on, counts non-answers."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from object_store import object_store

from finedefics.base_model import untrained_backbone
from finedefics.conversation import Templates
from finedefics.data.generated import WorldPlan, make_world, write_world
from finedefics.errors import FinedeficsError
from finedefics.scoring import CategoryIndex, Unknown
from finedefics_platform.base.content import model_digest
from finedefics_platform.base.storage import Location, commit, holder
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.config.experiment import Evaluation
from finedefics_platform.data.describing import describe
from finedefics_platform.data.ingesting import ingest
from finedefics_platform.data.mining import mine
from finedefics_platform.data.store import open_dataset
from finedefics_platform.evaluation.items import Evaluated
from finedefics_platform.evaluation.probing import BASE, TUNED, probe
from finedefics_platform.evaluation.run import evaluate

ASKED = Templates(question="What is this red tern ?")
ANSWERS = ("names", "names_free", "names_open", "alignment", "letters", "letters_likelihood", "ensemble")
WANTED = Evaluation(answers=ANSWERS, seed=3, rotations="all", unknown="on")
CHEAP = Evaluation(answers=("alignment",), seed=3)
EQUAL = Evaluation(answers=("alignment", "ensemble"), limit=4)  # what equal_evaluation.py asks for


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, ray_cluster: Any) -> tuple[Workspace, Path]:
    """A workspace with a mined dataset `birds`, and a model folder with templates of its own."""
    root = tmp_path_factory.mktemp("evaluation")
    workspace = open_workspace(root / "workspace")
    world = make_world(2, families=2, species_per_family=4)
    write_world(world, root / "world", WorldPlan(labelled=1, captioned=1, val=1, test=1))
    for step in (ingest, describe, mine):
        step(workspace, "birds", *([root / "world"] if step is ingest else []))
    torch.manual_seed(1)
    backbone = untrained_backbone()
    words = ASKED.multiple_choice(["A"]).replace(".", " .").replace(":", " :").split()
    backbone.processor.tokenizer.add_tokens([*"ABCD", *words])
    backbone.model.resize_token_embeddings(len(backbone.processor.tokenizer), mean_resizing=False)
    backbone.save_pretrained(root / "model")
    ASKED.save(root / "model")
    return workspace, root / "model"


@pytest.fixture(scope="module")
def done(place: tuple[Workspace, Path]) -> Evaluated:
    workspace, model = place
    return evaluate(workspace, model, "birds", WANTED)


def test_every_answer_is_asked_where_it_has_a_meaning(done: Evaluated) -> None:
    rows = done.items().to_pylist()
    pictures = {row["sample_id"] for row in rows}
    asked = {(row["answer"], row["scope"]) for row in rows}
    wide = {(answer, "all") for answer in ANSWERS if not answer.startswith("letters")}
    assert asked == wide | {(answer, "options") for answer in ANSWERS}
    assert len(rows) == len(asked) * len(pictures) == len(asked) * 8


def test_what_is_no_answer_is_wrong_and_counted(done: Evaluated) -> None:
    rows = [row for row in done.items().to_pylist() if row["answer"] == "letters"]
    unread = [row for row in rows if row["predicted"] is None]
    assert not any(row["correct"] for row in unread)
    assert all(row["description"] is not None for row in rows)
    shares = done.summary["unparseable"]
    assert shares["letters"] == len(unread) / len(rows)
    assert shares["names"] == shares["letters_likelihood"] == 0
    tokens = done.summary["tokens_per_picture"]
    assert tokens["letters"]["generated"] > 0 == tokens["letters_likelihood"]["generated"]


def test_the_index_says_how_its_model_is_asked_and_weighed(done: Evaluated) -> None:
    index = CategoryIndex.load(done.index)
    assert index.templates == ASKED
    assert index.ensemble is not None
    assert (index.ensemble.split, index.ensemble.pictures) == ("val", 8)
    assert done.summary["ensemble"]["weight"] == index.ensemble.weight


def test_options_are_asked_in_all_their_orders_and_count_in_one(done: Evaluated) -> None:
    letters = ("letters", "letters_likelihood")
    rows = done.items(rotated=True).to_pylist()
    turned = [row for row in rows if row["rotation"]]
    assert {(row["answer"], row["rotation"]) for row in turned} == {
        (a, k) for a in letters for k in (1, 2, 3)
    }
    assert done.items().num_rows + len(turned) == len(rows)
    for row in rows:
        if row["scope"] == "options":
            assert row["options"][row["position"]] == row["category_id"]
        else:
            assert row["options"] is row["position"] is None
    told = done.summary["rotations"]
    assert set(told) == set(letters)
    assert (told["letters"]["orders"], told["letters"]["questions"]) == (4, 8)
    likelihood = told["letters_likelihood"]
    assert sum(one["chosen"] for one in likelihood["positions"]) == 4 * 8
    assert {one["truth"] for one in likelihood["positions"]} == {8}


def test_thresholds_are_chosen_on_val_and_kept_with_the_index(
    place: tuple[Workspace, Path], done: Evaluated
) -> None:
    workspace, model = place
    unknown = Unknown.load(done.index)
    assert set(unknown.thresholds) == {"names", "alignment", "ensemble"}
    assert (unknown.split, unknown.pictures) == ("val", 8)
    assert set(done.summary["unknown"]) == set(unknown.thresholds)
    on_val = evaluate(workspace, model, "birds", Evaluation(answers=("names",), split="val", seed=3))
    scores = [row["score"] for row in on_val.items().to_pylist() if row["scope"] == "all"]
    # of eight pictures none may be refused
    assert unknown.thresholds["names"] == pytest.approx(min(scores), abs=1e-4)
    assert Unknown.find(on_val.index) is None, "it would be judged where it was chosen"
    told = done.summary["unknown"]["names"]
    own = [row for row in done.items().to_pylist() if (row["answer"], row["scope"]) == ("names", "all")]
    answered = [row for row in own if row["score"] >= told["threshold"]]
    assert told["coverage"] == len(answered) / len(own)
    assert told["curve"][-1] == [1.0, sum(not row["correct"] for row in own) / len(own)]


def test_a_free_reply_is_judged_exactly_and_in_normal_form(done: Evaluated) -> None:
    found = done.summary["open_set"]
    assert set(found) == {"names_free", "names_open"}
    replies = {
        answer: [r["reply"] for r in done.items().to_pylist() if (r["answer"], r["scope"]) == (answer, "all")]
        for answer in found
    }
    assert replies["names_free"] == replies["names_open"]
    assert found["names_free"] == found["names_open"]
    assert found["names_free"]["exact"]["n"] == 8


def test_probes_of_a_model_and_its_base_are_compared_on_the_same_pictures(
    place: tuple[Workspace, Path], done: Evaluated
) -> None:
    workspace, model = place
    there = Location.of(model)
    found = probe(workspace, {BASE: there, TUNED: there}, "birds", CHEAP)
    assert found["tables"][BASE] == found["tables"][TUNED]
    assert {one["answer"] for one in found["differences"]} == {"zero_shot", "knn", "linear_probe"}
    assert {one["mean"] for one in found["differences"]} == {0.0}
    assert {len(set(found["evaluations"].values())), sum(o["n"] for o in found["differences"])} == {1, 3 * 8}


def test_a_weight_is_not_judged_where_it_was_chosen(place: tuple[Workspace, Path]) -> None:
    workspace, model = place
    with pytest.raises(FinedeficsError, match="chosen on val"):
        evaluate(workspace, model, "birds", WANTED.model_copy(update={"split": "val"}))


def test_other_words_are_another_evaluation(place: tuple[Workspace, Path], done: Evaluated) -> None:
    workspace, model = place
    assert evaluate(workspace, model, "birds", WANTED).folder == done.folder
    Templates().save(model)
    try:
        before = evaluate(workspace, model, "birds", CHEAP).folder
        ASKED.save(model)
        assert evaluate(workspace, model, "birds", CHEAP).folder != before
    finally:
        ASKED.save(model)


def test_figures_say_what_they_were_measured_on(place: tuple[Workspace, Path], done: Evaluated) -> None:
    workspace, model = place
    dataset = open_dataset(workspace, "birds")
    said = done.summary
    assert (said["dataset"], said["dataset_digest"]) == (dataset.reference, dataset.digest)
    assert (said["split"], said["limit"], said["pictures"]) == ("test", None, 8)
    protocol = {"answers": list(ANSWERS), "calibration": "auto", "options": 4, "seed": 3}
    assert said["protocol"] == {**protocol, "rotations": 4, "unknown": "on"}
    assert said["model_digest"] == model_digest(model)
    assert said["finished"] == pytest.approx(time.time(), abs=600)
    assert str(workspace.root) not in (done.folder / "summary.json").read_text()


def test_what_was_labelled_is_told_by_the_training(place: tuple[Workspace, Path]) -> None:
    workspace, model = place
    cheap = CHEAP
    usual = evaluate(workspace, model, "birds", cheap)
    labelled = open_dataset(workspace, "birds").labelled_category_ids()
    assert labelled_in(usual) == labelled
    assert evaluate(workspace, model, "birds", cheap, labelled=sorted(labelled)).place == usual.place
    fewer = evaluate(workspace, model, "birds", cheap, labelled=sorted(labelled)[:2])
    assert fewer.place != usual.place
    assert labelled_in(fewer) == set(sorted(labelled)[:2])


def labelled_in(evaluated: Evaluated) -> set[str]:
    return {row["category_id"] for row in evaluated.items().to_pylist() if row["group"] == "labelled"}


def test_a_model_is_its_content(place: tuple[Workspace, Path], tmp_path: Path) -> None:
    workspace, model = place
    cheap = CHEAP.model_copy(update={"limit": 2})
    shutil.copytree(model, tmp_path / "copy")
    first = evaluate(workspace, model, "birds", cheap).place
    assert evaluate(workspace, tmp_path / "copy", "birds", cheap).place == first
    with (tmp_path / "copy" / "model.safetensors").open("r+b") as weights:
        weights.seek(-4, 2)
        last = weights.read(1)
        weights.seek(-4, 2)
        weights.write(bytes([last[0] ^ 1]))
    assert evaluate(workspace, tmp_path / "copy", "birds", cheap).place != first


class Heard:
    """A progress that remembers what it was told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.labels: list[str] = []

    def event(self, name: str, /, **fields: Any) -> None:
        self.events.append((name, fields))

    def say(self, text: str) -> None:
        pass

    @contextmanager
    def progress(self, label: str, total: int | None) -> Iterator[Callable[[int], None]]:
        self.labels.append(label)
        yield lambda count: None


def test_of_two_equal_evaluations_one_is_done_and_the_other_waits(
    place: tuple[Workspace, Path], ray_cluster: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    """In an object store, where neither the drivers nor the tasks share a disk."""
    local, model = place
    dataset = str(open_dataset(local, "birds").root)
    here = evaluate(local, model, "birds", EQUAL)
    monkeypatch.setenv("FINEDEFICS_CACHE", str(tmp_path / "cache"))
    with object_store() as bucket:
        workspace = open_workspace(f"{bucket}/home")
        with commit(workspace.models / "asked") as draft:
            shutil.copytree(model, draft, dirs_exist_ok=True)
        asked = workspace.models / "asked"
        script = Path(__file__).with_name("equal_evaluation.py")
        address = ray_cluster.get_runtime_context().gcs_address
        command = [sys.executable, str(script), address, str(workspace.root), str(asked), dataset]
        first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while not any(holder(claims) for claims in (workspace.evaluations / ".lease").children()):
            assert first.poll() is None, first.communicate()[1]
            time.sleep(0.05)
        heard = Heard()
        second = evaluate(workspace, asked, dataset, EQUAL, progress=heard)
        output, errors = first.communicate(timeout=120)
        assert first.returncode == 0, errors
        assert output.split()[-1] == str(second.place)
    assert "evaluating" not in heard.labels
    waited = [fields for name, fields in heard.events if name == "waiting"]
    assert len(waited) == 1
    assert waited[0]["holder"].endswith(f"process {first.pid}")
    assert second.place.name == here.place.name
    assert second.items().equals(here.items())
    assert CategoryIndex.load(second.index).templates == ASKED
