"""The benchmark of false conflicts: what counts as one, how wordings are made, what the vocabulary leaves."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import false_conflicts
from benchmarks.false_conflicts import ARMS, Plan, closed, conflicts, said_of, seen_in
from finedefics.base_model import BaseRecipe
from finedefics.data.birds import ATTRIBUTE_VALUES
from finedefics.data.generated import make_world
from finedefics.data.paraphrases import WAYS, paraphrased


def test_pairs_are_counted_by_what_both_show() -> None:
    truth = [{"crown": "red", "wing": "blue"}, {"crown": "red"}, {"crown": "green"}, {"wing": "blue"}]
    same = conflicts(truth, truth)
    assert (same.false, same.missed, same.kept) == (0, 0, 100)
    worded = [{"crown": "red", "wing": "blue"}, {"crown": "reddish"}, {}, {"wing": "azure"}]
    found = conflicts(truth, worded)
    # nothing differs in 4 of 6 pairs, two of which conflict as worded; both true conflicts are lost
    assert (found.false, found.missed, found.kept) == (50, 100, 80)


def test_wordings_follow_from_the_seed_and_the_vocabulary_undoes_most() -> None:
    truth = seen_in(make_world(3), 6)
    worded = said_of(truth, 3)
    assert worded == said_of(truth, 3) != said_of(truth, 4)
    assert [set(row) for row in worded] == [set(row) for row in truth]
    before, after = conflicts(truth, worded), conflicts(truth, closed(worded))
    assert after.false < before.false / 2
    assert after.missed < 1
    assert after.kept > 98


def test_a_value_is_worded_in_every_way() -> None:
    rng = np.random.default_rng(0)
    seen = {name: values[-1] for name, values in ATTRIBUTE_VALUES.items()}
    said = {name: {paraphrased(seen, rng)[name] for _ in range(400)} for name in seen}
    assert {"striped", "STRIPED", "a striped breast", "mostly striped", "stripes"} <= said["breast"]
    assert {"blackish", "bright black", "jet"} <= said["crown"]
    assert sum(WAYS.values()) < 1


TINY = Plan(
    BaseRecipe(birds=16, vision_steps=1, language_steps=1),
    batch=4,
    steps=1,
    labelled=1,
    captioned=2,
    test=1,
)


def test_the_command_trains_on_every_arm(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(false_conflicts, "RESULTS", tmp_path / "found.json")
    assert false_conflicts.main(["--worlds", "1", "--processes", "1"], TINY) == 0
    stored = json.loads((tmp_path / "found.json").read_text())
    assert list(stored["worlds"][0]) == list(stored["arms"]) == list(ARMS)
    assert stored["arms"][ARMS[0]]["false conflicts"]["mean"] == 0
    assert stored["arms"][ARMS[1]]["false conflicts"]["mean"] > 90
    assert "in the vocabulary" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        false_conflicts.main(["--worlds", "0"])
