"""A calibration is fitted on training pictures alone, decided on val, and kept with the index."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bird_folder import put

from finedefics.backbones import load_backbone
from finedefics.data.birds import describe
from finedefics.data.generated import make_world, picture
from finedefics.errors import FinedeficsError
from finedefics.evaluation.items import object_embeddings
from finedefics.records import Category, Sample
from finedefics.scoring import CategoryIndex, Recogniser, choose_weight
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.cli.main import main
from finedefics_platform.config.experiment import Evaluation, parse_experiment
from finedefics_platform.data.ingesting import ingest
from finedefics_platform.data.store import Dataset, Place, open_dataset
from finedefics_platform.evaluation.calibrating import calibrate, ensemble_weight, fitting_places
from finedefics_platform.evaluation.checks import Planned, check_evaluable, planned
from finedefics_platform.evaluation.recogniser import _BYTES_ONLY
from finedefics_platform.evaluation.run import _truth, evaluate
from finedefics_platform.evaluation.validation import validation_places

ON = Evaluation(answers=("alignment",), calibration="on")
DECIDED = Planned("", fits=True, decides=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, ray_cluster: Any) -> Workspace:
    """`birds`, of which two species have no labels, and `planted`, which knows more of the same pictures."""
    root = tmp_path_factory.mktemp("calibrating")
    workspace = open_workspace(root / "workspace")
    for name in ("birds", "planted"):
        write_birds(root / name, planted=name == "planted")
        ingest(workspace, name, root / name)
    return workspace


def write_birds(root: Path, *, planted: bool) -> None:
    """``planted``: true labels and captions of all training pictures, and more pictures of val and test."""
    world = make_world(3, families=2, species_per_family=3)
    rng = np.random.default_rng(3)
    notes, own = [], []
    for split, count in (("train", 10), ("val", 2), ("test", 2), ("val", 3), ("test", 3)):
        for number in range(count):
            for species in world.species:
                image, visible = picture(species.attributes, rng)
                if len(notes) >= 14 * len(world.species) and not planted:
                    continue
                source = f"{len(notes):03}.png"
                put(root, source, image)
                known = planted or split != "train" or species.name not in world.new
                caption = {"description": describe(visible)} if planted or number % 2 else {}
                label = {"category": species.name} if known else {}
                notes.append({"image": source, "split": split, **label, **caption})
    for species in world.species:
        own.append({"name": species.name, "description": species.description})
    for file, lines in (("metadata.jsonl", notes), ("categories.jsonl", own)):
        (root / file).write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_no_label_caption_or_held_out_picture_changes_what_it_is_fitted_on(
    place: Workspace, tiny_model: Path
) -> None:
    bare, planted = (open_dataset(place, name) for name in ("birds", "planted"))
    assert len(planted.labelled_category_ids()) > len(bare.labelled_category_ids())
    assert planted.manifest["counts"]["val"] != bare.manifest["counts"]["val"]

    def fitting_pictures(dataset: Dataset, seed: int) -> list[Sample]:
        return dataset.samples_at(fitting_places(dataset, seed), _BYTES_ONLY)

    assert len({sample.sample_id for sample in fitting_pictures(bare, 0)}) == 60
    assert all(sample.image for sample in fitting_pictures(bare, 0))
    assert fitting_pictures(planted, 0) == fitting_pictures(bare, 0)
    assert fitting_pictures(bare, 1) != fitting_pictures(bare, 0)
    assert not any(s.category_id or s.description or s.attributes for s in fitting_pictures(planted, 0))
    fitted = []
    for name in ("birds", "planted"):
        index = CategoryIndex.load(evaluate(place, tiny_model, name, ON).index)
        assert index.calibration is not None
        fitted.append((index.calibration.objects, index.hubs["sum"]))
    assert torch.equal(fitted[0][0], fitted[1][0])
    assert torch.equal(fitted[0][1], fitted[1][1])


def test_of_many_pictures_some_are_drawn(drawn_dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fitting_places(drawn_dataset, 0)
    ids = {sample.sample_id for sample in drawn_dataset.samples_at(whole)}
    assert ids == {s.sample_id for s in drawn_dataset.samples("train")}
    monkeypatch.setattr("finedefics.scoring.calibration.MOST", 7)
    assert fitting_places(drawn_dataset, 0) == whole[:7]


def embedded(dataset: Dataset, places: Sequence[Place], own: float) -> torch.Tensor:
    """Pictures with cosine ``own`` to their category, and one with its first category, whatever they show."""
    ids = [category.category_id for category in dataset.categories()]
    samples = dataset.samples_at(places)
    shown = [next(i for i, name in enumerate(ids) if name in s.sample_id) for s in samples]
    return own * torch.eye(8)[shown] + (1 - own**2) ** 0.5 * torch.eye(8)[7]


@pytest.mark.parametrize(("own", "plain", "on"), [(0.67, 1 / 6, True), (0.9, 1.0, False)])
def test_it_is_used_where_val_is_righter_with_it_and_not_where_it_is_as_right(
    drawn_dataset: Dataset, own: float, plain: float, on: bool
) -> None:
    categories = drawn_dataset.categories()
    texts = torch.eye(8)[: len(categories)]
    texts[0] = torch.eye(8)[7]
    index = CategoryIndex(tuple(categories), texts, texts)
    fitting, deciding = fitting_places(drawn_dataset, 0), validation_places(drawn_dataset, None, "none")
    objects = [embedded(drawn_dataset, places, own) for places in (fitting, deciding)]
    found = calibrate(DECIDED, index, *objects, _truth(drawn_dataset, deciding), drawn_dataset.digest)
    assert found is not None
    assert found.trial is not None
    assert found.trial.plain == pytest.approx(plain)
    assert (found.trial.calibrated, found.trial.pictures, found.trial.split) == (1, 12, "val")
    assert (found.on, "not righter" in found.why, found.offered) == (on, not on, 48)


ALIGNED, BOTH = ("alignment",), ("alignment_plain", "alignment_calibrated")


@pytest.mark.parametrize(
    ("settings", "without", "plan"),
    [
        (Evaluation(answers=ALIGNED), "", DECIDED),
        (Evaluation(answers=("ensemble",)), "", DECIDED),
        (Evaluation(answers=("names", "alignment_plain", "describe")), "", None),
        (ON, "val", Planned("switched on", fits=True, on=True)),
        (Evaluation(answers=ALIGNED, calibration="off"), "", Planned("switched off")),
        (Evaluation(answers=ALIGNED), "val", Planned("no labelled picture in the split val to decide it on")),
        (
            Evaluation(answers=ALIGNED, split="val"),
            "",
            Planned("it is decided on val, and would be flattered there"),
        ),
        (
            Evaluation(answers=BOTH, split="val"),
            "",
            Planned("it is decided on val, and would be flattered there", fits=True),
        ),
        (Evaluation(answers=ALIGNED), "train", Planned("no picture in the split train to fit it on")),
    ],
)
def test_what_is_planned(
    drawn_dataset: Dataset, settings: Evaluation, without: str, plan: Planned | None
) -> None:
    assert planned(lacking(drawn_dataset, without), settings) == plan


def lacking(dataset: Dataset, split: str) -> Dataset:
    counts = {name: count for name, count in dataset.manifest["counts"].items() if name != split}
    return replace(dataset, manifest={**dataset.manifest, "counts": counts})


@pytest.mark.parametrize(
    ("settings", "without", "message"),
    [
        (Evaluation(split="val", answers=BOTH, calibration="off"), "", "switched off, and this answer"),
        (
            Evaluation(split="val", answers=BOTH),
            "train",
            "cannot be calibrated: no picture in the split train",
        ),
        (
            ON.model_copy(update={"split": "val"}),
            "train",
            "cannot be calibrated: no picture in the split train",
        ),
    ],
)
def test_what_cannot_be_calibrated_is_refused(
    drawn_dataset: Dataset, settings: Evaluation, without: str, message: str
) -> None:
    with pytest.raises(FinedeficsError, match=message) as caught:
        check_evaluable(lacking(drawn_dataset, without), settings)
    assert len(str(caught.value).splitlines()) == 1


def test_yaml_reads_the_switch_as_a_truth_value_and_no_training_depends_on_it() -> None:
    stage = {"name": "one", "steps": 1, "feeds": {"labelled": 4}, "terms": {"answer": 1}}
    document = {"name": "n", "data": {"dataset": "d"}, "model": {"path": "m"}, "stages": [stage]}
    read = [
        parse_experiment({**document, "evaluation": {"calibration": value}}, place="test")
        for value in (True, False, "auto", "on")
    ]
    assert [one.evaluation.calibration for one in read] == ["on", "off", "auto", "on"]
    assert len({one.digest() for one in read}) == 1
    with pytest.raises(FinedeficsError, match=r"`evaluation\.calibration` is wrong"):
        parse_experiment({**document, "evaluation": {"calibration": "perhaps"}}, place="test")


def test_an_evaluation_says_and_keeps_what_was_decided(
    place: Workspace, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("FINEDEFICS_HOME", str(place.root))
    answers = ",".join(("alignment", "ensemble", *BOTH))
    asked = ["evaluate", str(tiny_model), "--data", "birds", "--answers", answers]
    assert main([*asked, "--json"]) == 0
    *_, last = (json.loads(line) for line in capfd.readouterr().out.splitlines() if line.startswith("{"))
    said = last["summary"]["calibration"]
    assert (said["trial"]["pictures"], said["offered"], said["split"]) == (12, 60, "train")
    assert said["on"] == (said["trial"]["calibrated"] > said["trial"]["plain"])
    index = CategoryIndex.load(index_folder(place, last))
    assert index.calibration is not None
    assert {**index.calibration.told(), "fitted": len(index.calibration.objects)} == said
    own = Evaluation(split="val", answers=BOTH)
    for answer, right in shares(evaluate(place, tiny_model, "birds", own).items().to_pylist()).items():
        assert right == pytest.approx(said["trial"][answer.removeprefix("alignment_")])
    assert main(asked) == 0
    told = " ".join(capfd.readouterr().out.split())
    assert f"alignment is {'' if said['on'] else 'not '}calibrated: alignment is " in told
    assert f"of 12 pictures); fitted on {said['fitted']} training pictures" in told
    grown = Recogniser.load(tiny_model, index_folder(place, last)).add([Category("x", "marsh bunting")])
    assert grown.index.calibration is not None
    assert len(grown.index.hubs["sum"]) == len(index.categories) + 1


def index_folder(place: Workspace, done: dict[str, Any]) -> Path:
    return Path(place.place_of(done["folder"]).local or "") / "index"


def shares(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Accuracy by answer, all categories competing."""
    found: dict[str, list[bool]] = {}
    for row in rows:
        if row["scope"] == "all":
            found.setdefault(row["answer"], []).append(row["correct"])
    return {answer: sum(right) / len(right) for answer, right in found.items()}


@pytest.mark.parametrize("calibration", ["on", "off"])
def test_the_switch_decides_what_alignment_is(place: Workspace, tiny_model: Path, calibration: Any) -> None:
    settings = Evaluation(answers=("alignment", "alignment_plain"), calibration=calibration)
    done = evaluate(place, tiny_model, "birds", settings)
    index = CategoryIndex.load(done.index)
    assert done.summary["calibration"]["on"] == index.calibrates == (calibration == "on")
    stored = done.embeddings()
    scores = index.scores(torch.from_numpy(stored["objects"]), calibrated=calibration == "on")
    expected = [index.categories[i].category_id for i in scores.argmax(1).tolist()]
    said = {
        row["sample_id"]: row["predicted"]
        for row in done.items().to_pylist()
        if (row["answer"], row["scope"]) == ("alignment", "all")
    }
    assert [said[sample_id] for sample_id in stored["sample_ids"].tolist()] == expected


def test_the_ensemble_is_weighed_with_the_alignment_that_it_uses(
    drawn_dataset: Dataset, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recogniser = Recogniser(load_backbone(tiny_model), drawn_dataset.categories())
    dim = recogniser.index.names.shape[1]
    noise = torch.randn(20, dim, generator=torch.Generator().manual_seed(0))
    index = recogniser.index.calibrated_by(
        F.normalize(noise, dim=1), on=True, why="a test", dataset="d", split="train"
    )
    places = validation_places(drawn_dataset, None, "none")
    pictures = [sample.image for sample in drawn_dataset.samples_at(places)]
    names = recogniser.answer(pictures, "names").scores
    objects = torch.from_numpy(object_embeddings(recogniser, drawn_dataset.samples_at(places)))
    slopes, aligned = [], []

    def noted(*scores: Any, slope: float, **about: Any) -> Any:
        slopes.append(slope)
        aligned.append(scores[1])
        return choose_weight(*scores, slope=slope, **about)

    monkeypatch.setattr("finedefics.scoring.choose_weight", noted)
    truth = _truth(drawn_dataset, places)
    for calibration, slope in ((index.calibration, 2.0), (None, 1.0)):
        recogniser.index = replace(index, calibration=calibration)
        weight = ensemble_weight(recogniser.index, names, objects, truth, drawn_dataset.digest)
        assert (weight.pictures, weight.split) == (12, "val")
        assert slopes.pop() == slope
        own = recogniser.answer(pictures, "alignment").scores
        torch.testing.assert_close(aligned.pop(), own, atol=1e-5, rtol=0)
