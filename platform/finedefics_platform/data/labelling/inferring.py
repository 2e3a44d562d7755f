"""Inferences of a labeller over a dataset: made once, shared by versions and by wanted precisions.

``labels/<digest>/`` holds a part for every samples file with pictures that are asked about,
``part-<number>.npy``: float32 [rows, 3], a row a sample in the order of the file, with the position of the
category, its probability and its margin. The digest is of the labeller and of what it read. A part is written
whole; whoever is cut off goes on with what is missing.

What is asked about is decided here and nowhere else: pictures of the split train without a label, and, to
score the labeller, labelled pictures of train and val whose category has a labelled training picture. A
picture of the split test is never among them, nor one of val whose category is known from texts alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finedefics.errors import FinedeficsError
from finedefics.labellers import LABELLERS, Given, Inferred, Labeller, Unnamed
from finedefics.labellers.agreement import BETWEEN
from finedefics.labellers.file import FileLabeller
from finedefics.records import Category
from finedefics.registry import split_spec
from finedefics_platform.base.actors import reserved_device, run_in_actors
from finedefics_platform.base.content import model_folder
from finedefics_platform.base.digest import digest_of
from finedefics_platform.base.progress import Progress
from finedefics_platform.base.storage import Location, lease
from finedefics_platform.base.tasks import run_tasks
from finedefics_platform.base.workspace import INSIDE, Workspace
from finedefics_platform.data.embeddings import read_array, write_array
from finedefics_platform.data.store import Dataset, RowGroup

if TYPE_CHECKING:
    from finedefics.embedders import Settings

SCORED_SPLITS = ("train", "val")  # never test: what decides a threshold is no longer held out
NOTHING, NOT_ASKED = -1, -2  # in place of a position


@dataclass(frozen=True)
class NamedLabeller:
    """A labeller as a user called it, which every process opens for itself.

    Attributes:
        name: as it was called, places in the workspace by their names there.
        make: the registered component.
        argument: what followed the colon, in parts; a place of a model's folder is brought to each node.
        categories: that compete.
        settings: precision and batch size of its model.
        gpus_per_worker: of the processes that run it; None: 1 where the cluster has one.
        code: name and digest of the `.py` file that it came from, None for an installed one.
    """

    name: str
    make: Any
    argument: tuple[str | Location, ...] | None
    categories: tuple[Category, ...]
    settings: "Settings"
    gpus_per_worker: float | None = None
    code: str | None = None

    def identity(self, labeller: Labeller) -> str:
        """All that determines the inferences; of a file of code its content too."""
        return f"{labeller.labeller_id}-{self.code}" if self.code else labeller.labeller_id

    def open(self, device: str = "cpu") -> Labeller:
        """The labeller, its models brought to this node; no weights are read yet."""
        argument = None
        if self.argument is not None:
            there = [str(model_folder(one)) if isinstance(one, Location) else one for one in self.argument]
            argument = BETWEEN.join(there)
        made: Labeller = self.make(Given(argument, self.categories, replace(self.settings, device=device)))
        return made


def named_labeller(
    workspace: Workspace,
    spec: str,
    categories: Sequence[Category],
    settings: "Settings | None" = None,
    gpus_per_worker: float | None = None,
) -> NamedLabeller:
    """Find out what ``reading:~/base`` or ``labels.py`` means.

    Raises:
        FinedeficsError: the name is unknown (exit code 2).
    """
    from finedefics.embedders import Settings

    name, argument = (spec, None) if spec.endswith(".py") else split_spec(spec)
    make = LABELLERS[name]
    parts: tuple[str | Location, ...] | None = None
    if argument is not None:
        whole = argument if name == "file" else _place(workspace, argument)
        several = isinstance(whole, str) and name != "file"
        parts = tuple(_place(workspace, one) for one in argument.split(BETWEEN)) if several else (whole,)
    code = LABELLERS.identity(name) if name.endswith(".py") else None
    if parts is not None:  # what is written down moves with the workspace
        called = BETWEEN.join(workspace.name_of(p) if isinstance(p, Location) else p for p in parts)
        spec = f"{name}:{called}"
    return NamedLabeller(spec, make, parts, tuple(categories), settings or Settings(), gpus_per_worker, code)


def _place(workspace: Workspace, argument: str) -> str | Location:
    """The place of a model's folder; what is none, such as a hub name, as it is."""
    if argument and Path(argument).expanduser().is_dir():
        return Location.of(argument)
    named = argument.startswith(INSIDE) or "://" in argument
    return workspace.place_of(argument) if named and BETWEEN not in argument else argument


@dataclass(frozen=True)
class Sought:
    """Rows of a row group whose category is sought.

    Attributes:
        start: of the group among the rows of its file.
        rows: their numbers in the group.
        truth: where it is known, the position of each row's category; goes to no labeller.
    """

    group: RowGroup
    start: int
    rows: tuple[int, ...]
    truth: tuple[int, ...] = ()


def unlabelled(dataset: Dataset) -> list[Sought]:
    """The pictures of the split train without a label, in file order."""
    return [
        Sought(group, start, tuple(range(group.rows)))
        for group, start in _with_starts(dataset)
        if group.split == "train" and not group.labelled
    ]


def to_score(dataset: Dataset, splits: Sequence[str]) -> list[Sought]:
    """Labelled pictures that a labeller may be scored on, in file order.

    A category without a labelled training picture is known from texts alone, and the labels of its pictures
    in val are what an evaluation is to find out: they decide nothing here.
    """
    known = dataset.labelled_category_ids()
    learned = {i for i, one in enumerate(dataset.categories()) if one.category_id in known}
    labels = dataset.table("row_groups", ["categories"])["categories"].to_pylist()
    found = []
    for group, start in _with_starts(dataset):
        if not group.labelled or group.split not in SCORED_SPLITS or group.split not in splits:
            continue
        own = labels[group.number]
        if rows := tuple(row for row in range(group.rows) if own[row] in learned):
            found.append(Sought(group, start, rows, tuple(own[row] for row in rows)))
    return found


def _with_starts(dataset: Dataset) -> Iterator[tuple[RowGroup, int]]:
    for groups in dataset.groups_of_file():
        start = 0
        for group in groups:
            yield group, start
            start += group.rows


@dataclass(frozen=True)
class Inferences:
    """Finished inferences of a dataset; travels pickled to tasks."""

    place: Location

    def of(self, sought: Sequence[Sought]) -> Iterator[tuple[Sought, Inferred]]:
        """What is inferred of each group's rows; positions may be `NOTHING` or `NOT_ASKED`.

        Args:
            sought: in file order: a part is read once.
        """
        for file, some in groupby(sought, key=lambda one: one.group.file):
            part = read_array(self.place / _part(file))
            for one in some:
                own = part[one.start + np.array(one.rows)]
                yield one, Inferred(own[:, 0].astype(np.int32), own[:, 1], own[:, 2])


def infer(
    workspace: Workspace,
    dataset: Dataset,
    named: NamedLabeller,
    labeller: Labeller,
    sought: Sequence[Sought],
    progress: Progress,
) -> Inferences:
    """What the labeller takes each picture for; parts that are there already are not made again.

    Args:
        labeller: the opened ``named``.
        sought: all that is asked about, in file order.

    Raises:
        FinedeficsError: a model cannot be loaded, or the labeller has no number for a sample, which is named.
    """
    identity = named.identity(labeller)
    read = ("samples", "categories", *(["descriptions"] if "description" in labeller.reads else []))
    tables = {table: dataset.manifest["tables"].get(table, {}).get("digest") for table in read}
    place = workspace.labels / digest_of([identity, tables, sorted(labeller.splits)])
    files = {file: list(some) for file, some in groupby(sought, key=lambda one: one.group.file)}
    with lease(workspace.labels / ".leases" / place.name, f"labelling {dataset.name}", progress=progress):
        there = {file.name for file in place.children()}
        missing = [(file, some) for file, some in files.items() if _part(file) not in there]
        work = partial(_Work, named, dataset, place, len(named.categories))
        if isinstance(labeller, FileLabeller):
            # a table is looked up, which needs no pool, and its path need not exist on other nodes
            run_tasks(
                missing,
                partial(_look_up, work=work(labeller)),
                chunk=1,
                label="looking up labels",
                progress=progress,
            )
        else:
            run_in_actors(
                missing,
                partial(_opened, work, named),
                label="inferring labels",
                progress=progress,
                gpus_per_worker=named.gpus_per_worker,
                sizes=[sum(len(one.rows) for one in some) for _, some in missing],
            )
    return Inferences(place)


def _opened(work: Callable[[Labeller], "_Work"], named: NamedLabeller) -> "_Work":
    return work(named.open(reserved_device()))


def _look_up(files: Sequence[tuple[int, Sequence[Sought]]], *, work: "_Work") -> list[int]:
    for file in files:
        work(file)
    return [number for number, _ in files]


class _Work:
    """Asks about the pictures of one samples file and writes the part; lives in an actor."""

    def __init__(
        self, named: NamedLabeller, dataset: Dataset, place: Location, categories: int, labeller: Labeller
    ) -> None:
        self.name, self.dataset, self.place = named.name, dataset, place
        self.categories, self.labeller = categories, labeller

    def __call__(self, file: tuple[int, Sequence[Sought]]) -> None:
        number, sought = file
        rows = sum(group.rows for group in self.dataset.row_groups() if group.file == number)
        part = np.zeros((rows, 3), np.float32)
        part[:, 0] = NOT_ASKED
        # a group of pictures is held at a time; of texts all of a file, of which equal ones are read once
        held = [[one] for one in sought] if "image" in self.labeller.reads else [sought]
        for some in held:
            if isinstance(self.labeller, FileLabeller):
                places, found = self._looked_up(self.labeller, some)
            else:
                places, found = self._asked(some)
            if len(places):
                part[places] = np.stack([found.positions, found.probability, found.margin], 1)
        write_array(self.place / _part(number), part)

    def _asked(self, sought: Sequence[Sought]) -> tuple[list[int], Inferred]:
        """Rows of the file that could be asked about; neither labels nor sources are read."""
        reads = self.labeller.reads
        columns = {"samples": ["sample_id", *(["image"] if "image" in reads else [])]}
        if "description" in reads:
            columns["descriptions"] = ["description"]
        places, pictures = [], []
        for one in sought:
            told = self.dataset.read(one.group, columns).take(list(one.rows)).to_pylist()
            for row, picture in zip(one.rows, told, strict=True):
                if "description" not in reads or picture["description"]:
                    places.append(one.start + row)
                    pictures.append(Unnamed(**picture))
        found = self.labeller(pictures) if pictures else Inferred.nothing(0)
        self._check(found, pictures)
        return places, found

    def _looked_up(self, labeller: FileLabeller, sought: Sequence[Sought]) -> tuple[list[int], Inferred]:
        """Rows of the file that the table names."""
        places: list[int] = []
        ids: list[str] = []
        sources: list[str] = []
        for one in sought:
            told = self.dataset.read(one.group, {"samples": ["sample_id", "source"]}).take(list(one.rows))
            names = told["sample_id"].to_pylist(), told["source"].to_pylist()
            for row, match, sample_id, source in zip(one.rows, labeller.matches(*names), *names, strict=True):
                if match is not None:
                    places.append(one.start + row)
                    ids.append(sample_id)
                    sources.append(source)
        return places, labeller.look_up(ids, sources)

    def _check(self, found: Inferred, pictures: Sequence[Unnamed]) -> None:
        lengths = {len(found.positions), len(found.probability), len(found.margin)}
        cure = "return a position or -1, a probability and a margin for each picture, in their order"
        if lengths != {len(pictures)}:
            raise FinedeficsError(
                f"it answers {sorted(lengths)} times for {len(pictures)} pictures",
                place=f"labeller {self.name}",
                cure=cure,
            )
        positions = np.asarray(found.positions)
        wrong = (positions < NOTHING) | (positions >= self.categories)
        wrong |= ~((np.asarray(found.probability) >= 0) & (np.asarray(found.probability) <= 1 + 1e-6))
        if wrong.any():
            row = int(wrong.argmax())
            raise FinedeficsError(
                f"it gives the category {positions[row]} of {self.categories} the probability "
                f"{float(found.probability[row]):g}",
                place=f"labeller {self.name}, sample {pictures[row].sample_id}",
                cure=cure,
            )


def _part(file: int) -> str:
    return f"part-{file:06}.npy"
