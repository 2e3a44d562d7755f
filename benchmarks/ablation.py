"""What the faster ways of a step cost or bring in accuracy: paired over drawn worlds, all else equal.

``python -m benchmarks.ablation new few`` takes six minutes a world, setting and core. In the setting ``new``
18 species have four labelled pictures, six have twelve captioned ones and no label. In ``few`` each of the 24
has one labelled picture and twelve captioned ones, and half as many steps are made. All have a text. A step
has 8 rows of each feed: few beside the number of species, so that it matters where hard negatives come from.
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
    """Sizes of one world's arms; ``new``: the captioned species are others than the labelled ones."""

    base: BaseRecipe = field(default_factory=BaseRecipe)
    new: bool = True
    batch: int = 8
    steps: int = 160
    labelled: int = 4
    captioned: int = 12
    test: int = 16


SETTINGS = {"new": Plan(), "few": Plan(new=False, steps=80, labelled=1)}


Figures = dict[str, float]  # of one mode in one world


def run_world(seed: int, plan: Plan) -> dict[str, Figures]:
    """Every mode in one world: accuracies in percent, and forwarded tokens a step."""
    torch.set_num_threads(1)
    world = make_world(seed)
    rows = _rows(world, plan)
    groups = {"new": _species(world, new=True), "labelled": _species(world, new=False)}
    if not plan.new:
        groups = {"all": list(world.species)}
    test = {group: draw_samples(world, species, plan.test, split=1) for group, species in groups.items()}
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
    labelled = _species(world, new=False) if plan.new else world.species
    captioned, apart = (_species(world, new=True), 0) if plan.new else (world.species, 2)
    return {
        LABELLED: draw_samples(world, labelled, plan.labelled, split=0),
        CAPTIONED: draw_samples(world, captioned, plan.captioned, split=apart, labelled=False),
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


def main(arguments: Sequence[str] | None = None, settings: Mapping[str, Plan] = SETTINGS) -> int:
    """Run the worlds side by side, print a table a setting, write ``benchmarks/ablation.json``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=main.__doc__)
    parser.add_argument("settings", nargs="*", metavar="SETTING", help=f"{', '.join(settings)}; default all")
    parser.add_argument("--worlds", type=int, default=6, help="drawn worlds, seeds 0, 1, …")
    parser.add_argument("--processes", type=int, default=2, help="worlds at a time, one thread each")
    given = parser.parse_args(arguments)
    if given.worlds < 1 or given.processes < 1:
        parser.error("give at least one world and one process")
    if unknown := [name for name in given.settings if name not in settings]:
        parser.error(f"unknown setting {unknown[0]!r}: choose of {', '.join(settings)}")
    console = Console(width=None if sys.stdout.isatty() else 140)
    stored = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in given.settings or settings:
        worlds = []
        with multiprocessing.get_context("spawn").Pool(given.processes) as pool:
            for one in pool.imap(partial(run_world, plan=settings[name]), range(given.worlds)):
                worlds.append(one)
                console.print(f"{name}: {len(worlds)} of {given.worlds} worlds are done")
        found = summary(worlds)
        stored[name] = {"worlds": worlds, "modes": found}
        RESULTS.write_text(json.dumps(stored, indent=1) + "\n")
        console.print(_table(name, found))
    return 0


def _table(setting: str, found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    title = f"{setting}: mean (difference to exact ± 95 % half-width over worlds)"
    table = Table(title=title, title_justify="left")
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
