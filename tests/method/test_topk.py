"""Blocked top-k against a sort of everything, and what may be a candidate."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import finedefics.mining.topk as topk
from finedefics.errors import FinedeficsError
from finedefics.mining import MINERS, Confusable, EmbeddingMiner, nearest
from finedefics.records import Category


def directions(count: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(("pairs", "targets_at_once"), [(1, 3), (40, 7), (10**6, 10**6)])
def test_top_k_equals_a_sort_of_everything_however_it_is_cut(
    pairs: int, targets_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topk, "_PAIRS_AT_ONCE", pairs)
    monkeypatch.setattr(topk, "_TARGETS_AT_ONCE", targets_at_once)
    queries, targets = directions(17, seed=1), directions(31, seed=2)
    own = np.arange(17) % 5 - 1
    similarity = np.float64(queries) @ np.float64(targets).T
    similarity[np.arange(17)[own >= 0], own[own >= 0]] = -math.inf
    expected = np.argsort(-similarity, axis=1, kind="stable")[:, :6]
    found = nearest(torch.from_numpy(queries), torch.from_numpy(targets), 6, own=torch.from_numpy(own))
    assert np.array_equal(found.positions, expected)
    assert np.allclose(found.similarity, np.take_along_axis(similarity, expected, 1), atol=1e-5)


@pytest.mark.parametrize("targets_at_once", [4, 10**6])
def test_equal_ones_stand_in_order_beyond_the_spare_too(
    targets_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topk, "_TARGETS_AT_ONCE", targets_at_once)
    targets = np.repeat(directions(1), 60, axis=0)
    targets[40] = -targets[40]
    queries = torch.from_numpy(np.repeat(targets[:1], 3, axis=0))
    found = nearest(queries, torch.from_numpy(targets), 5, own=torch.tensor([0, 2, -1]))
    assert found.positions.tolist() == [[1, 2, 3, 4, 5], [0, 1, 3, 4, 5], [0, 1, 2, 3, 4]]


def test_fewer_targets_than_asked_for() -> None:
    rows = torch.from_numpy(directions(3))
    found = nearest(rows, rows, 5, own=torch.arange(3))
    assert (found.positions >= 0).sum(1).tolist() == [2, 2, 2]
    assert np.isnan(found.similarity[:, 2:]).all()
    assert nearest(rows, rows[:0], 2).positions.tolist() == [[-1, -1]] * 3


CATEGORIES = [
    Category("a", "a", attributes={"crown": "red", "wing": "long"}),
    Category("b", "b", attributes={"crown": "red", "wing": "short"}),
    Category("c", "c", attributes={"crown": "blue"}),
    Category("d", "d"),
]
TARGETS = np.array([[1, 0, 0], [0.9, 0.1, 0], [0.5, 0.5, 0], [0, 0, 0]], np.float32)


def ranked(category: str | None, attributes: dict[str, str], row: list[float]) -> list[str]:
    miner = EmbeddingMiner(CATEGORIES, TARGETS)
    found = miner.rank(np.array([row], np.float32), [category], [attributes], keep=4)
    return ["abcd"[i] for i in found.positions[0] if i >= 0]


def test_a_label_is_no_candidate_nor_is_what_has_no_embedding() -> None:
    assert ranked("a", {}, [1, 0, 0]) == ["b", "c"]
    assert ranked("d", {}, [1, 0, 0]) == ["a", "b", "c"]
    assert ranked("not in the table", {}, [0, 1, 0]) == ["c", "b", "a"]


def test_without_a_label_only_what_conflicts_is_a_candidate() -> None:
    assert ranked(None, {"crown": "red", "wing": "short"}, [1, 0, 0]) == ["a", "c"]
    assert ranked(None, {"tail": "long"}, [1, 0, 0]) == []
    assert ranked(None, {}, [1, 0, 0]) == []


def test_without_attributes_a_picture_without_a_label_has_none() -> None:
    plain = [Category(name, name) for name in "abcd"]
    found = EmbeddingMiner(plain, TARGETS).rank(TARGETS[:2], ["a", None], keep=2)
    assert found.positions.tolist() == [[1, 2], [-1, -1]]


def test_a_picture_without_an_embedding_has_none() -> None:
    assert ranked("a", {}, [0, 0, 0]) == []


def test_what_is_no_direction_is_refused_by_name() -> None:
    targets = TARGETS.copy()
    targets[1, 2] = np.nan
    with pytest.raises(FinedeficsError, match="category b: its embedding holds NaN"):
        EmbeddingMiner(CATEGORIES, targets)
    with pytest.raises(FinedeficsError, match="sample two: its embedding is zero"):
        topk.check_finite(np.eye(2, 3, k=0)[[0, 1]] * [[1], [0]], ["one", "two"], "sample")


def evaluation(folder: Path, split: str, answers: list[tuple[str, str | None]]) -> str:
    folder.mkdir()
    (folder / "summary.json").write_text(f'{{"split": "{split}"}}')
    columns = {
        "category_id": [true for true, _ in answers],
        "predicted": [said for _, said in answers],
        "scope": ["all"] * len(answers),
    }
    pq.write_table(pa.table(columns), folder / "items.parquet")
    return str(folder)


def test_confusions_rank_both_ways(tmp_path: Path) -> None:
    answers = [("a", "b"), ("a", "b"), ("a", "a"), ("a", "c"), ("d", "a"), ("b", None), ("c", "gone")]
    miner = MINERS["confusions"](CATEGORIES, evaluation(tmp_path / "e", "val", answers))
    found = miner([Confusable("1", "a"), Confusable("2", "b"), Confusable("3", None)])
    assert found == [[("b", 0.5), ("c", 0.25), ("d", 0.25)], [("a", 2.0)], []]


def test_answers_on_the_test_split_decide_nothing(tmp_path: Path) -> None:
    with pytest.raises(FinedeficsError, match="answers on the split test") as caught:
        MINERS["confusions"](CATEGORIES, evaluation(tmp_path / "e", "test", [("a", "b")]))
    assert caught.value.exit_code == 2
    with pytest.raises(FinedeficsError, match="confuse no two categories"):
        MINERS["confusions"](CATEGORIES, evaluation(tmp_path / "f", "val", [("a", "a")]))


def test_a_miner_uses_a_gpu_only_where_one_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that asked for no GPU may see them all; here one is seen and cannot be used."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    miner = EmbeddingMiner([Category("a", "a"), Category("b", "b")], np.eye(2, dtype=np.float32))
    assert miner.rank(np.eye(2, dtype=np.float32), ["a", "b"], keep=1).positions.tolist() == [[1], [0]]
