"""The gate as a file: which keys and rules it may have, and rules of a user's own."""

from pathlib import Path
from typing import Any

import pytest

from finedefics.errors import FinedeficsError
from finedefics_platform.models.gate import (
    RULES,
    Case,
    Decision,
    Gate,
    Ground,
    Measured,
    Slice,
    decide,
    load_gate,
    parse_gate,
)


def asked(right: int, wrong: int, gate: Gate) -> Decision:
    """The decision on so many answers, where there is no champion."""
    items = {f"picture-{number}": number < right for number in range(right + wrong)}
    shown = {"alignment/new": Slice(right / len(items), len(items), items)}
    measured = Measured(Ground("birds@d1", "d1", "test", 4, 0), shown)
    return decide(Case([measured], None), gate)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"rules": {"minimun": {}}}, "unknown rule `minimun`; did you mean minimum"),
        ({"rules": {"minimum": {"acuracy": 1}}}, "unknown setting `acuracy`; did you mean accuracy"),
        ({"rules": {"minimum": {"accuracy": 2}}}, "`accuracy` is wrong"),
        ({"rules": {"intervals": {"n": 2}}}, "it has no settings"),
        ({"rules": {}}, "no rule"),
        ({}, "`rules` is missing"),
        ({"rules": {"minimum": {}}, "slice": []}, "unknown key `slice`"),
        ({"rules": {"nowhere.py": {}}}, "cannot be read"),
    ],
)
def test_a_wrong_gate_names_what_is_right(document: dict[str, Any], words: str) -> None:
    with pytest.raises(FinedeficsError) as caught:
        parse_gate(document, name="test", place="gate.yaml")
    text = str(caught.value).replace(" (gate.yaml)", "").replace(" (gate.yaml, rule `minimum`)", "")
    assert [word for word in words.split("; ") if word not in text] == [], str(caught.value)
    assert caught.value.exit_code == 2


OWN = """
from finedefics_platform.models.gate import RULES, verdict

@RULES.register("lucky")
def lucky(case, *, number: int = 7):
    shown = {name: one.n for name, (_, one) in case.judged().items()}
    return verdict([f"{name}: {n} is not a multiple of {number}." for name, n in shown.items() if n % number])
"""


def test_a_rule_of_a_users_own_file(tmp_path: Path) -> None:
    (tmp_path / "lucky.py").write_text(OWN)
    (tmp_path / "own.yaml").write_text("rules:\n  lucky.py: {number: 10}\n")
    gate = load_gate(tmp_path / "own.yaml")
    assert asked(90, 10, gate).allowed
    refused = asked(90, 9, gate)
    assert refused.reasons == ("alignment/new: 99 is not a multiple of 10.",)
    assert "lucky" not in set(RULES), "a file's rule is known by its path alone"
    other = load_gate(tmp_path / "own.yaml", ["rules={lucky.py: {number: 9}}"])
    assert other.digest != gate.digest


@pytest.mark.parametrize(
    ("line", "words"), [("1 / 0", "ZeroDivisionError"), ("return True", "answered with bool")]
)
def test_a_rule_that_fails_lets_nothing_through(tmp_path: Path, line: str, words: str) -> None:
    code = (
        f"from finedefics_platform.models.gate import RULES\n@RULES.register('r')\ndef r(case):\n    {line}\n"
    )
    (tmp_path / "rule.py").write_text(code)
    gate = parse_gate({"rules": {"rule.py": {}}}, name="own", place="own", folder=tmp_path)
    with pytest.raises(FinedeficsError, match=words):
        asked(90, 10, gate)


def test_the_gate_to_copy_is_the_one_that_is_asked() -> None:
    root = Path(__file__).parents[3]
    assert load_gate(root / "jobs/gates/default.yaml").told() == load_gate().told()
    assert set(load_gate().told()["rules"]) == set(RULES), "every rule of ours is in it"
    stricter = load_gate(given=["rules.minimum.accuracy=0.6", "slices=[alignment]"])
    assert (stricter.rules[0].settings["accuracy"], stricter.slices) == (0.6, ("alignment",))
