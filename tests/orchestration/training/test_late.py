"""A step's figures are told a step late, in order, and before anything that rests on them."""

import math

import pytest
import torch

from finedefics.errors import FinedeficsError
from finedefics_platform.training.late import LateFigures, Sent

Told = list[tuple[int, dict[str, float]]]


def late() -> tuple[LateFigures, Told]:
    told: Told = []
    return LateFigures("name", lambda done, metrics: told.append((done, metrics))), told


def test_each_step_is_told_when_the_next_is_under_way_and_all_when_settled() -> None:
    figures, told = late()
    loss = torch.tensor(3.0)
    figures.add(1, {"answer": loss}, {"loss": loss, "rate": 0.5})
    loss.fill_(-1)  # what a step computed may be overwritten by the next
    assert told == []
    figures.add(2, {"answer": torch.tensor(2.0)}, None)  # a step that is not recorded
    assert told == [(1, {"loss": 3.0, "rate": 0.5})]
    figures.add(3, {"answer": torch.tensor(1.0)}, {"loss": torch.tensor(1, dtype=torch.bfloat16)})
    assert len(told) == 1
    figures.settle()
    figures.settle()
    assert told[1:] == [(3, {"loss": 1.0})]


def test_a_share_of_nothing_is_not_told() -> None:
    figures, told = late()
    shares = {"coverage_a": torch.tensor(math.nan), "coverage_b": torch.tensor(0.5)}
    figures.add(1, {}, shares)
    figures.settle()
    assert told == [(1, {"coverage_b": 0.5})]


@pytest.mark.parametrize("recorded", [True, False])
def test_a_loss_that_is_not_finite_names_its_own_step(recorded: bool) -> None:
    figures, told = late()
    figures.add(4, {"answer": torch.tensor(math.inf)}, {"loss": 1.0} if recorded else None)
    with pytest.raises(FinedeficsError, match=r"stage name: term answer is inf at step 4; lower"):
        figures.add(5, {"answer": torch.tensor(1.0)}, {"loss": 1.0})
    assert told == []


def test_the_cause_is_raised_and_not_what_came_of_it() -> None:
    figures, _ = late()
    figures.add(4, {"answer": torch.tensor(math.nan)}, None)
    later = FinedeficsError("an embedding is not finite", place="step 5", cure="lower")
    with pytest.raises(FinedeficsError, match="term answer is nan at step 4"), figures.earlier_first():
        raise later
    figures.add(5, {"answer": torch.tensor(1.0)}, None)
    with pytest.raises(FinedeficsError, match="step 5: an embedding"), figures.earlier_first():
        raise later


@pytest.mark.gpu
def test_figures_leave_a_card_without_being_waited_for() -> None:
    torch.cuda.set_sync_debug_mode("error")
    try:
        sent = Sent({"loss": torch.full((), 2.0, device="cuda"), "rate": 0.5})
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert sent.read() == {"loss": 2.0, "rate": 0.5}
