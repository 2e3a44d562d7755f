"""Dataset versions: immutable, named by the digest of their content, on a disk or in an object store.

Under ``datasets/<name>/``:

- ``tables/<table>-<digest>/part-*.parquet``: tables, each under the digest of its rows; versions share them.
- ``<digest>/manifest.json``: a version; written when its tables are there, so what has one is whole. Files
  are named from ``datasets/<name>/`` on, so that a dataset can be moved and copied.
- ``latest``: the newest version; ``steps/<input digest>``: the version that a finished step made.

Writing is `finedefics_platform.data.versions`; this module only reads.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finedefics.errors import FinedeficsError, wrong_use
from finedefics.records import ATTRIBUTES, TABLES, Category, Sample, attributes_from_arrow
from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.parquet import open_parquet

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"

# What the source itself said of a picture; the describer "annotations" turns it into descriptions.
ANNOTATIONS = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("description", pa.string()),
        pa.field("attributes", ATTRIBUTES),
        pa.field("negatives", pa.list_(pa.string())),  # ids, hardest first; the miner "provided" takes them
    ]
)
STORED_TABLES = {**TABLES, "annotations": ANNOTATIONS}

_MADE_BY = {"descriptions": "describe", "negatives": "mine"}


@dataclass(frozen=True)
class RowGroup:
    """A row group of a samples file; all its rows have one split, and either all or none have a label."""

    path: str  # URI of the file
    index: int
    rows: int
    split: str
    labelled: bool


@dataclass(frozen=True)
class Companions:
    """What other tables say of a picture, by sample id; small enough to travel to every worker."""

    descriptions: Mapping[str, tuple[str, Mapping[str, str]]]
    negatives: Mapping[str, tuple[str, ...]]

    def sample(self, row: Mapping[str, Any]) -> Sample:
        """Join a row of the samples table (at least sample_id, image, category_id)."""
        description, attributes = self.descriptions.get(row["sample_id"], (None, {}))
        return Sample(
            sample_id=row["sample_id"],
            image=row["image"],
            category_id=row["category_id"],
            description=description,
            attributes=attributes,
            negatives=self.negatives.get(row["sample_id"], ()),
        )


@dataclass(frozen=True)
class Dataset:
    """A dataset version opened for reading; travels pickled to tasks and workers."""

    root: Location
    name: str
    digest: str
    manifest: dict[str, Any]

    @property
    def reference(self) -> str:
        """``name@digest``: names this very version, whatever becomes the newest."""
        return f"{self.name}@{self.digest}"

    def has(self, table: str) -> bool:
        """Whether this version holds the table."""
        return table in self.manifest["tables"]

    def files(self, table: str) -> list[Location]:
        """The table's Parquet files in order; FinedeficsError naming the command that makes it if absent."""
        if not self.has(table):
            command = f"finedefics data {_MADE_BY.get(table, 'ingest')}"
            raise FinedeficsError(
                f"this dataset has no {table} yet", place=self.reference, cure=f"run `{command} {self.name}`"
            )
        return [self.root.parent / way for way in self.manifest["tables"][table]["files"]]

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A whole table, or some of its columns, in file order.

        Raises:
            FinedeficsError: the version has no such table yet, or a file of it is missing or damaged.
        """
        schema = STORED_TABLES[name]
        chosen = list(columns) if columns is not None else schema.names
        wanted = pa.schema([schema.field(column) for column in chosen])
        return pa.concat_tables([self._read(file, wanted) for file in self.files(name)])

    def categories(self) -> list[Category]:
        """Every category, sorted by id; some may have no picture."""
        rows = self.table("categories").sort_by("category_id").to_pylist()
        return [Category(**{**row, "attributes": attributes_from_arrow(row["attributes"])}) for row in rows]

    def labelled_category_ids(self) -> set[str]:
        """Categories with at least one labelled picture in the train split."""
        return {category for category in self.manifest["counts"].get("train", {}) if category}

    def mined_negatives(self) -> int:
        """The most hard negatives that any picture has, 0 where none are mined: more cannot be asked for.

        A picture with fewer has all there are: the miner kept so many, or no more categories conflict with
        it, or its source names no more.
        """
        if not self.has("negatives"):
            return 0
        candidates = self.table("negatives", ["candidates"])["candidates"]
        return int(pc.max(pc.list_value_length(candidates)).as_py() or 0)

    def row_groups(self, split: str | None = None) -> list[RowGroup]:
        """Row groups of the samples in file order: of all splits, or of one."""
        groups = []
        for file in self.files("samples"):
            footer = self._footer(file)
            for index in range(footer.num_row_groups):
                group = _row_group(file, footer, index)
                if split in (None, group.split):
                    groups.append(group)
        return groups

    def companions(self) -> Companions:
        """Descriptions and negatives by sample id; empty where the version has none."""
        descriptions: dict[str, tuple[str, Mapping[str, str]]] = {}
        negatives: dict[str, tuple[str, ...]] = {}
        if self.has("descriptions"):
            for row in self.table("descriptions").to_pylist():
                attributes = attributes_from_arrow(row["attributes"])
                descriptions[row["sample_id"]] = (row["description"], attributes)
        if self.has("negatives"):
            for row in self.table("negatives").to_pylist():
                negatives[row["sample_id"]] = tuple(c["category_id"] for c in row["candidates"])
        return Companions(descriptions, negatives)

    def samples(self, split: str, limit: int | None = None) -> list[Sample]:
        """Pictures of a split joined with descriptions and negatives, in file order, at most ``limit``.

        Holds every picture's bytes in memory: meant for evaluation and small sets.
        """
        companions, samples = self.companions(), []
        for group in self.row_groups(split):
            rows = read_row_group(group, ["sample_id", "image", "category_id"]).to_pylist()
            samples += [companions.sample(row) for row in rows]
            if limit is not None and len(samples) >= limit:
                break
        return samples[:limit]

    def _read(self, file: Location, schema: pa.Schema) -> pa.Table:
        """The schema's columns; one that came after the version was made is empty, where it may be."""
        try:
            stored = open_parquet(file)
            there = set(stored.schema_arrow.names)
            later = [f for f in schema if f.nullable and f.name not in there]
            table = stored.read(columns=[f.name for f in schema if f not in later])
            for column in later:
                table = table.append_column(column, pa.nulls(len(table), column.type))
            return table.select(schema.names).cast(schema)
        except (KeyError, OSError, pa.ArrowException) as error:
            raise self._damaged(file) from error

    def _footer(self, file: Location) -> pq.FileMetaData:
        try:
            return open_parquet(file).metadata
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(file) from error

    def _damaged(self, file: Location) -> FinedeficsError:
        return FinedeficsError(
            "this file of the dataset is missing or damaged",
            place=str(file),
            cure="remove it and run the same `finedefics data` commands again: what is missing is made again",
        )


def read_row_group(group: RowGroup, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of one row group; picture bytes stay encoded."""
    return open_parquet(Location(group.path)).read_row_group(group.index, columns=columns)


def _row_group(file: Location, footer: pq.FileMetaData, index: int) -> RowGroup:
    # A group never mixes splits or labelled and unlabelled rows, so one statistic a column says it all.
    group = footer.row_group(index)
    statistics = {
        group.column(c).path_in_schema: group.column(c).statistics for c in range(group.num_columns)
    }
    return RowGroup(
        path=file.uri,
        index=index,
        rows=group.num_rows,
        split=statistics["split"].min,
        labelled=statistics["category_id"].null_count == 0,
    )


def open_dataset(workspace: Workspace, reference: str | os.PathLike[str] | Location) -> Dataset:
    """Open ``birds`` (its newest version), ``birds@<digest prefix>``, or a version by its path or URI.

    Raises:
        FinedeficsError: there is no such dataset or version (the message lists the known ones), the prefix
            is ambiguous, or the version is damaged or of another schema.
    """
    text = str(reference)
    place = workspace.place_of(text)
    if (place / MANIFEST).is_file():
        return open_version(place)
    name, _, prefix = text.partition("@")
    home = workspace.datasets / name
    if not name or "/" in name or not home.is_folder():
        known = ", ".join(dataset_names(workspace))
        cure = f"choose one of: {known}" if known else "make one with `finedefics data ingest`"
        raise wrong_use("there is no such dataset", place=text, cure=cure)
    return open_version(home / (_match(home, prefix, text) if prefix else latest_digest(home)))


def open_version(root: Location) -> Dataset:
    """Open the version at ``root``, in a task or worker as well: no workspace is needed.

    Raises:
        FinedeficsError: nothing whole is there, or it is of another schema.
    """
    file = root / MANIFEST
    try:
        manifest = file.read_json()
        version, name, digest = manifest["schema_version"], manifest["name"], manifest["digest"]
    except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
        raise FinedeficsError(
            "the dataset's manifest is missing or damaged", place=str(file), cure="make the version again"
        ) from error
    if version != SCHEMA_VERSION:
        raise FinedeficsError(
            f"this dataset has schema version {version}, and {SCHEMA_VERSION} is read here",
            place=str(file),
            cure="ingest the source again",
        )
    return Dataset(root, name, digest, manifest)


def dataset_names(workspace: Workspace) -> list[str]:
    """Names of the datasets that have a finished version."""
    return [home.name for home in workspace.datasets.children() if (home / "latest").is_file()]


def latest_digest(home: Location) -> str:
    """Digest of the newest version under ``datasets/<name>``; FinedeficsError where none was finished."""
    try:
        return (home / "latest").read_text().strip()
    except FileNotFoundError as error:
        raise FinedeficsError(
            "this dataset has no finished version",
            place=str(home),
            cure="make one with `finedefics data ingest`",
        ) from error


def versions(home: Location) -> list[str]:
    """Digests of the versions under ``datasets/<name>``."""
    return [place.name for place in home.children() if (place / MANIFEST).is_file()]


def _match(home: Location, prefix: str, reference: str) -> str:
    known = versions(home)
    matches = [version for version in known if version.startswith(prefix)]
    if len(matches) != 1:
        thing = "more than one version matches" if matches else "there is no such version"
        raise wrong_use(thing, place=reference, cure=f"choose one of: {', '.join(matches or known)}")
    return matches[0]
