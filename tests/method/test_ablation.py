"""The ablation of negatives and ways of a step: what its arms differ in, how worlds are put together."""

import io
import json
from contextlib import redirect_stdout
from typing import Any

import pytest

from benchmarks import ablation
from benchmarks.ablation import AGAINST, GRID, MODES, Plan, summary
from benchmarks.coverage import Coverage
from benchmarks.drawn import CAPTIONED, LABELLED, TEXT, category_of, draw_samples, joint
from finedefics.base_model import BaseRecipe, untrained_backbone
from finedefics.batch import Collator
from finedefics.data.generated import make_world

TINY = Plan(BaseRecipe(birds=16, vision_steps=1, language_steps=1), steps=2, captioned=1, val=1, test=1)
FIGURES = {"coverage", "alignment", "names", "ensemble", "tokens a step"}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """What the command wrote and printed of one world."""
    results = tmp_path_factory.mktemp("ablation") / "ablation.json"
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as shown:
        patch.setattr(ablation, "RESULTS", results)
        assert ablation.main(["--worlds", "1", "--processes", "1"], TINY) == 0
    return json.loads(results.read_text()), shown.getvalue()


@pytest.fixture(scope="module")
def world(done: tuple[dict[str, Any], str]) -> dict[str, dict[str, float]]:
    return done[0]["worlds"][0]


def test_a_world_has_figures_of_every_mode_and_the_modes_differ_in_their_work(
    world: dict[str, dict[str, float]],
) -> None:
    assert list(world) == list(MODES)
    assert all(set(figures) == FIGURES for figures in world.values())
    assert all(0 <= value <= 100 for f in world.values() for k, value in f.items() if k != "tokens a step")
    for rows in (8, 16):
        for sampler in ("shuffled", "confusable"):
            without, with_three = (world[f"{rows} rows, {sampler}, {k} negatives"] for k in (0, 3))
            assert without["tokens a step"] < with_three["tokens a step"]
            assert without["coverage"] < with_three["coverage"]
    few, many = (world[f"{rows} rows, shuffled, 0 negatives"]["coverage"] for rows in (8, 16))
    assert few < many
    usual = world[ablation.USUAL]
    assert world["the object is read in the prompt"]["tokens a step"] < usual["tokens a step"]
    assert world["every copy of a text is a key"]["coverage"] == usual["coverage"]


def test_coverage_counts_the_nearest_category_among_the_keys_that_repel() -> None:
    """All four of one family: the nearest of each is there, unless it is the batch that is cut."""
    drawn = make_world(0)
    table = [category_of(species) for species in drawn.species]
    settings = joint(captioned=True, shared=False)
    collate = Collator(untrained_backbone().processor, table, settings, negatives=0)
    pictures = draw_samples(drawn, drawn.species, 1, split=2, labelled=False)
    whole = {LABELLED: [], CAPTIONED: pictures, TEXT: table}
    coverage = Coverage(table, settings)
    coverage(whole, collate(whole, step=0))
    assert coverage.asked == 48
    hidden = sum(len(sample.attributes) < 7 for sample in pictures)  # such a caption may fit its nearest too
    assert 48 - hidden <= coverage.found <= 48
    far = {LABELLED: [], CAPTIONED: pictures[::4], TEXT: table[::4]}  # one of every family
    apart = Coverage(table, settings)
    apart(far, collate(far, step=0))
    assert (apart.asked, apart.found) == (12, 0)


def test_differences_are_paired_within_worlds() -> None:
    worlds = [
        {mode: {"alignment": start + 5 * place + wobble * place} for place, mode in enumerate(MODES)}
        for start, wobble in ((10, 1), (70, -1), (40, 0))
    ]
    found = summary(worlds)
    first, second, *_ = GRID
    assert AGAINST[first] == AGAINST[second] == first
    assert found[second]["alignment"]["mean"] == pytest.approx(45)
    assert found[second]["alignment"]["difference"] == pytest.approx(5)
    # t(0.975, 2 degrees of freedom) = 4.3027; the differences are 6, 4 and 5
    assert found[second]["alignment"]["half_width"] == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    assert found[first]["alignment"]["half_width"] == 0


def test_the_command_writes_every_world_and_the_means(done: tuple[dict[str, Any], str]) -> None:
    stored, shown = done
    assert len(stored["worlds"]) == 1
    assert list(stored["modes"]) == list(MODES)
    assert "texts begin with nothing" in shown


@pytest.mark.parametrize("wrong", [["--worlds", "0"], ["few"]])
def test_a_wrong_command_is_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        ablation.main(wrong)
