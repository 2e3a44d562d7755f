"""What the faster ways of a step cost or bring in accuracy: paired over drawn worlds, all else equal.

``python -m benchmarks.ablation --worlds 6`` takes six minutes a world and core. Each world has 18 species
with four labelled pictures, six with twelve captioned pictures and no label, and a text for all. A step has 8
rows of each feed: few beside the number of species, so that it matters where hard negatives come from.
"""

import argparse
import json
import math
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student

from benchmarks.drawn import (
    CAPTIONED,
    LABELLED,
    TEXT,
    Row,
    category_of,
    draw_samples,
    joint,
    right,
    shuffled,
    teach,
)
from finedefics.base_model import BaseRecipe, build_base
from finedefics.data.generated import Species, World, make_world
from finedefics.readout import Readout
from finedefics.records import Category, Sample
from finedefics.sampler import confusable_order, similar_categories

RESULTS = Path(__file__).parent / "ablation.json"
REFERENCE = "exact"


@dataclass(frozen=True)
class Mode:
    """One way of a step: how rows come together, hard negatives a row, where an object is read."""

    confusable: bool
    negatives: int
    readout: Readout


MODES = {
    REFERENCE: Mode(False, 3, "eos"),
    "no hard negatives": Mode(False, 0, "eos"),
    "sampler": Mode(True, 0, "eos"),
    "one pass": Mode(False, 3, "prompt"),
    "sampler, one pass": Mode(True, 0, "prompt"),
}


@dataclass(frozen=True)
class Plan:
    """Sizes of one world's arms."""

    base: BaseRecipe = field(default_factory=BaseRecipe)
    batch: int = 8
    steps: int = 160
    labelled: int = 4
    captioned: int = 12
    test: int = 16


Figures = dict[str, float]  # of one mode in one world


def run_world(seed: int, plan: Plan) -> dict[str, Figures]:
    """Every mode in one world: accuracies in percent, and forwarded tokens a step."""
    torch.set_num_threads(1)
    world = make_world(seed)
    rows = _rows(world, plan)
    test = {
        "new": draw_samples(world, _species(world, new=True), plan.test, split=1),
        "labelled": draw_samples(world, _species(world, new=False), plan.test, split=1),
    }
    found = {}
    with tempfile.TemporaryDirectory() as base:
        build_base(world, Path(base), plan.base, seed=seed)
        for name, mode in MODES.items():
            taught = teach(
                base,
                world,
                joint(captioned=True, object_readout=mode.readout),
                rows,
                batch=plan.batch,
                steps=plan.steps,
                negatives=mode.negatives,
                orders={feed: _order(feed, rows, world, mode, plan.batch) for feed in rows},
            )
            figures = {"tokens a step": taught.forwarded_tokens}
            for group, samples in test.items():
                for answer in ("alignment", "names"):
                    figures[f"{answer}, {group}"] = 100 * right(taught.model, samples, answer)
            found[name] = figures
    return found


def _species(world: World, *, new: bool) -> list[Species]:
    return [species for species in world.species if (species.name in world.new) == new]


def _rows(world: World, plan: Plan) -> dict[str, Sequence[Row]]:
    new, old = _species(world, new=True), _species(world, new=False)
    return {
        LABELLED: draw_samples(world, old, plan.labelled, split=0),
        CAPTIONED: draw_samples(world, new, plan.captioned, split=0, labelled=False),
        TEXT: [category_of(species) for species in world.species],
    }


def _order(
    feed: str, rows: Mapping[str, Sequence[Row]], world: World, mode: Mode, batch: int
) -> Callable[[], Sequence[int]]:
    """A feed's order, equal for the modes that share a sampler."""
    seed = (world.seed, 5, list(rows).index(feed))
    if not mode.confusable:
        return shuffled(len(rows[feed]), *seed)
    mined = [(s.category_id, s.negatives) for s in rows[LABELLED] if isinstance(s, Sample)]
    nearest = similar_categories(
        [category_of(species) for species in world.species], [(c, n) for c, n in mined if c is not None]
    )
    rng = np.random.default_rng(seed)
    return partial(confusable_order, [_taken_for(row) for row in rows[feed]], nearest, batch, rng)


def _taken_for(row: Row) -> str:
    """The category by which a row finds its batch: its own, or the most similar one where it has no label."""
    if isinstance(row, Category) or row.category_id:
        return str(row.category_id)
    return row.negatives[0]


def summary(worlds: Sequence[Mapping[str, Figures]]) -> dict[str, dict[str, dict[str, float]]]:
    """Mean of every figure over worlds, and its paired difference to the reference with a 95 % t-interval."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for mode in MODES:
        found[mode] = {}
        for figure in worlds[0][mode]:
            values = [world[mode][figure] for world in worlds]
            paired = [value - world[REFERENCE][figure] for value, world in zip(values, worlds, strict=True)]
            found[mode][figure] = {
                "mean": statistics.mean(values),
                "difference": statistics.mean(paired),
                "half_width": _half_width(paired),
                "n": len(worlds),
            }
    return found


def _half_width(differences: Sequence[float]) -> float:
    n = len(differences)
    if n < 2:
        return math.inf
    return float(student.ppf(0.975, n - 1)) * statistics.stdev(differences) / math.sqrt(n)


def main(arguments: Sequence[str] | None = None, plan: Plan | None = None) -> int:
    """Run the worlds side by side, print the table, write ``benchmarks/ablation.json``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=main.__doc__)
    parser.add_argument("--worlds", type=int, default=6, help="drawn worlds, seeds 0, 1, …")
    parser.add_argument("--processes", type=int, default=2, help="worlds at a time, one thread each")
    given = parser.parse_args(arguments)
    if given.worlds < 1 or given.processes < 1:
        parser.error("give at least one world and one process")
    console = Console(width=None if sys.stdout.isatty() else 140)
    worlds = []
    with multiprocessing.get_context("spawn").Pool(given.processes) as pool:
        for one in pool.imap(partial(run_world, plan=plan or Plan()), range(given.worlds)):
            worlds.append(one)
            console.print(f"{len(worlds)} of {given.worlds} worlds are done")
    found = summary(worlds)
    RESULTS.write_text(json.dumps({"worlds": worlds, "modes": found}, indent=1) + "\n")
    console.print(_table(found))
    return 0


def _table(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    table = Table(title="Mean (difference to exact ± 95 % half-width over worlds)", title_justify="left")
    table.add_column("mode")
    for figure in found[REFERENCE]:
        table.add_column(figure, justify="right")
    for mode, figures in found.items():
        table.add_row(mode, *(_cell(mode, figure, each) for figure, each in figures.items()))
    return table


def _cell(mode: str, figure: str, each: Mapping[str, float]) -> str:
    shown = f"{each['mean']:.1f}"
    if mode == REFERENCE or figure == "tokens a step":
        return shown
    return f"{shown} ({each['difference']:+.1f} ± {each['half_width']:.1f})"


if __name__ == "__main__":
    sys.exit(main())
