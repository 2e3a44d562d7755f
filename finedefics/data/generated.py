"""Generated worlds: fine-grained bird species that differ from their nearest kin in one to three attributes.

A world is a function of its seed. It is written to disk as an ordinary image folder (JPEG files,
``annotations.jsonl``, ``categories.jsonl``) and read back through the reader a user's own folder takes.
Names are invented and reveal nothing about the looks, so recognising a species has to be learned.
"""

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from finedefics.data.birds import ATTRIBUTE_VALUES, describe, draw

FIRST_WORDS = (
    "alba",
    "brin",
    "corva",
    "dusk",
    "ember",
    "fenn",
    "gilt",
    "harrow",
    "isle",
    "jura",
    "karst",
    "lorn",
)
SECOND_WORDS = (
    "tern",
    "wren",
    "finch",
    "lark",
    "shrike",
    "pipit",
    "veery",
    "knot",
    "dove",
    "siskin",
    "plover",
    "rail",
)
FAMILY_DISTANCE = 4  # attributes in which two families' prototypes differ at least
SIBLING_DISTANCE = (1, 3)  # attributes in which siblings differ


@dataclass(frozen=True)
class Species:
    """A species of a generated world: name, family and a value for every attribute."""

    name: str
    family: str
    attributes: dict[str, str]

    @property
    def description(self) -> str:
        """The category-level description: every attribute."""
        return describe(self.attributes)


@dataclass(frozen=True)
class World:
    """The species of one world; ``new`` are those that never get a label (one a family)."""

    seed: int
    species: tuple[Species, ...]
    new: frozenset[str]


@dataclass(frozen=True)
class WorldPlan:
    """Pictures a species: labelled (known species), captioned (new species), held out (all)."""

    labelled: int = 4
    captioned: int = 12
    val: int = 4
    test: int = 16


def make_world(seed: int, *, families: int = 6, species_per_family: int = 4) -> World:
    """Draw the species of a world.

    Args:
        seed: equal seeds give equal worlds.
        families: at most 12; prototypes differ in at least `FAMILY_DISTANCE` attributes.
        species_per_family: siblings differ from each other in one to three attributes.
    """
    count = families * species_per_family
    if not 1 <= count <= len(FIRST_WORDS) * 2:
        raise ValueError(f"{count} species do not fit the {len(FIRST_WORDS) * 2} invented names")
    rng = np.random.default_rng([seed, 1])
    names = _names(rng, count)
    species: list[Species] = []
    prototypes: list[dict[str, str]] = []
    new = set()
    for family in range(families):
        prototype = _far_from(prototypes, rng)
        prototypes.append(prototype)
        kin = _siblings(prototype, species_per_family, [s.attributes for s in species], rng)
        for attributes in kin:
            species.append(Species(names[len(species)], f"family {family + 1}", attributes))
        new.add(species[-1 - int(rng.integers(species_per_family))].name)
    return World(seed, tuple(species), frozenset(new))


def write_world(world: World, folder: Path, plan: WorldPlan) -> None:
    """Write a world as an image folder: ``images/<split>/*.jpg``, annotations, categories."""
    with _lines(folder / "categories.jsonl") as write:
        for species in world.species:
            write(
                {
                    "name": species.name,
                    "super_category": species.family,
                    "description": species.description,
                    "attributes": species.attributes,
                }
            )
    with _lines(folder / "annotations.jsonl") as write:
        for split, species, labelled, number in _pictures(world, plan):
            seed = [
                world.seed,
                2,
                ("train", "val", "test").index(split),
                world.species.index(species),
                number,
            ]
            jpeg, visible = picture(species.attributes, np.random.default_rng(seed))
            # the file's name must not tell what is in the picture
            name = f"images/{split}/{np.random.default_rng([*seed, 7]).integers(1 << 48):012x}.jpg"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(jpeg)
            write(
                {
                    "image": name,
                    "split": split,
                    "category": species.name if labelled else None,
                    "description": describe(visible),
                    "attributes": visible,
                }
            )


def picture(attributes: dict[str, str], rng: np.random.Generator) -> tuple[bytes, dict[str, str]]:
    """One drawn bird as JPEG bytes, with the attributes visible in it."""
    image, visible = draw(attributes, rng)
    buffer = io.BytesIO()
    # full chroma: a beak is a few pixels wide and its colour is an attribute
    image.save(buffer, format="JPEG", quality=92, subsampling=0)
    return buffer.getvalue(), visible


def random_birds(count: int, seed: int) -> Iterator[tuple[Image.Image, dict[str, str]]]:
    """Birds of random attribute combinations, of no species: what a base model has seen before."""
    for number in range(count):
        rng = np.random.default_rng([seed, 3, number])
        attributes = {name: str(rng.choice(values)) for name, values in ATTRIBUTE_VALUES.items()}
        jpeg, visible = picture(attributes, rng)
        yield Image.open(io.BytesIO(jpeg)), visible


def _pictures(world: World, plan: WorldPlan) -> Iterator[tuple[str, Species, bool, int]]:
    for species in world.species:
        is_new = species.name in world.new
        for number in range(plan.captioned if is_new else plan.labelled):
            yield "train", species, not is_new, number
        for split, count in (("val", plan.val), ("test", plan.test)):
            for number in range(count):
                yield split, species, True, number


def _names(rng: np.random.Generator, count: int) -> list[str]:
    # every word is shared by two species, so neither word alone names one
    first, second = rng.permutation(FIRST_WORDS), rng.permutation(SECOND_WORDS)
    size = len(first)
    names = [f"{first[i % size]} {second[(i + (i // size) * 5) % size]}" for i in range(2 * size)]
    return [names[i] for i in rng.permutation(len(names))[:count]]


def _far_from(others: list[dict[str, str]], rng: np.random.Generator) -> dict[str, str]:
    while True:
        candidate = {name: str(rng.choice(values)) for name, values in ATTRIBUTE_VALUES.items()}
        if all(distance(candidate, other) >= FAMILY_DISTANCE for other in others):
            return candidate


def _siblings(
    prototype: dict[str, str], count: int, taken: list[dict[str, str]], rng: np.random.Generator
) -> list[dict[str, str]]:
    low, high = SIBLING_DISTANCE
    kin = [prototype]
    while len(kin) < count:
        sibling = dict(prototype)
        for name in rng.choice(list(ATTRIBUTE_VALUES), int(rng.integers(low, high)), replace=False):
            sibling[str(name)] = str(
                rng.choice([v for v in ATTRIBUTE_VALUES[str(name)] if v != sibling[str(name)]])
            )
        near = all(low <= distance(sibling, other) <= high for other in kin)
        if near and all(distance(sibling, other) > 0 for other in taken):
            kin.append(sibling)
    return kin


def distance(left: dict[str, str], right: dict[str, str]) -> int:
    """Number of attributes in which two birds differ."""
    return sum(left[name] != right[name] for name in ATTRIBUTE_VALUES)


class _lines:
    """A JSON-lines file being written: a context manager that yields the writing function."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w")

    def __enter__(self) -> Callable[[dict[str, object]], object]:
        return lambda record: self._file.write(json.dumps(record) + "\n")

    def __exit__(self, *_: object) -> None:
        self._file.close()
