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
from finedefics.data.captions import Captions
from finedefics.data.generated_names import MOST_SPECIES, names_of
from finedefics.errors import FinedeficsError, wrong_use

FAMILY_DISTANCE = 4  # attributes in which two families' prototypes differ at least
SIBLING_DISTANCE = (1, 3)  # attributes in which siblings differ
TRIES = 20_000  # of drawing a bird at the wanted distances, before it is said that there is none
# What a picture is drawn for: a part of its seed, so the numbers stay.
_SPLITS = ("train", "val", "test")
_CAPTIONED_KNOWN, _GENERIC = 3, 4


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
    """The species of one world; ``new`` are those that never get a label (one a family by default)."""

    seed: int
    species: tuple[Species, ...]
    new: frozenset[str]


@dataclass(frozen=True)
class WorldPlan:
    """What is drawn of a world's species, and what is said of it.

    Attributes:
        labelled: labelled training pictures of a known species.
        captioned: training pictures of a new species, without a label.
        val, test: held-out pictures of every species.
        captioned_known: training pictures of a known species without a label.
        generic_captioned: training pictures of birds of no species, in all.
        caption_attributes: a caption tells so many of the seven attributes, visible ones; None tells all.
        wrong_captions: share of the captions, in every split, that tell of another species of the family.
        paraphrased: captions have each value in one of its wordings.
        long_tail: of the known species, in an order of chance, the one of rank r (from 1) has
            ``labelled / r**long_tail`` labelled pictures, at least one.
    """

    labelled: int = 4
    captioned: int = 12
    val: int = 4
    test: int = 16
    captioned_known: int = 0
    generic_captioned: int = 0
    caption_attributes: int | None = None
    wrong_captions: float = 0.0
    paraphrased: bool = False
    long_tail: float = 0.0

    def __post_init__(self) -> None:
        for name in ("labelled", "captioned", "val", "test", "captioned_known", "generic_captioned"):
            if getattr(self, name) < 0:
                raise _impossible(f"{name} is {getattr(self, name)}", "give 0 or more pictures")
        told = self.caption_attributes
        if told is not None and not 1 <= told <= len(ATTRIBUTE_VALUES):
            raise _impossible(
                f"caption_attributes is {told}, and a bird has {len(ATTRIBUTE_VALUES)}",
                f"give 1 to {len(ATTRIBUTE_VALUES)}, or none for all that are visible",
            )
        if not 0 <= self.wrong_captions <= 1:
            raise _impossible(f"wrong_captions is {self.wrong_captions}", "give a share from 0 to 1")
        if self.long_tail < 0:
            raise _impossible(f"long_tail is {self.long_tail}", "give 0 or more")

    @property
    def captions(self) -> Captions:
        """How captions are made."""
        return Captions(self.caption_attributes, self.wrong_captions, self.paraphrased)


def make_world(
    seed: int, *, families: int = 6, species_per_family: int = 4, new_per_family: int = 1
) -> World:
    """Draw the species of a world.

    Args:
        seed: equal seeds give equal worlds.
        families: their prototypes differ in at least `FAMILY_DISTANCE` attributes.
        species_per_family: siblings differ from each other in one to three attributes.
        new_per_family: species that never get a label; the species are the same for any number.

    Raises:
        FinedeficsError: so many species have no names, or do not fit the distances (exit code 2).
    """
    check_shape(families, species_per_family, new_per_family)
    rng = np.random.default_rng([seed, 1])
    names = names_of(rng, families * species_per_family)
    species: list[Species] = []
    prototypes: list[dict[str, str]] = []
    new = set()
    for family in range(families):
        prototype = _far_from(prototypes, rng)
        prototypes.append(prototype)
        kin = _siblings(prototype, species_per_family, [s.attributes for s in species], rng)
        for attributes in kin:
            species.append(Species(names[len(species)], f"family {family + 1}", attributes))
        last = int(rng.integers(species_per_family))
        new |= {species[-1 - (last + i) % len(kin)].name for i in range(new_per_family)}
    return World(seed, tuple(species), frozenset(new))


def check_shape(families: int, species_per_family: int, new_per_family: int) -> None:
    """FinedeficsError (exit code 2) where no world has this shape, whatever its seed."""
    if families < 1 or species_per_family < 1:
        raise _impossible(f"{families} families of {species_per_family} species", "give at least one of each")
    if not 0 <= new_per_family <= species_per_family:
        raise _impossible(
            f"new_per_family is {new_per_family}, and a family has {species_per_family} species",
            f"give 0 to {species_per_family}",
        )
    if families * species_per_family > MOST_SPECIES:
        raise _impossible(
            f"{families * species_per_family} species, and there are names for {MOST_SPECIES}",
            "ask for fewer families or fewer species_per_family",
        )


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
        for drawn in _pictures(world, plan):
            looks = drawn.species.attributes if drawn.species else _of_no_species(world, drawn.seed)
            jpeg, visible = picture(looks, np.random.default_rng(drawn.seed))
            (folder / drawn.file).parent.mkdir(parents=True, exist_ok=True)
            (folder / drawn.file).write_bytes(jpeg)
            description, told = plan.captions.of(visible, _kin(world, drawn.species), drawn.seed)
            write(
                {
                    "image": drawn.file,
                    "split": drawn.split,
                    "category": drawn.species.name if drawn.species and drawn.labelled else None,
                    "description": description,
                    "attributes": told,
                }
            )


def true_labels(world: World, plan: WorldPlan) -> dict[str, str]:
    """The species' name of every picture without a label, by its file; birds of no species are left out."""
    return {
        drawn.file: drawn.species.name
        for drawn in _pictures(world, plan)
        if drawn.species and not drawn.labelled
    }


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
        jpeg, visible = picture(_any_bird(rng), rng)
        yield Image.open(io.BytesIO(jpeg)), visible


@dataclass(frozen=True)
class _Picture:
    """One picture to be drawn; ``species`` is None for a bird of none."""

    split: str
    species: Species | None
    labelled: bool
    seed: list[int]

    @property
    def file(self) -> str:
        """Its path in the folder, which must not tell what is in the picture."""
        return f"images/{self.split}/{np.random.default_rng([*self.seed, 7]).integers(1 << 48):012x}.jpg"


def _pictures(world: World, plan: WorldPlan) -> Iterator[_Picture]:
    counts = _labelled_counts(world, plan)
    for position, species in enumerate(world.species):
        is_new = species.name in world.new
        for number in range(plan.captioned if is_new else counts[species.name]):
            yield _Picture("train", species, not is_new, [world.seed, 2, 0, position, number])
        for number in range(0 if is_new else plan.captioned_known):
            yield _Picture("train", species, False, [world.seed, 2, _CAPTIONED_KNOWN, position, number])
        for split, count in (("val", plan.val), ("test", plan.test)):
            for number in range(count):
                seed = [world.seed, 2, _SPLITS.index(split), position, number]
                yield _Picture(split, species, True, seed)
    for number in range(plan.generic_captioned):
        yield _Picture("train", None, False, [world.seed, 2, _GENERIC, 0, number])


def _labelled_counts(world: World, plan: WorldPlan) -> dict[str, int]:
    known = [species.name for species in world.species if species.name not in world.new]
    order = np.random.default_rng([world.seed, 4]).permutation(len(known))
    fewest = min(plan.labelled, 1)
    return {
        known[place]: max(fewest, round(plan.labelled / (rank + 1) ** plan.long_tail))
        for rank, place in enumerate(order)
    }


def _kin(world: World, species: Species | None) -> list[dict[str, str]]:
    if species is None:
        return []
    return [each.attributes for each in world.species if each.family == species.family and each != species]


def _of_no_species(world: World, seed: list[int]) -> dict[str, str]:
    rng = np.random.default_rng([*seed, 5])
    while True:
        looks = _any_bird(rng)
        if all(looks != species.attributes for species in world.species):
            return looks


def _any_bird(rng: np.random.Generator) -> dict[str, str]:
    return {name: str(rng.choice(values)) for name, values in ATTRIBUTE_VALUES.items()}


def _impossible(thing: str, cure: str) -> FinedeficsError:
    return wrong_use(thing, place="the world's settings", cure=cure)


def _far_from(others: list[dict[str, str]], rng: np.random.Generator) -> dict[str, str]:
    for _ in range(TRIES):
        candidate = _any_bird(rng)
        if all(distance(candidate, other) >= FAMILY_DISTANCE for other in others):
            return candidate
    raise _impossible(
        f"no family after {len(others)} differs from all others in {FAMILY_DISTANCE} attributes",
        "ask for fewer families",
    )


def _siblings(
    prototype: dict[str, str], count: int, taken: list[dict[str, str]], rng: np.random.Generator
) -> list[dict[str, str]]:
    low, high = SIBLING_DISTANCE
    kin = [prototype]
    for _ in range(TRIES):
        if len(kin) == count:
            return kin
        sibling = dict(prototype)
        for name in rng.choice(list(ATTRIBUTE_VALUES), int(rng.integers(low, high)), replace=False):
            sibling[str(name)] = str(
                rng.choice([v for v in ATTRIBUTE_VALUES[str(name)] if v != sibling[str(name)]])
            )
        near = all(low <= distance(sibling, other) <= high for other in kin)
        if near and all(distance(sibling, other) > 0 for other in taken):
            kin.append(sibling)
    raise _impossible(
        f"a family has no room for {count} siblings that differ in {low} to {high} attributes",
        "ask for fewer species_per_family",
    )


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
