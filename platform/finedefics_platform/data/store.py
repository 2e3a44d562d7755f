"""Dataset versions: immutable, named by the digest of their content, on a disk or in an object store.

Under ``datasets/<name>/``:

- ``tables/<table>/<digest>.parquet``: files of tables, each under the digest of its rows; shared by versions.
- ``<digest>/manifest.json``: a version; written when its tables are there, so what has one is whole. Files
  are named from ``datasets/<name>/`` on, so that a dataset can be moved and copied.
- ``latest``: the newest version; ``steps/<input digest>``: the version that a finished step made.

The tables `finedefics.records.ALIGNED` are companions of the samples: as many files, the same row groups, one
row a sample in the same order. Whoever reads a row group reads what belongs to it, and joins nothing.

Writing is `finedefics_platform.data.versions`; this module only reads.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pyarrow as pa

from finedefics.errors import FinedeficsError, wrong_use
from finedefics.records import ALIGNED, TABLES, Category, Sample, attributes_from_arrow
from finedefics_platform.base.names import meant
from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.parquet import open_parquet

SCHEMA_VERSION = 3
MANIFEST = "manifest.json"

_MADE_BY = {"descriptions": "describe", "negatives": "mine", "neighbours": "mine", "labels": "label"}
_OF_A_SAMPLE = {
    "samples": ("sample_id", "image", "category_id"),
    "descriptions": ("description", "attributes"),
    "negatives": ("candidates",),
}
_WITHOUT_BYTES = ("sample_id", "category_id")


@dataclass(frozen=True)
class RowGroup:
    """A row group of the samples; all its rows have one split, and either all or none have a label.

    Attributes:
        number: position among all row groups of the version.
        file: position among the samples' files.
        index: of the row group in its file.
        bytes: of its encoded pictures.
        described: rows with a description.
    """

    number: int
    file: int
    index: int
    rows: int
    bytes: int
    split: str
    labelled: bool
    described: int


class Place(NamedTuple):
    """Where a picture lies."""

    group: RowGroup
    row: int


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
        entry = self.manifest["tables"][table]
        home = Location(entry["home"]) if "home" in entry else self.root.parent
        return [home / way for way in entry["files"]]

    def with_tables(
        self,
        tables: Mapping[str, Mapping[str, Any]],
        provenance: Mapping[str, Any],
        home: Location | None = None,
    ) -> "Dataset":
        """This version with some tables in place of its own; in memory only.

        Args:
            tables: their entries as in a manifest.
            provenance: of each.
            home: where their files are named from; default: the dataset's folder.
        """
        placed = {
            name: dict(entry) if home is None else {**entry, "home": home.uri}
            for name, entry in tables.items()
        }
        manifest = {
            **self.manifest,
            "tables": {**self.manifest["tables"], **placed},
            "provenance": {**self.manifest["provenance"], **provenance},
        }
        return replace(self, manifest=manifest)

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A whole table, or some of its columns, in file order.

        Raises:
            FinedeficsError: the version has no such table yet, or a file of it is missing or damaged.
        """
        return pa.concat_tables(list(self.tables(name, columns)))

    def tables(self, name: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The same file by file, for what is too large to be held; raises as `table`."""
        schema = TABLES[name]
        chosen = list(columns) if columns is not None else schema.names
        wanted = pa.schema([schema.field(column) for column in chosen])
        return (self._read(file, wanted) for file in self.files(name))

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
        return int(self.manifest["provenance"].get("negatives", {}).get("most", 0))

    def inferred_threshold(self) -> float | None:
        """The least probability at which inferred labels had the precision that was wanted; None: there are
        no inferred labels."""
        about = self.manifest["provenance"].get("labels") if self.has("labels") else None
        return float(about["threshold"]) if about else None

    def sure_labels(self) -> int:
        """Pictures whose inferred label is as probable as `inferred_threshold`, 0 without inferred labels."""
        about = self.manifest["provenance"].get("labels") if self.has("labels") else None
        return int(about["accepted"]) if about else 0

    def attribute_names(self) -> list[str]:
        """Names of the attributes that any description carries, sorted."""
        return list(self.manifest["provenance"].get("descriptions", {}).get("attributes", ()))

    def neighbours(self) -> dict[str, list[str]]:
        """For each category its most similar others, most similar first; empty where nothing is mined."""
        if not self.has("neighbours"):
            return {}
        rows = self.table("neighbours").to_pylist()
        return {row["category_id"]: [one["category_id"] for one in row["candidates"]] for row in rows}

    def row_groups(self, split: str | None = None) -> list[RowGroup]:
        """Row groups of the samples in file order: of all splits, or of one."""
        names = ["file", "index", "rows", "bytes", "split", "labelled", "described"]
        rows = self.table("row_groups", names).to_pylist()
        groups = [RowGroup(number, **row) for number, row in enumerate(rows)]
        return [group for group in groups if split in (None, group.split)]

    def read(self, group: RowGroup, columns: Mapping[str, Sequence[str]]) -> pa.Table:
        """Some columns of a row group side by side; picture bytes stay encoded.

        Args:
            columns: of the samples and their companions, by table; no name twice. A companion that this
                version lacks gives nulls.

        Raises:
            FinedeficsError: a file is missing or damaged.
        """
        read: dict[str, pa.ChunkedArray] = {}
        for name, chosen in columns.items():
            schema = pa.schema([TABLES[name].field(column) for column in chosen])
            if self.has(name) or name not in ALIGNED:
                found = self._read_group(self.files(name)[group.file], group, schema)
                read |= {column: found[column] for column in schema.names}
            else:
                read |= {field.name: pa.nulls(group.rows, field.type) for field in schema}
        return pa.table(read)

    def groups_of_file(self) -> list[list[RowGroup]]:
        """The row groups of every samples file, in order: what one task reads."""
        files: list[list[RowGroup]] = [[] for _ in self.files("samples")]
        for group in self.row_groups():
            files[group.file].append(group)
        return files

    def samples(self, split: str, limit: int | None = None) -> list[Sample]:
        """Pictures of a split joined with descriptions and negatives, in file order, at most ``limit``.

        Holds every picture's bytes in memory: meant for evaluation and small sets.
        """
        found: list[Sample] = []
        for group in self.row_groups(split):
            found += samples_of(self.read(group, _OF_A_SAMPLE))
            if limit is not None and len(found) >= limit:
                break
        return found[:limit]

    def labelled(self, split: str) -> Iterator[Sample]:
        """Labelled pictures of a split in file order, without their bytes; a row group is held at a time."""
        for group in self.row_groups(split):
            if group.labelled:
                yield from samples_of(self.read(group, {**_OF_A_SAMPLE, "samples": _WITHOUT_BYTES}))

    def labelled_places(self, split: str, positions: Sequence[int]) -> list[Place]:
        """Where those of `labelled` at some positions lie, in ascending order; opens no file of pictures."""
        found, wanted, start = [], set(positions), 0
        for group in self.row_groups(split):
            if group.labelled:
                found += [Place(group, row) for row in range(group.rows) if start + row in wanted]
                start += group.rows
        return found

    def samples_at(
        self, places: Sequence[Place], columns: Mapping[str, Sequence[str]] | None = None
    ) -> list[Sample]:
        """Pictures by where they lie, in the order of the places; a row group is read once.

        Args:
            columns: of the samples and their companions; default: all that a sample holds.
        """
        wanted: dict[RowGroup, set[int]] = {}
        for place in places:
            wanted.setdefault(place.group, set()).add(place.row)
        found: dict[Place, Sample] = {}
        for group, rows in wanted.items():
            own = sorted(rows)
            read = samples_of(self.read(group, columns or _OF_A_SAMPLE).take(own))
            found |= {Place(group, row): sample for row, sample in zip(own, read, strict=True)}
        return [found[place] for place in places]

    def _read_group(self, file: Location, group: RowGroup, schema: pa.Schema) -> pa.Table:
        try:
            rows = open_parquet(file).read_row_group(group.index, columns=schema.names)
            if rows.num_rows != group.rows:
                raise OSError(f"{rows.num_rows} rows, not {group.rows}")
            return rows.select(schema.names).cast(schema)
        except (KeyError, OSError, pa.ArrowException) as error:
            raise self._damaged(file) from error

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

    def _damaged(self, file: Location) -> FinedeficsError:
        return FinedeficsError(
            "this file of the dataset is missing or damaged",
            place=str(file),
            cure="remove it and run the same `finedefics data` commands again: what is missing is made again",
        )


def samples_of(rows: pa.Table) -> list[Sample]:
    """Rows with the column sample_id, and what there is of image, category_id, description, attributes and
    candidates."""
    return [
        Sample(
            sample_id=row["sample_id"],
            image=row.get("image", b""),
            category_id=row.get("category_id"),
            description=row.get("description"),
            attributes=attributes_from_arrow(row.get("attributes")),
            negatives=tuple(one["category_id"] for one in row.get("candidates") or ()),
        )
        for row in rows.to_pylist()
    ]


def open_dataset(workspace: Workspace, reference: str | os.PathLike[str] | Location) -> Dataset:
    """Open ``birds`` or ``birds@latest`` (its newest version), ``birds@<digest prefix>``, or a version by its
    path or URI.

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
        known = dataset_names(workspace)
        cure = f"{meant(name, known)}choose one of: {', '.join(known)}"
        if not known:
            cure = f"make one with `finedefics data ingest` (looked in {workspace.datasets})"
        raise wrong_use("there is no such dataset", place=text, cure=cure)
    is_newest = prefix in ("", "latest")
    return open_version(home / (latest_digest(home) if is_newest else _match(home, prefix, text)))


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
