"""False conflicts: captioned pictures that repel each other although nothing visible in them differs.

Two captioned pictures are each other's negatives where an attribute that both show differs as a string. Here
the drawn worlds' values are worded as a model words them (`finedefics.data.paraphrases`), so the truth is
known: how many pairs conflict falsely as they were said, how many are left in the closed vocabulary, and
how many true conflicts it lost. ``python -m benchmarks.false_conflicts`` trains on each, to see what they
cost in accuracy; the texts stay as they are there, as the small base model knows no other words.
"""

import argparse
import json
import math
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.drawn import (
    CAPTIONED,
    LABELLED,
    TEXT,
    category_of,
    draw_samples,
    joint,
    right,
    shuffled,
    teach,
)
from benchmarks.registry import Result, benchmark
from finedefics.base_model import BaseRecipe, build_base
from finedefics.data.birds import ATTRIBUTE_VALUES, draw
from finedefics.data.generated import World, make_world
from finedefics.data.paraphrases import paraphrased
from finedefics.describers.vocabulary import Vocabulary, count_values
from finedefics.mining import AttributeMiner, Confusable
from finedefics.records import Sample
from finedefics_platform.study.statistics import mean_and_error

RESULTS = Path(__file__).parent / "false_conflicts.json"
WORLDS, PICTURES = 6, 12  # of a species
Seen = Mapping[str, str]


@dataclass(frozen=True)
class Plan:
    """Sizes of one world's arms: pictures a species, and rows of each feed in a step."""

    base: BaseRecipe = field(
        default_factory=lambda: BaseRecipe(birds=1500, vision_steps=300, language_steps=250, begins=True)
    )
    batch: int = 8
    steps: int = 80
    labelled: int = 1
    captioned: int = 12
    test: int = 8


@dataclass(frozen=True)
class Conflicts:
    """Pairs of pictures, in percent.

    Attributes:
        false: that conflict as worded, of those in which nothing that both show differs.
        missed: that do not conflict as worded, of those in which something differs.
        kept: values that are there as worded, of all that are visible.
    """

    false: float
    missed: float
    kept: float


def conflicts(truth: Sequence[Seen], worded: Sequence[Seen]) -> Conflicts:
    """Compare all pairs by what is true and by what was said."""
    pairs = np.triu_indices(len(truth), 1)
    true, said = _differ(truth)[pairs], _differ(worded)[pairs]
    kept = sum(map(len, worded)) / sum(map(len, truth))
    return Conflicts(100 * float(said[~true].mean()), 100 * float((~said[true]).mean()), 100 * kept)


def _differ(rows: Sequence[Seen]) -> npt.NDArray[np.bool_]:
    """[rows, rows] whether an attribute that both have differs as a string."""
    found = np.zeros((len(rows), len(rows)), dtype=bool)
    for name in ATTRIBUTE_VALUES:
        codes: dict[str, int] = {}
        column = np.array([codes.setdefault(r[name], len(codes)) if name in r else -1 for r in rows])
        one, other = column[:, None], column[None]
        found |= (one != other) & (one >= 0) & (other >= 0)
    return found


def closed(worded: Sequence[Seen]) -> list[dict[str, str]]:
    """What was said, in the vocabulary that follows from it; nothing else is known."""
    vocabulary = Vocabulary.of(count_values(worded))
    return [vocabulary.attributes(row) for row in worded]


def seen_in(world: World, pictures: int) -> list[dict[str, str]]:
    """What is visible in pictures of every species."""
    found = []
    for number, species in enumerate(world.species):
        for i in range(pictures):
            rng = np.random.default_rng([world.seed, 13, number, i])
            found.append(draw(species.attributes, rng, size=32)[1])
    return found


def said_of(truth: Sequence[Seen], seed: int) -> list[dict[str, str]]:
    """The same in a model's wordings."""
    rng = np.random.default_rng([seed, 17])
    return [paraphrased(row, rng) for row in truth]


@benchmark("false_conflicts", "missed_conflicts")
def count_conflicts(worlds: int = WORLDS, pictures: int = PICTURES) -> dict[str, Result]:
    """Shares over drawn worlds, as said and in the closed vocabulary."""
    before, after = [], []
    for seed in range(worlds):
        truth = seen_in(make_world(seed), pictures)
        worded = said_of(truth, seed)
        before.append(conflicts(truth, worded))
        after.append(conflicts(truth, closed(worded)))
    false = [one.false for one in after]
    missed = [one.missed for one in after]
    how = (
        f"captioned pairs that should not repel each other and do, {worlds} drawn worlds with "
        f"paraphrased values; as they were said {np.mean([one.false for one in before]):.1f} %; "
        f"{np.mean([one.kept for one in after]):.1f} % of the values are kept"
    )
    lost = "captioned pairs that should repel each other and no longer do, in the closed vocabulary"
    return {
        "false_conflicts": _result(false, 20.0, how),
        "missed_conflicts": _result(missed, 1.0, lost),
    }


def _result(values: Sequence[float], aim: float, how: str) -> Result:
    return Result(float(np.mean(values)), "%", "lower", aim, (min(values), max(values)), how)


ARMS = ("as they are", "as they were said", "in the vocabulary")
ANSWERS = ("alignment", "names")


def run_world(seed: int, plan: Plan) -> dict[str, dict[str, float]]:
    """Percent right among all species by each answer, after the joint recipe on each arm's attributes.

    The arms share base model, pictures, texts and orders; attributes decide who repels whom, and which hard
    negatives a captioned picture has.
    """
    torch.set_num_threads(1)
    world = make_world(seed)
    captioned = draw_samples(world, world.species, plan.captioned, split=2, labelled=False)
    said = said_of([sample.attributes for sample in captioned], seed)
    arms = dict(zip(ARMS, ([s.attributes for s in captioned], said, closed(said)), strict=True))
    test = draw_samples(world, world.species, plan.test, split=1)
    found = {}
    with tempfile.TemporaryDirectory() as base:
        build_base(world, Path(base), plan.base, seed=seed)
        for arm, attributes in arms.items():
            rows = {
                LABELLED: draw_samples(world, world.species, plan.labelled, split=0),
                CAPTIONED: _with(captioned, attributes, world),
                TEXT: [category_of(species) for species in world.species],
            }
            taught = teach(
                base,
                world,
                joint(captioned=True, shared=False),
                rows,
                batch=plan.batch,
                steps=plan.steps,
                negatives=3,
                orders={feed: shuffled(len(rows[feed]), seed, n) for n, feed in enumerate(rows)},
            )
            found[arm] = {answer: 100 * right(taught.model, test, answer) for answer in ANSWERS}
            false = conflicts([sample.attributes for sample in captioned], attributes).false
            found[arm]["false conflicts"] = false
    return found


def _with(captioned: Sequence[Sample], attributes: Sequence[Seen], world: World) -> list[Sample]:
    asked = [Confusable(s.sample_id, None, seen) for s, seen in zip(captioned, attributes, strict=True)]
    rankings = AttributeMiner([category_of(one) for one in world.species])(asked)
    return [
        replace(sample, attributes=seen, negatives=tuple(other for other, _ in best))
        for sample, seen, best in zip(captioned, attributes, rankings, strict=True)
    ]


def summary(worlds: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Means over worlds, and paired differences to attributes as they are, with 95 % t-intervals."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for arm in ARMS:
        found[arm] = {}
        for figure in worlds[0][arm]:
            values = [world[arm][figure] for world in worlds]
            paired = [value - world[ARMS[0]][figure] for value, world in zip(values, worlds, strict=True)]
            found[arm][figure] = {
                "mean": statistics.mean(values),
                "difference": statistics.mean(paired),
                "half_width": math.inf if (half := mean_and_error(paired)["half"]) is None else half,
                "n": len(worlds),
            }
    return found


def main(arguments: Sequence[str] | None = None, plan: Plan | None = None) -> int:
    """Train on attributes as they are, as they were said, and in the vocabulary; print what each reaches."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.false_conflicts", description=main.__doc__)
    parser.add_argument("--worlds", type=int, default=6, help="drawn worlds, seeds 0, 1, …")
    parser.add_argument("--processes", type=int, default=2, help="worlds at a time, one thread each")
    given = parser.parse_args(arguments)
    if given.worlds < 1 or given.processes < 1:
        parser.error("give at least one world and one process")
    console = Console(width=None if sys.stdout.isatty() else 160)
    worlds: list[dict[str, dict[str, float]]] = []
    with multiprocessing.get_context("spawn").Pool(given.processes) as pool:
        for one in pool.imap(partial(run_world, plan=plan or Plan()), range(given.worlds)):
            worlds.append(one)
            # written at every world, so that what is done is not lost with the rest
            RESULTS.write_text(json.dumps({"worlds": worlds, "arms": summary(worlds)}, indent=1) + "\n")
            console.print(f"{len(worlds)} of {given.worlds} worlds are done")
    table = Table(title="mean over worlds (paired difference ± 95 % half-width)", title_justify="left")
    table.add_column("attributes")
    for figure in worlds[0][ARMS[0]]:
        table.add_column(figure, justify="right")
    for arm, figures in summary(worlds).items():
        cells = [
            f"{each['mean']:.1f}"
            + ("" if arm == ARMS[0] else f" ({each['difference']:+.1f} ± {each['half_width']:.1f})")
            for each in figures.values()
        ]
        table.add_row(arm, *cells)
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
