"""Things made ahead come in their order, and an error in its turn."""

import threading
import time
from collections.abc import Iterator

import pytest

from finedefics_platform.training.stream import ahead, in_parallel


def test_results_keep_the_order_of_the_items_however_long_each_takes() -> None:
    def slow_if_even(number: int) -> int:
        time.sleep(0.02 if number % 2 == 0 else 0)
        return number

    assert list(ahead(in_parallel(slow_if_even, range(12), 3), 2)) == list(range(12))


def test_as_many_are_made_at_once_as_asked() -> None:
    together = threading.Barrier(2, timeout=60)  # breaks where one waits alone
    assert list(in_parallel(lambda _: together.wait() >= 0, range(6), 2)) == [True] * 6


def test_an_error_is_raised_where_its_item_is_due() -> None:
    def fails_at_three(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    seen: list[int] = []
    with pytest.raises(ValueError, match="three"):
        seen.extend(ahead(in_parallel(fails_at_three, range(9), 2), 1))
    assert seen == [0, 1, 2]


def test_no_more_is_taken_than_fits() -> None:
    taken: list[int] = []

    def source() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    made = ahead(source(), 3)
    assert next(made) == 0
    time.sleep(0.2)
    assert len(taken) <= 1 + 3 + 1
