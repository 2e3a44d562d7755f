"""Calibrated alignment equals its formula, follows the index's switch, and grows with the index."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from finedefics.backbones import Backbone
from finedefics.data.generated import make_world
from finedefics.errors import FinedeficsError
from finedefics.pictures import decode_image
from finedefics.records import Category
from finedefics.scoring import Calibration, CategoryIndex, EnsembleWeight, Recogniser, Trial, choose_weight
from finedefics.scoring.calibration import equal_shares
from finedefics.scoring.weighing import combine

CATEGORIES = [
    Category(s.name, s.name, description=s.description)
    for s in make_world(6, families=2, species_per_family=3).species
]


@pytest.fixture(scope="module")
def model(lettered: Backbone) -> Recogniser:
    torch.set_num_threads(1)
    return Recogniser(lettered, CATEGORIES)


@pytest.fixture(scope="module")
def objects(model: Recogniser, birds: list[bytes]) -> torch.Tensor:
    with torch.no_grad():
        return model.embed_objects(model.encode([decode_image(bird, "") for bird in birds]))[0]


def calibrated(model: Recogniser, *, on: bool = True, pictures: int = 40) -> Recogniser:
    """The model calibrated with random directions."""
    dim = model.index.names.shape[1]
    fitting = F.normalize(torch.randn(pictures, dim, generator=torch.Generator().manual_seed(1)), dim=1)
    made = Calibration(fitting, on, "a test", "birds", "train", pictures, 9, Trial("birds", "val", 4, 0.5, 1))
    return Recogniser(model.backbone, model.categories, index=model.index, calibration=made)


def plain_csls(objects: torch.Tensor, texts: torch.Tensor, fitting: torch.Tensor) -> torch.Tensor:
    """The formula, a pair at a time."""
    scores = torch.empty(len(objects), len(texts))
    for column, text in enumerate(texts):
        likeness = sorted((float(picture @ text) for picture in fitting), reverse=True)[:10]
        for row, one in enumerate(objects):
            scores[row, column] = 2 * float(one @ text) - sum(likeness) / len(likeness)
    return scores


@pytest.mark.parametrize("pictures", [40, 3])
def test_scores_are_twice_the_cosine_less_the_hub_term(
    model: Recogniser, birds: list[bytes], objects: torch.Tensor, pictures: int
) -> None:
    used = calibrated(model, pictures=pictures)
    assert used.index.calibration is not None
    fitting = used.index.calibration.objects
    for answer, variant in (
        ("alignment", "sum"),
        ("alignment_names", "names"),
        ("alignment_descriptions", "descriptions"),
        ("alignment_calibrated", "sum"),
    ):
        expected = plain_csls(objects, used.index.embeddings(variant), fitting)  # type: ignore[arg-type]
        torch.testing.assert_close(used.answer(birds, answer).scores, expected, atol=1e-5, rtol=0)
    cosines = model.answer(birds, "alignment").scores
    torch.testing.assert_close(used.answer(birds, "alignment_plain").scores, cosines)


def test_the_index_says_whether_it_is_used(model: Recogniser, birds: list[bytes]) -> None:
    off = calibrated(model, on=False)
    assert torch.equal(off.answer(birds, "alignment").scores, model.answer(birds, "alignment").scores)
    on = calibrated(model).answer(birds, "alignment").scores
    torch.testing.assert_close(off.answer(birds, "alignment_calibrated").scores, on)
    with pytest.raises(FinedeficsError, match="nothing to calibrate alignment with"):
        model.answer(birds[:1], "alignment_calibrated")


def test_a_grown_index_is_calibrated_as_one_built_anew(model: Recogniser, birds: list[bytes]) -> None:
    whole = calibrated(model)
    small = Recogniser(model.backbone, CATEGORIES[:4], calibration=whole.index.calibration)
    before = small.answer(birds, "alignment").scores  # its hub terms are computed before it grows
    grown = small.add(CATEGORIES[4:])
    found = grown.answer(birds, "alignment").scores
    torch.testing.assert_close(found, whole.answer(birds, "alignment").scores, atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:, :4], before, atol=1e-5, rtol=0)
    assert grown.index.calibrates


def test_an_index_keeps_its_calibration(model: Recogniser, birds: list[bytes], tmp_path: Path) -> None:
    used = calibrated(model)
    used.index.save(tmp_path)
    read = CategoryIndex.load(tmp_path)
    assert read.calibration is not None
    assert used.index.calibration is not None
    assert read.calibration.told() == used.index.calibration.told()
    assert torch.equal(read.calibration.objects, used.index.calibration.objects)
    served = Recogniser(model.backbone, read.categories, index=read)
    torch.testing.assert_close(
        served.answer(birds, "alignment").scores, used.answer(birds, "alignment").scores
    )
    model.index.save(tmp_path / "plain")
    assert CategoryIndex.load(tmp_path / "plain").calibration is None
    asking = json.loads((tmp_path / "plain" / "asking.json").read_text())
    del asking["calibration"]
    (tmp_path / "plain" / "asking.json").write_text(json.dumps(asking))
    assert CategoryIndex.load(tmp_path / "plain").calibration is None


def test_a_hub_is_named_less_often() -> None:
    """By the cosine the first text is the nearest of all pictures, and nearer still to those of its own."""
    own, other = (F.normalize(torch.tensor([row]), dim=1) for row in ([0.7, 0.7, 0.0], [0.95, 0.0, 0.3]))
    pictures = torch.cat([own.repeat(20, 1), other.repeat(20, 1)])
    texts = F.normalize(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.9, -0.4]]), dim=1)
    index = CategoryIndex(tuple(CATEGORIES[:2]), texts, texts)
    fitted = index.calibrated_by(pictures, on=True, why="", dataset="d", split="train")
    assert index.scores(own).argmax(1).tolist() == index.scores(other).argmax(1).tolist() == [0]
    assert fitted.scores(own).argmax(1).tolist() == [1]
    assert fitted.scores(other).argmax(1).tolist() == [0]


def test_no_category_is_fitted_on_more_pictures_than_the_usual_one() -> None:
    """Predicted 5, 2, 1 and 0 times: the median of those that are predicted at all is 2."""
    predicted = torch.tensor([0, 1, 0, 0, 2, 0, 1, 0])
    chosen, share = equal_shares(F.one_hot(predicted, 4).float())
    assert (chosen, share) == ([0, 1, 2, 4, 6], 2)
    assert equal_shares(F.one_hot(torch.tensor([3]), 4).float()) == ([0], 1)


def test_the_ensemble_weighs_calibrated_alignment_by_the_same_temperature(
    model: Recogniser, birds: list[bytes]
) -> None:
    """A hub term that is the same for all categories changes nothing: the factor 2 is taken out again."""
    used = calibrated(model)
    used.index = replace(used.index, ensemble=EnsembleWeight(0.3, "birds", "val", 10, 0.5))
    names, cosines = (used.answer(birds, part).scores for part in ("names", "alignment_plain"))
    calibrated_to = used.answer(birds, "alignment").scores
    expected = combine(names, cosines - used.index.hubs["sum"] / 2, 0.3)
    torch.testing.assert_close(used.answer(birds, "ensemble").scores, expected, atol=1e-4, rtol=0)
    truth = [0] * len(birds)
    doubled = choose_weight(names, calibrated_to, truth, dataset="d", split="val", slope=used.index.slope)
    plain = choose_weight(names, calibrated_to / 2, truth, dataset="d", split="val")
    assert doubled == plain
