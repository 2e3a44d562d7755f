"""The contrastive batch is the global batch: any number of processes, any token budget, one gradient."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

GROUP = Path(__file__).with_name("global_batch_group.py")
TOLERANCE = 1e-5  # the model is in double precision, what is read from it in single
WORLDS = (1, 2, 4)
Found = dict[int, dict[str, Any]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Every case of global_batch_group, by world size."""
    folder = tmp_path_factory.mktemp("groups")
    done = subprocess.run(
        [sys.executable, str(GROUP), str(folder), *map(str, WORLDS)],
        env=os.environ | {"TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {world: torch.load(folder / f"{world}.pt", weights_only=False) for world in WORLDS}


def distances(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, float]:
    """Relative distance of every parameter's gradient, those that are nothing left out."""
    left, right = found["gradients"], expected["gradients"]
    assert left.keys() == right.keys()
    largest = max(float(gradient.norm()) for gradient in right.values())

    def distance(a: Tensor, b: Tensor) -> float:
        # a bias that softmax ignores has only rounding for a gradient: judged against the largest one
        return float((a - b).norm() / max(float(b.norm()), 1e-6 * largest))

    return {name: distance(left[name], gradient) for name, gradient in right.items()}


def assert_same_step(found: dict[str, Any], expected: dict[str, Any]) -> None:
    (reference,) = expected["ranks"]
    losses = [rank["loss"] for rank in found["ranks"]]
    assert sum(losses) / len(losses) == pytest.approx(reference["loss"], rel=TOLERANCE)
    for rank in found["ranks"]:
        assert rank["terms"] == found["ranks"][0]["terms"]  # to the bit: ranks must take the same decisions
        assert rank["left_out"] == reference["left_out"]
        # a term that is nearly 0 has only rounding left
        assert rank["terms"] == pytest.approx(reference["terms"], rel=TOLERANCE, abs=1e-7)
    apart = distances(found, expected)
    assert max(apart.values()) < TOLERANCE, max(apart, key=apart.__getitem__)


@pytest.mark.parametrize(
    ("world_size", "case"),
    [(2, "whole"), (4, "whole"), (2, "padded"), (2, "divided"), (2, "finely divided"), (1, "padded")],
)
def test_groups_take_the_step_of_one_process(found: Found, world_size: int, case: str) -> None:
    assert_same_step(found[world_size][case], found[1]["whole"])


@pytest.mark.parametrize("case", ["divided", "finely divided", "checkpointed", "divided, checkpointed"])
def test_pieces_and_checkpoints_do_not_divide_the_contrast(found: Found, case: str) -> None:
    assert_same_step(found[1][case], found[1]["whole"])


def test_the_contrast_alone_is_the_same_on_four_processes(found: Found) -> None:
    assert_same_step(found[4]["contrast"], found[1]["contrast"])


def test_objects_read_in_the_prompt_are_the_same_on_two_processes(found: Found) -> None:
    assert_same_step(found[2]["in the prompt"], found[1]["in the prompt"])
    assert_same_step(found[1]["in the prompt, divided"], found[1]["in the prompt"])


def test_copies_of_a_text_are_found_across_ranks(found: Found) -> None:
    """Texts repeat here within ranks and between them: counting every copy gives other terms, everywhere."""
    assert_same_step(found[2]["every copy"], found[1]["every copy"])
    copies, unique = (found[1][case]["ranks"][0]["terms"] for case in ("every copy", "whole"))
    for name in ("object_attribute", "attribute_category", "category_category", "object_category"):
        assert copies[name] > 1.1 * unique[name], name


@pytest.mark.parametrize("world_size", [2, 4])
def test_adapters_get_the_gradients_of_one_process(found: Found, world_size: int) -> None:
    assert_same_step(found[world_size]["adapters"], found[1]["adapters"])
    assert_same_step(found[1]["adapters, divided"], found[1]["adapters"])
    names = found[1]["adapters"]["gradients"].keys() - {"log_temperatures"}
    assert names
    assert all("lora_" in name for name in names)


def test_every_part_of_the_model_is_reached(found: Found) -> None:
    gradients = found[1]["whole"]["gradients"]
    for part in ("vision_model", "connector", "text_model", "lm_head", "log_temperatures"):
        assert any(part in name and float(g.norm()) > 0 for name, g in gradients.items()), part


def test_a_gather_that_drops_other_ranks_gradients_would_be_found(found: Found) -> None:
    """The loss hides this fault: it is the same to the last digit, only the gradients are wrong."""
    broken = found[2]["faulty"]
    assert broken["ranks"][0]["terms"] == found[2]["whole"]["ranks"][0]["terms"]
    assert max(distances(broken, found[1]["whole"]).values()) > 0.1
    with pytest.raises(AssertionError):
        assert_same_step(broken, found[1]["whole"])


def test_a_batch_with_nothing_to_contrast_stops_every_rank_alike(found: Found) -> None:
    errors = {rank["error"] for rank in found[2]["one category"]["ranks"]}
    assert len(errors) == 1
    assert errors.pop().startswith("term object_attribute, step 1: no row of the feeds captioned, labelled")


def test_an_embedding_that_diverged_on_one_rank_stops_every_rank(found: Found) -> None:
    errors = {rank["error"] for rank in found[2]["diverged"]["ranks"]}
    assert len(errors) == 1
    # rank 1 of 2 holds the second half of every feed's rows
    assert errors.pop().startswith("step 1: the object embedding of row 16 of the global batch is not finite")
