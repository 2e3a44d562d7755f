"""Labellers by runs and folders: which models they mean, and that they label with them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from registered import trained_run

from finedefics.errors import FinedeficsError
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.embeddings import read_array
from finedefics_platform.data.labelling import label
from finedefics_platform.data.labelling.inferring import NOT_ASKED, named_labeller
from finedefics_platform.data.store import Dataset
from finedefics_platform.models.labellers import resolve_labeller


def test_a_run_stands_for_its_model_and_for_the_one_it_began_from(
    drawn_workspace: Workspace, drawn_dataset: Dataset, tiny_model: Path, tmp_path: Path
) -> None:
    base = drawn_workspace.name_of(drawn_workspace.models / "tiny")
    trained_run(drawn_workspace, "labelled-1", model=tiny_model, tracked=False)
    tuned = "workspace:runs/labelled-1/training-1/model"
    assert resolve_labeller(drawn_workspace, "alignment:labelled-1") == f"alignment:{tuned}"
    assert resolve_labeller(drawn_workspace, "reading:labelled-1") == f"reading:{tuned}"
    for same in (
        f"reading:{tiny_model}",
        "reading:owner/model",
        "file:labels.csv",
        "mine.py",
        f"reading:{base}",
    ):
        assert resolve_labeller(drawn_workspace, same) == same
    with pytest.raises(FinedeficsError, match="only a run says which model it was tuned from"):
        resolve_labeller(drawn_workspace, f"agreement:{tiny_model}")
    named = named_labeller(drawn_workspace, f"agreement:{tuned},{base}", drawn_dataset.categories())
    assert "agreement:alignment:" in named.open().labeller_id


def test_a_model_reads_what_is_said_of_pictures_without_a_label(
    drawn_workspace: Workspace, drawn_dataset: Dataset, tiny_model: Path, ray_cluster: Any
) -> None:
    """An untrained model is right by chance: it is refused with what it reached, and what it read is kept."""
    told = f"reading:{drawn_workspace.name_of(drawn_workspace.models / 'tiny')}"
    before = {place.name for place in drawn_workspace.labels.children()}
    with pytest.raises(
        FinedeficsError, match=r"no threshold reaches .* takes \d+ pictures .* of 40 pictures"
    ):
        label(drawn_workspace, drawn_dataset.reference, labeller=told)
    (made,) = (place for place in drawn_workspace.labels.children() if place.name not in before)
    parts = [read_array(place) for place in made.children() if place.name.endswith(".npy")]
    asked = np.concatenate([part[part[:, 0] != NOT_ASKED] for part in parts])
    assert len(asked) == 56, "16 pictures without a label, and 40 that are known"
    assert ((asked[:, 0] >= 0) & (asked[:, 0] < 6)).all()
    assert ((asked[:, 1] > 0) & (asked[:, 1] <= 1)).all()
    with pytest.raises(FinedeficsError, match="8 labelled pictures of val are of categories with a labelled"):
        label(drawn_workspace, drawn_dataset.reference, labeller=f"alignment:{tiny_model}")


def test_agreement_reads_with_the_model_that_the_run_began_from(
    drawn_workspace: Workspace, tiny_model: Path
) -> None:
    base = drawn_workspace.name_of(drawn_workspace.models / "tiny")
    run = trained_run(drawn_workspace, "agreeing-1", tracked=False)
    result = (run.place / "result.json").read_json()
    result["experiment"]["model"]["path"] = base
    (run.place / "result.json").write_json(result)
    tuned = "workspace:runs/agreeing-1/training-1/model"
    assert resolve_labeller(drawn_workspace, "agreement:agreeing-1") == f"agreement:{tuned},{base}"
