"""Which datasets there are, and the versions of each: counts, tables, sizes; only manifests are read."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finedefics.errors import FinedeficsError
from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.parquet import TABLES_FOLDER
from finedefics_platform.data.store import MANIFEST, Dataset, dataset_names, latest_digest, open_version
from finedefics_platform.data.store import versions as digests

# What says of a table who filled it, by the table.
_MAKERS = {"descriptions": "describer", "negatives": "miner", "labels": "labeller"}


@dataclass(frozen=True)
class Version:
    """A version of a dataset.

    Attributes:
        reference: ``name@digest``.
        latest: whether the dataset's name alone means this one.
        made: when its manifest was written, by the store's clock.
        by: the step that made it: ingest, describe, mine, label.
        parent: digest of the version it was made from.
        pictures: of each split.
        labelled: pictures with a label.
        categories: all, those without a picture too.
        tables: rows by table.
        makers: describer, miner and labeller, where there are such tables.
        bytes: of its files, those that it shares with other versions too.
        own_bytes: of the files that no other version of the dataset names.
    """

    reference: str
    latest: bool
    made: datetime
    by: str
    parent: str | None
    pictures: dict[str, int]
    labelled: int
    categories: int
    tables: dict[str, int]
    makers: dict[str, str]
    bytes: int
    own_bytes: int


@dataclass(frozen=True)
class Listed:
    """A dataset: its versions, newest first, and bytes of its files on the disk or in the store.

    ``unread`` are digests of versions that are damaged or of another schema.
    """

    name: str
    versions: tuple[Version, ...]
    bytes: int
    unread: tuple[str, ...]

    @property
    def latest(self) -> Version | None:
        """What the name alone means; None where that cannot be read."""
        return next((version for version in self.versions if version.latest), None)


def list_datasets(workspace: Workspace) -> list[Listed]:
    """Every dataset with a finished version, by name; asking makes nothing.

    Raises:
        FinedeficsError: the store does not answer.
    """
    return [list_versions(workspace.datasets / name) for name in dataset_names(workspace)]


def list_versions(home: Location) -> Listed:
    """The versions under ``datasets/<name>``; raises as `list_datasets`."""
    opened, unread = {}, []
    for digest in digests(home):
        try:
            opened[digest] = open_version(home / digest)
        except FinedeficsError:
            unread.append(digest)
    sizes = {f"{TABLES_FOLDER}/{way}": size for way, size in (home / TABLES_FOLDER).sizes().items()}
    named = Counter(way for dataset in opened.values() for way in _files(dataset))
    newest = latest_digest(home)
    found = [_version(dataset, opened, sizes, named, newest) for dataset in opened.values()]
    found.sort(key=lambda version: (version.latest, version.made), reverse=True)
    return Listed(home.name, tuple(found), sum(home.sizes().values()), tuple(unread))


def _version(
    dataset: Dataset,
    others: dict[str, Dataset],
    sizes: dict[str, int],
    named: Counter[str],
    newest: str,
) -> Version:
    manifest, files = dataset.manifest, _files(dataset)
    counts: dict[str, dict[str, int]] = manifest["counts"]
    pictures = {split: sum(of.values()) for split, of in counts.items()}
    parent = manifest["parent"]
    return Version(
        reference=dataset.reference,
        latest=dataset.digest == newest,
        made=(dataset.root / MANIFEST).modified(),
        by=_step(dataset, others.get(parent or "")),
        parent=parent,
        pictures=pictures,
        labelled=sum(pictures.values()) - sum(of.get("", 0) for of in counts.values()),
        categories=manifest["tables"]["categories"]["rows"],
        tables={name: table["rows"] for name, table in sorted(manifest["tables"].items())},
        makers=_makers(manifest["provenance"]),
        bytes=sum(sizes.get(way, 0) for way in files),
        own_bytes=sum(sizes.get(way, 0) for way in files if named[way] == 1),
    )


def _files(dataset: Dataset) -> set[str]:
    return {way for table in dataset.manifest["tables"].values() for way in table["files"]}


def _step(dataset: Dataset, parent: Dataset | None) -> str:
    """What made the tables that its parent does not have so."""
    before = parent.manifest["tables"] if parent is not None else {}
    tables = dataset.manifest["tables"]
    steps = Counter(
        about["step"]
        for name, about in dataset.manifest["provenance"].items()
        if "step" in about and tables[name]["digest"] != before.get(name, {}).get("digest")
    )
    return steps.most_common(1)[0][0] if steps else ""


def _makers(provenance: dict[str, dict[str, Any]]) -> dict[str, str]:
    said = {key: provenance.get(table, {}).get(key) for table, key in _MAKERS.items()}
    return {key: str(value) for key, value in said.items() if value}
