"""The alarms of every evaluation: what guessing reaches, and pictures that were trained on."""

import pandas as pd
import pyarrow as pa

from finedefics.evaluation.chance import guesses, guesses_in, near_chance, warning
from finedefics.evaluation.leaks import leaks
from finedefics.evaluation.leaks import warning as leak_warning
from finedefics.evaluation.tables import accuracy_table

CHANCE = {"all": 0.1, "options": 0.25}


def items(**right: tuple[int, int]) -> pd.DataFrame:
    """Items by ``answer_scope``: so many right of so many."""
    rows = []
    for name, (hits, n) in right.items():
        answer, scope = name.split("_")
        rows += [
            {"sample_id": f"p{i}", "group": "new", "answer": answer, "scope": scope, "correct": i < hits}
            for i in range(n)
        ]
    return pd.DataFrame(rows)


def test_what_guessing_reaches_is_named_with_its_numbers() -> None:
    """30 of 100 begins at 21.9 %, 40 of 100 at 30.9 %; 12 of 100 lies below chance altogether."""
    found = items(
        names_options=(30, 100), sure_options=(40, 100), below_options=(12, 100), names_all=(90, 100)
    )
    assert near_chance(found, CHANCE) == ["below", "names"]
    said = warning(guesses(found, CHANCE))
    assert said is not None
    assert "guessing among options (25.0 %)" in said
    assert "names 30.0 % [21.9, 39.6] of 100" in said
    assert "below 12.0 % [7.0, 19.8] of 100, below chance" in said
    assert near_chance(pa.Table.from_pandas(found), CHANCE) == ["below", "names"]


def test_cells_of_a_table_are_judged_by_group() -> None:
    found = items(names_options=(30, 100), sure_options=(40, 100))
    table = accuracy_table({"arm": found}, {}, "options")["arm"]
    (guess,) = guesses_in(table, "options", 0.25)
    assert (guess.answer, guess.group, guess.n) == ("names", "new", 100)
    assert str(guess) == "names (new) 30.0 % [21.9, 39.6] of 100"
    assert guesses_in(table, "options", 0.2) == []


def test_nothing_to_warn_of_says_nothing() -> None:
    assert warning([]) is None
    assert near_chance(items(names_options=(90, 100)), CHANCE) == []
    assert near_chance(items(names_options=(0, 5)), {}) == [], "a scope without chance is not judged"
    assert leak_warning({"pictures": 0, "of": 9, "against": ["birds@d1"]}) is None
    assert leak_warning({}) is None


def test_pictures_that_were_trained_on_are_counted_once() -> None:
    tested = pa.chunked_array([["a", "b"], ["c", "d"]])
    parts = [pa.array(["x", "b"]), pa.chunked_array([["b"], ["d"]]), pa.array([], pa.string())]
    assert leaks(tested, parts) == {"pictures": 2, "of": 4}
    assert leaks(tested, []) == {"pictures": 0, "of": 4}
    assert leaks(pa.array([], pa.string()), parts) == {"pictures": 0, "of": 0}


def test_a_leak_is_said_with_its_numbers_and_where() -> None:
    said = leak_warning({"pictures": 2, "of": 8, "against": ["birds@d1", "birds@d2"]})
    assert said is not None
    assert said.startswith("2 of 8 evaluated pictures (25.0 %) are training pictures too")
    assert "birds@d1 and birds@d2" in said
    unknown = leak_warning({"pictures": 0, "of": 8, "unchecked": ["birds@d9"]})
    assert unknown == "not compared with the training pictures of birds@d9, which are not to be had here"
