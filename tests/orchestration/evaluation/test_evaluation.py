"""Evaluation asks as the model was trained, records what the ensemble was weighed on, counts non-answers."""

from pathlib import Path
from typing import Any

import pytest
import torch

from finedefics.base_model import untrained_backbone
from finedefics.conversation import Templates
from finedefics.data.generated import WorldPlan, make_world, write_world
from finedefics.errors import FinedeficsError
from finedefics.scoring import CategoryIndex
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.config.experiment import Evaluation
from finedefics_platform.data import pipelines
from finedefics_platform.evaluation.run import Evaluated, evaluate

ASKED = Templates(question="What is this red tern ?")
ANSWERS = ("names", "names_free", "alignment", "letters", "letters_likelihood", "ensemble")
WANTED = Evaluation(answers=ANSWERS, seed=3)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, ray_cluster: Any) -> tuple[Workspace, Path]:
    """A workspace with a mined dataset `birds`, and a model folder with templates of its own."""
    root = tmp_path_factory.mktemp("evaluation")
    workspace = open_workspace(root / "workspace")
    world = make_world(2, families=2, species_per_family=4)
    write_world(world, root / "world", WorldPlan(labelled=1, captioned=1, val=1, test=1))
    for step in (pipelines.ingest, pipelines.describe, pipelines.mine):
        step(workspace, "birds", *([root / "world"] if step is pipelines.ingest else []))
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


def test_a_weight_is_not_judged_where_it_was_chosen(place: tuple[Workspace, Path]) -> None:
    workspace, model = place
    with pytest.raises(FinedeficsError, match="chosen on val"):
        evaluate(workspace, model, "birds", WANTED.model_copy(update={"split": "val"}))


def test_other_words_are_another_evaluation(place: tuple[Workspace, Path], done: Evaluated) -> None:
    workspace, model = place
    assert evaluate(workspace, model, "birds", WANTED).folder == done.folder
    Templates().save(model)
    try:
        cheap = WANTED.model_copy(update={"answers": ("alignment",)})
        before = evaluate(workspace, model, "birds", cheap).folder
        ASKED.save(model)
        assert evaluate(workspace, model, "birds", cheap).folder != before
    finally:
        ASKED.save(model)
