"""Embeddings of a dataset's pictures and categories: made once, shared by mining and evaluation.

``embeddings/<digest>/`` holds a part for every file of the samples, ``part-<number>.npy``: float32 [rows,
dim], a row a sample in the order of the file. The digest is of the embedder and of what it read, so equal
samples in other versions share it. A part is written whole; whoever is cut off goes on with what is missing.
"""

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from finedefics.errors import FinedeficsError, wrong_use
from finedefics.records import Category
from finedefics_platform.base.actors import reserved_device, run_in_actors
from finedefics_platform.base.content import model_folder
from finedefics_platform.base.digest import digest_of
from finedefics_platform.base.progress import SILENT, Progress
from finedefics_platform.base.storage import Location, cached, lease
from finedefics_platform.base.workspace import INSIDE, Workspace
from finedefics_platform.data.store import Dataset, RowGroup

if TYPE_CHECKING:
    from finedefics.embedders import Settings

Array = npt.NDArray[np.float32]
ABOUT = "about.json"


@dataclass(frozen=True)
class NamedEmbedder:
    """An embedder as a user called it, which every process opens for itself.

    Attributes:
        make: the registered component.
        argument: what followed the colon.
        place: of the model's folder, where the argument named one.
        settings: precision and batch size.
        corpus: what is said of the categories, for an embedder that weighs words by it.
        gpus_per_worker: of the processes that run it; None: 1 where the cluster has one.
        code: name and digest of the `.py` file that it came from, None for an installed one.
    """

    name: str
    make: Any
    argument: str | None
    place: Location | None
    settings: "Settings"
    corpus: tuple[str, ...] = ()
    gpus_per_worker: float | None = None
    code: str | None = None

    def identity(self, embedder: Any) -> str:
        """All that determines the embeddings; of a file its content too: an id is easily left as it is."""
        return f"{embedder.embedder_id}-{self.code}" if self.code else str(embedder.embedder_id)

    def open(self, device: str = "cpu") -> Any:
        """The embedder, its model brought to this node where it lies elsewhere; no weights are read yet.

        Args:
            device: where its weights will lie: in a process of a pool the GPU that this one reserved, if any.
        """
        settings = replace(self.settings, device=device)
        argument = self.argument if self.place is None else str(model_folder(self.place))
        made = self.make(argument, settings)
        return made.fit(self.corpus) if hasattr(made, "fit") else made


def named_embedder(
    workspace: Workspace,
    spec: str,
    categories: Sequence[Category],
    settings: "Settings | None" = None,
    gpus_per_worker: float | None = None,
) -> NamedEmbedder:
    """Find out what ``clip:google/siglip2-base-patch16-224``, ``vision:~/dino`` or ``mine.py`` means.

    Raises:
        FinedeficsError: the name is unknown (exit code 2).
    """
    from pathlib import Path

    from finedefics.embedders import EMBEDDERS, Settings
    from finedefics.registry import split_spec

    name, argument = (spec, None) if spec.endswith(".py") else split_spec(spec)
    if name == "attributes":
        raise wrong_use(
            "attributes are compared as they are, not embedded", place=spec, cure="use --miner attributes"
        )
    make = EMBEDDERS[name]
    place = None
    if argument and (argument.startswith(INSIDE) or "://" in argument):
        place = workspace.place_of(argument)
    elif argument and Path(argument).expanduser().is_dir():
        place = Location.of(argument)
    corpus = tuple(category.description or category.name for category in categories)
    code = EMBEDDERS.identity(name) if name.endswith(".py") else None
    return NamedEmbedder(spec, make, argument, place, settings or Settings(), corpus, gpus_per_worker, code)


@dataclass(frozen=True)
class Embeddings:
    """Finished embeddings of a dataset; travels pickled to tasks.

    Attributes:
        place: their folder in the workspace.
        embedder_id: of who made them (`NamedEmbedder.identity`).
        dim: width.
        mode: what a picture is compared with (`finedefics.embedders.mode_of`).
        pictures_per_second: of one process, decoding included; 0 where it was not timed.
    """

    place: Location
    embedder_id: str
    dim: int
    mode: str
    pictures_per_second: float

    def part(self, file: int) -> Array:
        """[rows, dim] of the samples file with this number; zeros for a picture without a text to embed."""
        return read_array(self.place / _part(file))


def embed(
    workspace: Workspace, dataset: Dataset, named: NamedEmbedder, progress: Progress = SILENT
) -> Embeddings:
    """The embeddings of every picture of a dataset; parts that are there already are not made again.

    An embedder of texts alone embeds each picture's description, or its category's where it has none.

    Raises:
        FinedeficsError: the embedder cannot be loaded, or an embedding of a sample, which is named, holds NaN
            or infinity.
    """
    from finedefics.embedders import mode_of

    embedder = named.open()
    mode, identity = mode_of(embedder), named.identity(embedder)
    read = ("samples", "descriptions", "categories") if mode == "descriptions" else ("samples",)
    tables = {table: dataset.manifest["tables"].get(table, {}).get("digest") for table in read}
    place = workspace.embeddings / digest_of([identity, mode, tables])
    about = place / ABOUT
    if not about.is_file():
        work = f"embedding {dataset.name}"
        with lease(workspace.embeddings / ".leases" / place.name, work, progress=progress):
            if not about.is_file():
                dim, speed = _make_parts(place, dataset, named, mode, progress)
                about.write_json(
                    {
                        "embedder": identity,
                        "mode": mode,
                        "dim": dim,
                        "pictures_per_second": speed,
                        "tables": tables,
                        "files": len(dataset.files("samples")),
                    }
                )
    else:
        progress.event("skipped", step="embed", embedder=identity)
    said = about.read_json()
    return Embeddings(place, identity, int(said["dim"]), mode, said["pictures_per_second"])


def category_rows(
    embeddings: Embeddings,
    dataset: Dataset,
    named: NamedEmbedder,
    progress: Progress = SILENT,
) -> Array:
    """What pictures are compared with: [categories, dim] in the order of `Dataset.categories`, normalised.

    A row of zeros is of a category that nothing is known of: without a labelled training picture where
    centroids are compared, without a description of its own or of such a picture where descriptions are.
    """
    if embeddings.mode == "texts":
        return text_rows(embeddings, dataset, named, ["sum"], progress)["sum"]
    centroids = _centroids(embeddings, dataset)
    if embeddings.mode == "centroids":
        return centroids
    told = np.array([category.description is not None for category in dataset.categories()])
    texts = text_rows(embeddings, dataset, named, ["descriptions"], progress)["descriptions"]
    return np.where(told[:, None], texts, centroids)


def text_rows(
    embeddings: Embeddings,
    dataset: Dataset,
    named: NamedEmbedder,
    variants: Sequence[str],
    progress: Progress = SILENT,
) -> dict[str, Array]:
    """Embeddings of what is said of categories, [categories, dim], by variant; made once.

    Args:
        variants: ``names``, ``descriptions``, ``sum`` (`finedefics.embedders.embed_categories`).
    """
    categories = dataset.categories()
    said = digest_of([[category.category_id, category.name, category.description] for category in categories])
    places = {variant: embeddings.place / f"texts-{variant}-{said}.npy" for variant in variants}
    missing = [variant for variant, place in places.items() if not place.is_file()]
    if missing:
        (made,) = run_in_actors(
            [(categories, missing)],
            partial(_TextWork, named),
            label="embedding categories",
            progress=progress,
            gpus_per_worker=named.gpus_per_worker,
        )
        for variant, rows in made.items():
            write_array(places[variant], rows)
    return {variant: read_array(place) for variant, place in places.items()}


def _centroids(embeddings: Embeddings, dataset: Dataset) -> Array:
    from finedefics.embedders import Centroids

    ids = [category.category_id for category in dataset.categories()]
    sums = Centroids(ids, embeddings.dim)
    labels = dataset.table("row_groups", ["categories"])["categories"].to_pylist()
    for number, groups in enumerate(dataset.groups_of_file()):
        wanted = [group.split == "train" and group.labelled for group in groups]
        if any(wanted):
            rows, start = embeddings.part(number), 0
            for group, counts in zip(groups, wanted, strict=True):
                if counts:
                    own = [ids[position] for position in labels[group.number]]
                    sums.add(rows[start : start + group.rows], own)
                start += group.rows
    return sums.rows()


def _make_parts(
    place: Location, dataset: Dataset, named: NamedEmbedder, mode: str, progress: Progress
) -> tuple[int, float]:
    """Width, and pictures a second of one process over the parts that were made now."""
    files = dataset.groups_of_file()
    there = {file.name for file in place.children()}
    missing = [number for number in range(len(files)) if _part(number) not in there]
    sizes = [sum(group.rows for group in files[number]) for number in missing]
    seconds = run_in_actors(
        missing,
        partial(_PictureWork, named, dataset, place, mode),
        label="embedding pictures" if mode != "descriptions" else "embedding descriptions",
        progress=progress,
        gpus_per_worker=named.gpus_per_worker,
        sizes=sizes,
    )
    speed = sum(sizes) / sum(seconds) if sum(seconds) else 0.0
    return int(read_array(place / _part(0)).shape[1]), speed


class _PictureWork:
    """Embeds the pictures of one samples file and writes the part; lives in an actor."""

    def __init__(self, named: NamedEmbedder, dataset: Dataset, place: Location, mode: str) -> None:
        self.embedder, self.dataset = named.open(reserved_device()), dataset
        self.place, self.mode = place, mode
        self.files = dataset.groups_of_file()
        self.told = {c.category_id: c.description for c in dataset.categories()}

    def __call__(self, number: int) -> float:
        started = time.perf_counter()
        rows = [self._embed(group) for group in self.files[number]]
        write_array(self.place / _part(number), np.concatenate(rows))
        return time.perf_counter() - started

    def _embed(self, group: RowGroup) -> Array:
        from finedefics.embedders import normalised  # a user's embedder may not do it
        from finedefics.mining import check_finite

        if self.mode == "descriptions":
            return self._embed_descriptions(group)
        rows = self.dataset.read(group, {"samples": ["sample_id", "image"]})
        images, names = rows["image"].to_pylist(), rows["sample_id"].to_pylist()
        try:
            found = np.asarray(self.embedder.embed_pictures(images), np.float32)
        except FinedeficsError:
            self._name_the_sample(images, names)
            raise
        check_finite(found, names, "sample")
        return normalised(found)

    def _name_the_sample(self, images: Sequence[bytes], names: Sequence[str]) -> None:
        """An embedder knows pictures by their number in a call: the first that fails alone is named."""
        for image, name in zip(images, names, strict=True):
            try:
                self.embedder.embed_pictures([image])
            except FinedeficsError as error:
                raise FinedeficsError(error.thing, place=f"sample {name}", cure=error.cure) from error

    def _embed_descriptions(self, group: RowGroup) -> Array:
        from finedefics.embedders import normalised
        from finedefics.mining import check_finite

        columns = {"samples": ["sample_id", "category_id"], "descriptions": ["description"]}
        rows = self.dataset.read(group, columns).to_pylist()
        texts = [row["description"] or self.told.get(row["category_id"]) or "" for row in rows]
        spoken = [place for place, text in enumerate(texts) if text]
        found = np.zeros((len(rows), self.embedder.dim), np.float32)
        if spoken:
            embedded = np.asarray(self.embedder.embed_texts([texts[i] for i in spoken]), np.float32)
            check_finite(embedded, [rows[i]["sample_id"] for i in spoken], "sample")
            found[spoken] = normalised(embedded)
        return found


class _TextWork:
    """Embeds what is said of categories; lives in an actor."""

    def __init__(self, named: NamedEmbedder) -> None:
        self.embedder = named.open(reserved_device())

    def __call__(self, asked: tuple[Sequence[Category], Sequence[Any]]) -> dict[str, Array]:
        from finedefics.embedders import embed_categories

        categories, variants = asked
        return {variant: embed_categories(self.embedder, categories, variant) for variant in variants}


def _part(file: int) -> str:
    return f"part-{file:06}.npy"


def read_array(file: Location) -> Array:
    """An array that `write_array` wrote."""
    return np.load(cached(file), allow_pickle=False)


def write_array(file: Location, rows: Array) -> None:
    """Write an array whole or not at all."""
    content = io.BytesIO()
    np.save(content, rows, allow_pickle=False)
    file.write_bytes(content.getvalue())
