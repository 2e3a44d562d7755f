"""Which training pictures stand beside an answer: few of a category, kept with the model and the data."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.store import Dataset
from finedefics_platform.serving.nearest import EDGE, TrainingPictures, choose, kept_at, thumbnail


def test_fewer_of_a_category_where_there_are_many(drawn_dataset: Dataset) -> None:
    known = len(drawn_dataset.labelled_category_ids())
    assert len(choose(drawn_dataset, 100)) == known * 8
    assert len(choose(drawn_dataset, 8, most=3 * known)) == 3 * known


def test_what_is_kept_is_found_by_the_next_start_of_the_same_model_and_data(
    workspace: Workspace, drawn_dataset: Dataset
) -> None:
    place = kept_at(workspace, "a-model", drawn_dataset, 2)
    assert TrainingPictures.load(place) is None
    made = TrainingPictures(2)
    made.add("one", "tern", b"ONE", np.array([1, 0, 0], np.float32))
    made.add("two", "auk", b"TWO", np.array([0.6, 0.8, 0], np.float32))
    made.save(place)
    kept = TrainingPictures.load(kept_at(workspace, "a-model", drawn_dataset, 2))
    assert kept is not None
    assert (len(kept), kept.wanted, kept.note) == (2, 2, None)
    query = np.array([0, 1, 0], np.float32)
    assert kept.nearest(query, 5) == made.nearest(query, 5)
    (nearest,) = kept.nearest(query, 1)
    assert (nearest.sample_id, round(nearest.similarity, 3)) == ("two", 0.8)
    for other in (("another", 2), ("a-model", 3)):
        assert kept_at(workspace, other[0], drawn_dataset, other[1]) != place


def test_a_thumbnail_is_small_upright_and_keeps_its_shape(tmp_path: Path) -> None:
    wide = Image.new("RGB", (1200, 300), (200, 10, 10))
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright
    wide.save(tmp_path / "wide.jpg", exif=turned)
    with Image.open(io.BytesIO(thumbnail((tmp_path / "wide.jpg").read_bytes()))) as small:
        assert (small.format, max(small.size)) == ("JPEG", EDGE)
        assert small.height == 4 * small.width
