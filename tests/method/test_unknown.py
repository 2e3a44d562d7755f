"""A threshold answers the share of known pictures it was chosen for, and is kept with the category index."""

from pathlib import Path

import numpy as np
import pytest

from finedefics.errors import FinedeficsError
from finedefics.scoring import Unknown


def chosen(scores: list[float], target: float) -> Unknown:
    return Unknown.choose({"alignment": np.array(scores)}, dataset="birds@d1", split="val", target=target)


@pytest.mark.parametrize("count", [1, 7, 19, 20, 100, 101])
@pytest.mark.parametrize("target", [0.5, 0.9, 0.95, 1.0])
def test_the_highest_threshold_that_answers_the_wanted_share(count: int, target: float) -> None:
    scores = np.random.default_rng(count).permutation(count).astype(float)
    threshold = chosen(list(scores), target).thresholds["alignment"]
    assert (scores >= threshold).mean() >= target
    assert (scores > threshold).mean() < target


def test_equal_scores_are_answered_together() -> None:
    unknown = chosen([0.2] * 10 + [0.9] * 10, 0.95)
    assert unknown.thresholds == {"alignment": 0.2}
    assert not unknown.is_unknown("alignment", 0.2)
    assert unknown.is_unknown("alignment", 0.19)


def test_it_is_kept_with_the_index_and_says_what_it_was_chosen_on(tmp_path: Path) -> None:
    unknown = chosen([float(np.float32(0.1)), 0.3], 0.95)
    unknown.save(tmp_path)
    assert Unknown.load(tmp_path) == unknown
    assert (unknown.dataset, unknown.split, unknown.pictures) == ("birds@d1", "val", 2)


def test_what_has_no_threshold_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(FinedeficsError, match=r"no threshold was chosen for this model.*finedefics evaluate"):
        Unknown.load(tmp_path)
    with pytest.raises(FinedeficsError, match=r"use one that has one \(alignment\), or evaluate"):
        chosen([0.1], 0.95).is_unknown("letters", 0.0)
