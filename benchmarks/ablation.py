"""What hard negatives and the ways of a step bring or cost in accuracy: paired over drawn worlds, else equal.

Each of 24 species has one labelled picture and twelve captioned ones, and all have a text; a step has 8 rows
of each feed. A contrastive term then meets 8 rows (captioned pictures alone feed that of objects, texts alone
that of names) or 16 (labelled pictures feed both as well). Hard negatives can only help where a row's nearest
other species is not among its keys anyway, so that is counted in the batches that were formed: coverage.
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

from benchmarks.coverage import Coverage
from benchmarks.drawn import (
    CAPTIONED,
    LABELLED,
    TEXT,
    Row,
    category_of,
    draw_samples,
    joint,
    shuffled,
    teach,
)
from finedefics.base_model import BaseRecipe, build_base
from finedefics.conversation import Templates
from finedefics.data.generated import World, make_world
from finedefics.readout import Readout
from finedefics.records import Category, Sample
from finedefics.sampler import confusable_order, similar_categories
from finedefics.scoring import Recogniser, choose_weight
from finedefics.scoring.ensemble import PARTS
from finedefics.scoring.weighing import combine

RESULTS = Path(__file__).parent / "ablation.json"


@dataclass(frozen=True)
class Mode:
    """One way of a step.

    Attributes:
        rows: that a contrastive term meets, 8 or 16.
        negatives: hard negatives a row.
        confusable: the sampler puts similar species into one batch.
        readout, unique_keys, begin_texts: see `ObjectiveSettings` and `Templates`.
    """

    rows: int
    negatives: int
    confusable: bool
    readout: Readout = "eos"
    unique_keys: bool = True
    begin_texts: bool = True


GRID = {
    f"{rows} rows, {sampler}, {negatives} negatives": Mode(rows, negatives, sampler == "confusable")
    for rows in (8, 16)
    for sampler in ("shuffled", "confusable")
    for negatives in (0, 3)
}
USUAL = "16 rows, shuffled, 3 negatives"
OTHERS = {
    "every copy of a text is a key": Mode(16, 3, False, unique_keys=False),
    "texts begin with nothing": Mode(16, 3, False, begin_texts=False),
    "the object is read in the prompt": Mode(16, 3, False, readout="prompt"),
}
MODES = GRID | OTHERS
# the mode that a mode is compared with: shuffled batches of as many rows without hard negatives, or the usual
AGAINST = {name: f"{mode.rows} rows, shuffled, 0 negatives" for name, mode in GRID.items()}
AGAINST |= dict.fromkeys(OTHERS, USUAL)


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
    val: int = 4
    test: int = 8


Figures = dict[str, float]  # of one mode in one world


def run_world(seed: int, plan: Plan) -> dict[str, Figures]:
    """Every mode in one world: accuracies and coverage in percent, and forwarded tokens a step."""
    torch.set_num_threads(1)
    world = make_world(seed)
    rows = _rows(world, plan)
    val, test = (
        draw_samples(world, world.species, each, split=split)
        for each, split in ((plan.val, 3), (plan.test, 1))
    )
    found = {}
    with tempfile.TemporaryDirectory() as base:
        build_base(world, Path(base), plan.base, seed=seed)
        for name, mode in MODES.items():
            settings = joint(
                captioned=True,
                shared=mode.rows == 16,
                object_readout=mode.readout,
                unique_keys=mode.unique_keys,
            )
            coverage = Coverage([category_of(species) for species in world.species], settings)
            taught = teach(
                base,
                world,
                settings,
                rows,
                batch=plan.batch,
                steps=plan.steps,
                negatives=mode.negatives,
                orders={feed: _order(feed, rows, world, mode, plan.batch) for feed in rows},
                templates=Templates(begin_texts=mode.begin_texts),
                watch=coverage,
            )
            found[name] = {
                "coverage": 100 * coverage.share,
                **_accuracies(taught.model, val, test),
                "tokens a step": taught.forwarded_tokens,
            }
    return found


def _accuracies(model: Recogniser, val: Sequence[Sample], test: Sequence[Sample]) -> Figures:
    """Percent right among all species by each answer; the ensemble's weight is chosen on ``val``."""
    position = {category.category_id: i for i, category in enumerate(model.categories)}
    scores, truth = [], []
    for samples in (val, test):
        images = [sample.image for sample in samples]
        scores.append([model.answer(images, part).scores for part in PARTS])
        truth.append([position[str(sample.category_id)] for sample in samples])
    weight = choose_weight(*scores[0], truth[0], dataset="drawn", split="val").weight
    answers = {**dict(zip(PARTS, scores[1], strict=True)), "ensemble": combine(*scores[1], weight)}
    target = torch.tensor(truth[1])
    right = {name: float((each.argmax(1) == target).double().mean()) for name, each in answers.items()}
    return {name: 100 * right[name] for name in ("alignment", "names", "ensemble")}


def _rows(world: World, plan: Plan) -> dict[str, Sequence[Row]]:
    return {
        LABELLED: draw_samples(world, world.species, plan.labelled, split=0),
        CAPTIONED: draw_samples(world, world.species, plan.captioned, split=2, labelled=False),
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
    """Figures' means over worlds, and paired differences to the mode in `AGAINST` with 95 % t-intervals."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for mode, other in AGAINST.items():
        found[mode] = {}
        for figure in worlds[0][mode]:
            values = [world[mode][figure] for world in worlds]
            paired = [value - world[other][figure] for value, world in zip(values, worlds, strict=True)]
            found[mode][figure] = {
                "mean": statistics.mean(values),
                "difference": statistics.mean(paired),
                "half_width": half_width(paired),
                "n": len(worlds),
            }
    return found


def half_width(differences: Sequence[float]) -> float:
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
    console = Console(width=None if sys.stdout.isatty() else 160)
    worlds: list[dict[str, Figures]] = []
    with multiprocessing.get_context("spawn").Pool(given.processes) as pool:
        for one in pool.imap(partial(run_world, plan=plan or Plan()), range(given.worlds)):
            worlds.append(one)
            # written at every world, so that what is done is not lost with the rest
            RESULTS.write_text(json.dumps({"worlds": worlds, "modes": summary(worlds)}, indent=1) + "\n")
            console.print(f"{len(worlds)} of {given.worlds} worlds are done")
    console.print(_table(summary(worlds)))
    return 0


def _table(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    table = Table(title="mean over worlds (paired difference ± 95 % half-width)", title_justify="left")
    table.add_column("mode")
    for figure in found[USUAL]:
        table.add_column(figure, justify="right")
    for mode, figures in found.items():
        table.add_row(mode, *(_cell(mode, figure, each) for figure, each in figures.items()))
    return table


def _cell(mode: str, figure: str, each: Mapping[str, float]) -> str:
    shown = f"{each['mean']:.1f}"
    if mode == AGAINST[mode] or figure in ("coverage", "tokens a step"):
        return shown
    return f"{shown} ({each['difference']:+.1f} ± {each['half_width']:.1f})"


if __name__ == "__main__":
    sys.exit(main())
