"""What the contrastive terms refuse, and that the message names input and row: never a silent zero."""

from typing import Any

import pytest
import torch

from finedefics.errors import FinedeficsError
from finedefics.losses import AlignmentLosses, alignment_losses

Case = dict[str, Any]


def case_of(batch: int = 5, k: int = 2, dim: int = 6) -> Case:
    generator = torch.Generator().manual_seed(0)
    rows = dict.fromkeys(("objects", "attributes", "categories"), batch)
    rows |= dict.fromkeys(("negative_attributes", "negative_categories"), batch * k) if k else {}
    return {name: torch.randn(count, dim, generator=generator) for name, count in rows.items()}


def losses_of(case: Case) -> AlignmentLosses:
    temperatures = {"object_attribute_temperature": 0.07, "attribute_category_temperature": 0.2}
    return alignment_losses(**temperatures | case)


@pytest.mark.parametrize("name", ["objects", "attributes", "categories", "negative_attributes"])
@pytest.mark.parametrize(
    ("value", "said"),
    [(float("nan"), "NaN or infinity"), (float("inf"), "NaN or infinity"), (0.0, "is zero")],
)
def test_an_embedding_without_direction_is_named(name: str, value: float, said: str) -> None:
    case = case_of()
    case[name][3, 1 if value else slice(None)] = value
    with pytest.raises(FinedeficsError, match=rf"^{name}, row 3: .*{said}"):
        losses_of(case)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"attributes": torch.ones(4, 6)}, r"one shape: objects \[5, 6\], attributes \[4, 6\]"),
        ({"categories": torch.ones(5)}, r"categories must be a tensor \[batch, dim\], not \[5\]"),
        ({"categories": None}, r"categories must be a tensor \[batch, dim\], not NoneType"),
        ({"negative_attributes": torch.ones(7, 6)}, r"\[batch \* k, dim\] with batch 5 .* not \[7, 6\]"),
        ({"negative_categories": torch.ones(10, 5)}, r"dim 6, not \[10, 5\]"),
        ({"negative_categories": torch.ones(5, 6)}, r"as many attributes as categories"),
        ({"category_ids": [1, 2, 3, 4, 5]}, "negative_category_ids are missing"),
        ({"negative_category_ids": [1] * 10}, "without category_ids"),
        ({"category_ids": [1, 2], "negative_category_ids": [3] * 10}, "category_ids: 2 ids for 5 rows"),
        ({"category_ids": list("abcde"), "negative_category_ids": ["f"]}, "1 ids for 10 rows"),
        (
            {"category_ids": ["a", "b", None, "d", "e"], "negative_category_ids": ["f"] * 10},
            "^category_ids, row 2: the row has no category",
        ),
        (
            {"category_ids": torch.tensor([0, -1, 2, 3, 4]), "negative_category_ids": torch.arange(10) + 5},
            "^category_ids, row 1: the row has no category",
        ),
        (
            {"category_ids": list("abcde"), "negative_category_ids": ["f"] * 10, "released_variant": True},
            "leave category_ids out",
        ),
        ({"object_attribute_temperature": float("nan")}, "temperatures must be finite"),
    ],
)
def test_what_does_not_fit_is_refused(change: Case, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        losses_of(case_of() | change)


def test_a_batch_without_rows_is_refused() -> None:
    with pytest.raises(ValueError, match=r"objects are \[0, 6\]: a batch of fewer than two rows"):
        losses_of(case_of(0, 0))


@pytest.mark.parametrize("negatives", [0, 2])
def test_one_row_is_refused(negatives: int) -> None:
    with pytest.raises(ValueError, match=r"objects are \[1, \d+\]: a batch of fewer than two rows"):
        losses_of(case_of(1, negatives))


def test_a_row_whose_negatives_are_all_masked_is_named() -> None:
    case = case_of(3, 0) | {"category_ids": ["wren", "wren", "wren"]}
    with pytest.raises(FinedeficsError, match=r"^object_attribute, row 0: .*no negative left"):
        losses_of(case)


def test_a_hard_negative_does_not_repel_rows_of_its_category() -> None:
    case = case_of(2, 1) | {"category_ids": ["wren", "tern"]}
    plain = losses_of(case | {"negative_category_ids": ["gull", "auk"]})
    for order in (["tern", "wren"], ["wren", "tern"]):
        found = losses_of(case | {"negative_category_ids": order})
        # each object meets one hard negative and the other row, not the hard negative of its own category
        assert float(found.halves["object to attribute"]) < float(plain.halves["object to attribute"])


def test_embeddings_without_width_and_lists_are_refused() -> None:
    with pytest.raises(ValueError, match=r"objects are \[5, 0\]"):
        losses_of(case_of() | {n: torch.zeros(5, 0) for n in ("objects", "attributes", "categories")})
    with pytest.raises(ValueError, match=r"negative_attributes must be .*, not list"):
        losses_of(case_of() | {"negative_attributes": [[1.0]]})
