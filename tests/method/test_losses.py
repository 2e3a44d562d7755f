"""The contrastive terms: the released numbers, the masks and the gradients."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from finedefics.losses import (
    AlignmentLosses,
    alignment_losses,
    category_category,
    clamp_temperature,
    info_nce,
)

REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "losses.json"
TERMS = ("object_attribute", "attribute_category", "category_category")
TEMPERATURES = {"object_attribute_temperature": 0.07, "attribute_category_temperature": 0.2}
Case = dict[str, Any]


def case_of(seed: int, batch: int = 5, k: int = 2, dim: int = 6, categories: int | None = None) -> Case:
    """Random input of `alignment_losses`; with ``categories`` also ids out of as many."""
    generator = torch.Generator().manual_seed(seed)

    def normal(rows: int) -> Tensor:
        return torch.randn(rows, dim, generator=generator, dtype=torch.float64)

    case: Case = {name: normal(batch) for name in ("objects", "attributes", "categories")}
    if k:
        case |= {name: normal(batch * k) for name in ("negative_attributes", "negative_categories")}
    if categories is not None:
        case["category_ids"] = torch.randint(categories, (batch,), generator=generator)
        case["category_ids"][:2] = torch.tensor([0, 1])  # two differ, so every query has a negative
        if k:
            case["negative_category_ids"] = torch.randint(categories, (batch * k,), generator=generator)
    return case | TEMPERATURES


def losses_of(case: Case, **changes: Any) -> AlignmentLosses:
    return alignment_losses(**case | changes)


def values_of(found: AlignmentLosses) -> list[float]:
    return [float(getattr(found, term)) for term in TERMS]


# ---------------------------------------------------------------- the released numbers


def reference_cases() -> list[Case]:
    return json.loads(REFERENCE.read_text()) if REFERENCE.is_file() else []


@pytest.mark.skipif(
    not REFERENCE.is_file(), reason="the released code's numbers are not beside this checkout"
)
@pytest.mark.parametrize("number", range(5))
def test_the_released_numbers_are_reproduced(number: int) -> None:
    case = reference_cases()[number]
    names = ("object", "attribute", "category", "negative_attribute", "negative_category")
    tensors = {n: None if case[n] is None else torch.tensor(case[n], dtype=torch.float64) for n in names}

    def found(released_variant: bool) -> AlignmentLosses:
        return alignment_losses(
            tensors["object"],
            tensors["attribute"],
            tensors["category"],
            negative_attributes=tensors["negative_attribute"],
            negative_categories=tensors["negative_category"],
            object_attribute_temperature=case["object_attribute_temperature"],
            attribute_category_temperature=case["attribute_category_temperature"],
            released_variant=released_variant,
        )

    released, ours, expected = found(True), found(False), case["expected"]
    for losses in (released, ours):
        assert float(losses.halves["object to attribute"]) == pytest.approx(expected["loss_i2t"], abs=1e-9)
        assert float(losses.halves["attribute to object"]) == pytest.approx(expected["loss_t2i"], abs=1e-9)
        assert float(losses.object_attribute) == pytest.approx(expected["loss_ia"], abs=1e-9)
        assert float(losses.halves["attribute to category"]) == pytest.approx(expected["loss_a2c"], abs=1e-9)
        assert float(losses.halves["category to attribute"]) == pytest.approx(expected["loss_c2a"], abs=1e-9)
        assert float(losses.attribute_category) == pytest.approx(expected["loss_ac"], abs=1e-9)
    assert float(released.category_category) == pytest.approx(expected["loss_ccc"], abs=1e-9)
    assert float(ours.category_category) == pytest.approx(expected["loss_ccc_diagonal"], abs=1e-9)
    total = case["generation_loss"] + float(released.total())
    assert total == pytest.approx(expected["loss"], abs=1e-9)


# ---------------------------------------------------------------- against plain sums in NumPy


def plain_terms(case: Case) -> list[Any]:
    """The terms as sums over explicit lists of keys; analytic, so that it takes complex input."""
    unit = {n: v / np.sqrt((v * v).sum(1, keepdims=True)) for n, v in case.items() if np.ndim(v) == 2}
    o, a, c = (unit[name] for name in ("objects", "attributes", "categories"))
    batch = len(o)
    ids = case.get("category_ids", np.arange(batch))
    extra_ids = case.get("negative_category_ids", np.arange(batch, batch + len(case["negative_attributes"])))

    def mean(queries: Any, keys: Any, key_ids: Any, temperature: float) -> Any:
        losses = []
        for i in range(batch):
            chosen = [j for j in range(len(keys)) if j == i or key_ids[j] != ids[i]]
            similarity = keys[chosen] @ queries[i] / temperature
            shift = similarity.real.max()
            losses.append(np.log(np.exp(similarity - shift).sum()) + shift - similarity[chosen.index(i)])
        return sum(losses) / batch

    all_ids = np.concatenate([ids, extra_ids])
    texts = np.concatenate([a, unit["negative_attributes"]])
    names = np.concatenate([c, unit["negative_categories"]])
    oa, ac = case["object_attribute_temperature"], case["attribute_category_temperature"]
    return [
        (mean(o, texts, all_ids, oa) + mean(a, o, ids, oa)) / 2,
        (mean(a, names, all_ids, ac) + mean(c, texts, all_ids, ac)) / 2,
        mean(c, names, all_ids, oa),
    ]


def as_arrays(case: Case) -> Case:
    return {name: v.numpy() if isinstance(v, Tensor) else v for name, v in case.items()}


@given(seed=st.integers(0, 10**6), batch=st.integers(2, 6), k=st.integers(1, 3), categories=st.integers(3, 9))
@settings(max_examples=40, deadline=None)
def test_terms_equal_plain_sums(seed: int, batch: int, k: int, categories: int) -> None:
    case = case_of(seed, batch, k, categories=categories)
    assert values_of(losses_of(case)) == pytest.approx(plain_terms(as_arrays(case)), rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_equal_complex_step_derivatives(masked: bool) -> None:
    case = case_of(3, 4, 2, dim=3, categories=4 if masked else None)
    embedded = [name for name, value in case.items() if isinstance(value, Tensor) and value.dim() == 2]
    leaves = {name: case[name].clone().requires_grad_() for name in embedded}
    found = losses_of(case, **leaves)
    arrays, step = as_arrays(case), 1e-30
    for number, term in enumerate(TERMS):
        gradients = torch.autograd.grad(
            getattr(found, term), list(leaves.values()), retain_graph=True, allow_unused=True
        )
        for name, gradient in zip(embedded, gradients, strict=True):
            expected = np.zeros(arrays[name].shape)
            for place in np.ndindex(expected.shape):
                moved = arrays[name].astype(complex)
                moved[place] += 1j * step
                expected[place] = np.imag(plain_terms(arrays | {name: moved})[number]) / step
            actual = np.zeros_like(expected) if gradient is None else gradient.numpy()
            np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-11, err_msg=f"{term}, {name}")


@pytest.mark.parametrize("released_variant", [False, True])
def test_gradcheck(released_variant: bool) -> None:
    case = case_of(5, 3, 1, dim=3)
    names = [name for name, value in case.items() if isinstance(value, Tensor)]
    temperatures = [torch.tensor(value, dtype=torch.float64) for value in (0.2, 0.3)]
    leaves = [value.requires_grad_() for value in (*(case[name] for name in names), *temperatures)]

    def function(*values: Tensor) -> tuple[Tensor, ...]:
        chosen = dict(zip((*names, *TEMPERATURES), values, strict=True))
        found = losses_of(case | chosen, released_variant=released_variant)
        return found.object_attribute, found.attribute_category, found.category_category, found.total()

    assert torch.autograd.gradcheck(function, leaves)


# ---------------------------------------------------------------- invariances


@given(seed=st.integers(0, 10**6), masked=st.booleans())
@settings(max_examples=30, deadline=None)
def test_the_order_of_rows_does_not_matter(seed: int, masked: bool) -> None:
    batch, k = 5, 2
    case = case_of(seed, batch, k, categories=4 if masked else None)
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(seed))
    hard = torch.randperm(batch * k, generator=torch.Generator().manual_seed(seed + 1))
    by_row = ("objects", "attributes", "categories", "category_ids")
    moved = {
        name: value[order if name in by_row else hard] if isinstance(value, Tensor) else value
        for name, value in case.items()
    }
    assert values_of(losses_of(moved)) == pytest.approx(values_of(losses_of(case)), rel=1e-12, abs=1e-12)


@given(seed=st.integers(0, 10**6), exponent=st.integers(-150, 150))
@settings(max_examples=30, deadline=None)
def test_the_scale_of_an_embedding_does_not_matter(seed: int, exponent: int) -> None:
    case = case_of(seed)
    scaled = {n: v * 10.0**exponent if isinstance(v, Tensor) else v for n, v in case.items()}
    assert values_of(losses_of(scaled)) == pytest.approx(values_of(losses_of(case)), rel=1e-9, abs=1e-9)


def test_half_precision_is_computed_in_single() -> None:
    case = {n: v.to(torch.bfloat16) if isinstance(v, Tensor) else v for n, v in case_of(1).items()}
    found = losses_of(case)
    assert found.total().dtype == torch.float32
    wide = {n: v.double() if isinstance(v, Tensor) else v for n, v in case.items()}
    assert values_of(found) == pytest.approx(values_of(losses_of(wide)), rel=1e-5)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_a_masked_key_never_changes_the_loss(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(4, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    keys = torch.randn(9, 6, generator=generator, dtype=torch.float64)
    allowed = torch.rand(4, 9, generator=generator) < 0.5
    hidden = int(torch.randint(4, 9, (1,), generator=generator))
    allowed[:, hidden] = False
    positives = torch.arange(4)
    before = info_nce(queries, keys, positives, allowed, 0.07).loss
    moved = keys.clone()
    moved[hidden] *= 1e6
    moved.requires_grad_()
    after = info_nce(queries, moved, positives, allowed, 0.07).loss
    assert float(after.detach()) == float(before.detach())
    without = [key for key in range(9) if key != hidden]
    fewer = info_nce(queries, keys[without], positives, allowed[:, without], 0.07).loss
    assert float(fewer.detach()) == pytest.approx(float(before.detach()), rel=1e-12, abs=1e-12)
    assert (torch.autograd.grad(after, moved)[0][hidden] == 0).all()


@given(seed=st.integers(0, 10**6), row=st.integers(2, 4))
@settings(max_examples=30, deadline=None)
def test_equal_categories_never_repel(seed: int, row: int) -> None:
    """Rows 0 and ``row`` and hard negative 7 are of one category: neither pushes row 0 anywhere.

    (In CCC both push third rows, so their pull on row 0 is not apart there: the plain sums judge it.)
    """
    case = case_of(seed, 5, 2)
    ids, extra = torch.arange(5), torch.arange(10, 20)
    ids[row] = extra[7] = ids[0]
    case |= {"category_ids": ids, "negative_category_ids": extra}

    def push(term: str, on: str, moved: dict[str, int]) -> Tensor:
        changed = {name: case[name].clone() for name in {on, *moved}}
        for name, place in moved.items():
            changed[name][place] = torch.arange(6)
        found = losses_of(case, **changed | {on: changed[on].requires_grad_()})
        return torch.autograd.grad(getattr(found, term), changed[on])[0][0]

    for term, on, others in (
        ("object_attribute", "objects", {"attributes": row, "negative_attributes": 7}),
        ("attribute_category", "attributes", {"categories": row, "negative_categories": 7}),
        ("attribute_category", "categories", {"attributes": row, "negative_attributes": 7}),
    ):
        torch.testing.assert_close(push(term, on, others), push(term, on, {}), rtol=1e-9, atol=1e-12)
    assert values_of(losses_of(case)) == pytest.approx(plain_terms(as_arrays(case)), rel=1e-11, abs=1e-11)


def test_ids_may_be_names() -> None:
    case = case_of(8, 4, 1, categories=5)
    named = {
        name: [f"species {number}" for number in case[name].tolist()]
        for name in ("category_ids", "negative_category_ids")
    }
    assert values_of(losses_of(case | named)) == values_of(losses_of(case))


def test_distinct_ids_change_nothing() -> None:
    case = case_of(9, 4, 2)
    ids = {"category_ids": torch.arange(4), "negative_category_ids": torch.arange(4, 12).reshape(4, 2)}
    assert values_of(losses_of(case | ids)) == values_of(losses_of(case))


@pytest.mark.parametrize(("outside", "limit"), [(1e-9, 0.001), (0.9, 0.5), (-1.0, 0.001)])
def test_temperatures_are_clamped(outside: float, limit: float) -> None:
    case = case_of(2)
    given, clamped = dict.fromkeys(TEMPERATURES, outside), dict.fromkeys(TEMPERATURES, limit)
    assert values_of(losses_of(case | given)) == values_of(losses_of(case | clamped))
    assert clamp_temperature(outside) == limit
    assert float(clamp_temperature(torch.tensor(outside))) == pytest.approx(limit)


def test_a_learned_temperature_gets_a_gradient() -> None:
    temperature = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    losses_of(case_of(2) | {"object_attribute_temperature": temperature}).total().backward()
    assert temperature.grad is not None
    assert temperature.grad != 0


def test_the_total_weighs_the_terms() -> None:
    found = losses_of(case_of(4))
    weights = {"object_attribute": 1.0, "category_category": 0.25}
    expected = found.object_attribute + 0.25 * found.category_category
    assert float(found.total(weights)) == pytest.approx(float(expected))
    assert float(found.total()) == pytest.approx(sum(values_of(found)) / 2)
    for wrong in ({}, {"object_atribute": 1.0}):
        with pytest.raises(ValueError, match="object_attribute, attribute_category, category_category"):
            found.total(wrong)


# ---------------------------------------------------------------- what has nothing to contrast


def test_a_query_without_negatives_is_left_out_of_the_mean_and_counted() -> None:
    generator = torch.Generator().manual_seed(0)
    categories = torch.nn.functional.normalize(torch.randn(3, 4, generator=generator), dim=1)
    allowed = torch.tensor([[False, True, False], [True, False, True], [False, False, True]])
    found = category_category(categories, categories[:0], allowed=allowed, temperature=0.1)
    two = info_nce(categories[:2], categories, torch.arange(2), allowed[:2], 0.1)
    assert float(found.loss) == pytest.approx(float(two.loss))  # row 2 may only meet itself, its positive
    assert (int(found.left_out), int(found.contrasted)) == (1, 2)
