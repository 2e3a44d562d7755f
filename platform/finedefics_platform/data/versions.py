"""Writing dataset versions: tables first, each under the digest of its rows; the manifest last.

A writer that is killed leaves tables and no manifest: nobody takes them for a version, and the next run goes
on with them. A step makes a new version from an older one; tables it does not touch are named again, so a
version costs only what is new in it.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from finedefics.errors import FinedeficsError, wrong_use
from finedefics.records import TABLES
from finedefics_platform.base.digest import digest_of
from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.parquet import TABLES_FOLDER, Part, write_part
from finedefics_platform.data.store import (
    MANIFEST,
    SCHEMA_VERSION,
    Dataset,
    latest_digest,
    open_version,
    versions,
)

_ABANDONED_AFTER = timedelta(days=1)


class Draft:
    """A version being made; `publish` makes it visible in one step."""

    def __init__(self, home: Location) -> None:
        self.home = home
        self._tables: dict[str, dict[str, Any]] = {}
        self._provenance: dict[str, dict[str, Any]] = {}
        self._counts: dict[str, dict[str, int]] = {}
        self._parent: Dataset | None = None

    def write(self, name: str, rows: pa.Table, provenance: Mapping[str, Any]) -> None:
        """Write a small table as one file; FinedeficsError where the place cannot be written to."""
        self.parts(name, [write_part(self.home, name, [rows.cast(TABLES[name])])], provenance)

    def parts(self, name: str, parts: Sequence[Part], provenance: Mapping[str, Any]) -> None:
        """Say which files make up a table, in order; tasks have written them (`write_part`)."""
        self._tables[name] = {
            "digest": digest_of([name, [part.digest for part in parts]]),
            "rows": sum(part.rows for part in parts),
            "files": [part.way for part in parts],
        }
        self._provenance[name] = dict(provenance)

    def count(self, counts: Mapping[str, Mapping[str, int]]) -> None:
        """Say how many pictures each split has of each category; "" counts those without a label."""
        self._counts = {split: dict(sorted(counts[split].items())) for split in sorted(counts)}

    def keep(self, parent: Dataset, tables: Sequence[str]) -> None:
        """Carry tables of an older version over: they are shared, not copied."""
        self._parent = parent
        for name in tables:
            self._tables[name] = parent.manifest["tables"][name]
            self._provenance[name] = parent.manifest["provenance"][name]
        if "samples" in tables:
            self._counts = parent.manifest["counts"]

    def publish(self, step: str) -> Dataset:
        """Finish the version, record it as the result of ``step`` (an input digest) and as the newest.

        Raises:
            FinedeficsError: a file that a task has written is not where this process looks for it.
        """
        for way in sorted(_missing(self.home, self._tables)):
            raise FinedeficsError(
                "a file that was written is not here",
                place=str(self.home / way),
                cure="run it again; on a cluster, put FINEDEFICS_HOME on storage that every node shares",
            )
        contents = {name: table["digest"] for name, table in self._tables.items()}
        digest = digest_of([SCHEMA_VERSION, contents])
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "name": self.home.name,
            "digest": digest,
            "parent": self._parent.digest if self._parent else None,
            "tables": self._tables,
            "counts": self._counts,
            "provenance": self._provenance,
        }
        if _opened(self.home / digest) is None:
            (self.home / digest / MANIFEST).write_json(manifest, indent=2)
        (self.home / "steps" / step).write_text(f"{digest}\n")
        (self.home / "latest").write_text(f"{digest}\n")
        _sweep(self.home)
        return open_version(self.home / digest)


def new_version(workspace: Workspace, name: str) -> Draft:
    """A draft of a version of dataset ``name``.

    Raises:
        FinedeficsError: the name cannot be that of a folder and a reference (exit code 2).
    """
    return Draft(_home(workspace, name))


def finished_step(workspace: Workspace, name: str, step: str) -> Dataset | None:
    """The version that a step with this input digest made before, made the newest again; else None.

    Where the newest version was itself built on that one (described, mined), it stays the newest. A version
    of which something is missing is none: the step makes it whole again.

    Raises:
        FinedeficsError: the name cannot be that of a dataset (exit code 2), or the store does not answer.
    """
    home = _home(workspace, name)
    try:
        digest = (home / "steps" / step).read_text().strip()
    except FileNotFoundError:
        return None
    made = _opened(home / digest)
    if made is None or _missing(home, made.manifest["tables"]):
        return None
    # whoever published it may have been cut off before it was made the newest
    newest = latest_digest(home) if (home / "latest").is_file() else None
    if not _descends(home, newest, digest):
        (home / "latest").write_text(f"{digest}\n")
    return made


def lease_of(workspace: Workspace, name: str, step: str) -> Location:
    """Where whoever makes this step holds its lease: apart from the dataset, which need not come to be."""
    return workspace.datasets / ".leases" / name / step


def check_name(name: str) -> None:
    """FinedeficsError (exit code 2) where a dataset cannot be called so."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise wrong_use(
            "not a name for a dataset",
            place=repr(name),
            cure="use letters, digits and . - _",
        )


def _home(workspace: Workspace, name: str) -> Location:
    check_name(name)
    return workspace.datasets / name


def _opened(root: Location) -> Dataset | None:
    """The version, or None where there is none that can be used: removed by hand, damaged, or too old."""
    try:
        return open_version(root)
    except FinedeficsError:
        return None


def _missing(home: Location, tables: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Ways of the tables' files that are not there."""
    ways = {way for table in tables.values() for way in table["files"]}
    folders = {way.rpartition("/")[0] for way in ways}
    return ways - {f"{folder}/{file}" for folder in folders for file in (home / folder).files()}


def _descends(home: Location, digest: str | None, ancestor: str) -> bool:
    while digest:
        if digest == ancestor:
            return True
        version = _opened(home / digest)
        digest = version.manifest["parent"] if version else None
    return False


def _sweep(home: Location) -> None:
    """Remove files of tables that no version names.

    A run that is under way writes a file more often than once a day; what it has so far stays.
    """
    found = unnamed(home)
    if all(map(_is_abandoned, found)):
        for file in found:
            file.delete()


def unnamed(home: Location) -> list[Location]:
    """Files of tables that no version of a dataset names: of drivers that were killed, of versions removed.

    None where a version cannot be read: what it names is not known.
    """
    named: set[str] = set()
    for version in versions(home):
        manifest = _opened(home / version)
        if manifest is None:
            return []
        named |= {way for table in manifest.manifest["tables"].values() for way in table["files"]}
    ways = {f"{TABLES_FOLDER}/{way}" for way in (home / TABLES_FOLDER).files()}
    return [home / way for way in sorted(ways - named)]


def _is_abandoned(file: Location) -> bool:
    try:
        return datetime.now(UTC) - file.modified() > _ABANDONED_AFTER
    except FileNotFoundError:  # somebody else sweeps
        return True
