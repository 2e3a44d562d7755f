"""Writing dataset versions: aside in a draft folder, renamed into place when complete, never changed after.

A step makes a new version from an older one; tables it does not touch are hard-linked, so a version costs
only what is new in it.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finedefics.errors import FinedeficsError, wrong_use
from finedefics_platform.base.digest import digest_of
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.store import SCHEMA_VERSION, STORED_TABLES, Dataset, latest_digest, open_dataset

_ABANDONED_AFTER_SECONDS = 24 * 3600


class Draft:
    """A version being written; `publish` makes it visible in one rename."""

    def __init__(self, workspace: Workspace, name: str, folder: Path) -> None:
        self.workspace, self.name, self.folder = workspace, name, folder
        self._tables: dict[str, dict[str, Any]] = {}
        self._provenance: dict[str, dict[str, Any]] = {}
        self._counts: dict[str, dict[str, int]] = {}
        self._parent: Dataset | None = None

    def write(self, name: str, rows: pa.Table, provenance: Mapping[str, Any]) -> None:
        """Write a small table as one file."""
        (self.folder / name).mkdir()
        write_parquet(rows.cast(STORED_TABLES[name]), self.folder / name / "part-00000.parquet")
        self.adopt(name, ["part-00000.parquet"], rows, provenance)

    def adopt(self, name: str, files: Sequence[str], rows: pa.Table, provenance: Mapping[str, Any]) -> None:
        """Take up files that tasks wrote under ``folder/name``.

        Args:
            files: their names, in order.
            rows: the table's rows in file order; of the samples, everything but the pictures' bytes.
        """
        digest = rows_digest(rows, provenance.get("layout"))
        self._tables[name] = {"digest": digest, "rows": rows.num_rows, "files": list(files)}
        self._provenance[name] = dict(provenance)
        if name == "samples":
            self._counts = _count(rows)

    def keep(self, parent: Dataset, tables: Sequence[str]) -> None:
        """Carry tables of an older version over, by hard link where the file system allows it."""
        self._parent = parent
        for name in tables:
            (self.folder / name).mkdir()
            for file in parent.files(name):
                _link(file, self.folder / name / file.name)
            self._tables[name] = parent.manifest["tables"][name]
            self._provenance[name] = parent.manifest["provenance"][name]
        if "samples" in tables:
            self._counts = parent.manifest["counts"]

    def publish(self, step: str) -> Dataset:
        """Finish the version, record it as the result of ``step`` (an input digest) and as the newest."""
        digest = digest_of({name: table["digest"] for name, table in self._tables.items()})
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "name": self.name,
            "digest": digest,
            "parent": self._parent.digest if self._parent else None,
            "tables": self._tables,
            "counts": self._counts,
            "provenance": self._provenance,
        }
        (self.folder / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
        home = self.folder.parent
        target = home / digest
        if not (target / "manifest.json").is_file():
            try:
                self.folder.rename(target)
            except OSError:  # another process published the same content between the check and the rename
                if not (target / "manifest.json").is_file():
                    raise
        _write_atomically(home / "steps" / step, digest)
        _write_atomically(home / "latest", digest)
        return open_dataset(self.workspace, target)


@contextmanager
def new_version(workspace: Workspace, name: str) -> Iterator[Draft]:
    """A draft of a version of dataset ``name``; what is not published is removed.

    Raises:
        FinedeficsError: the name cannot be that of a folder and a reference (exit code 2), or the disk is
            full or read-only.
    """
    home = _home(workspace, name)
    folder = home / f".draft-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        (home / "steps").mkdir(parents=True, exist_ok=True)
        _sweep(home)
        folder.mkdir()
        yield Draft(workspace, name, folder)
    except OSError as error:
        raise FinedeficsError(
            f"cannot write the dataset ({error.strerror or error})",
            place=str(error.filename or home),
            cure="free space or set FINEDEFICS_HOME to a folder you may write to",
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def finished_step(workspace: Workspace, name: str, step: str) -> Dataset | None:
    """The version that a step with this input digest made before, made the newest again; else None.

    Where the newest version was itself built on that one (described, mined), it stays the newest.
    """
    home = _home(workspace, name)
    try:
        digest = (home / "steps" / step).read_text().strip()
    except OSError:
        return None
    if not (home / digest / "manifest.json").is_file():  # removed by hand: make it again
        return None
    made = open_dataset(workspace, home / digest)
    if not _descends(workspace, home, latest_digest(home), digest):
        _write_atomically(home / "latest", digest)
    return made


def write_parquet(rows: pa.Table, path: Path, row_group_rows: int | None = None) -> None:
    """Write a file aside and rename it, so that a half-written one is never found under its name."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    # Pictures are compressed already, and dictionary pages of them would only be tried and thrown away.
    dictionary = [column for column in rows.column_names if column in ("category_id", "split")]
    pq.write_table(rows, aside, row_group_size=row_group_rows, use_dictionary=dictionary, compression="zstd")
    aside.replace(path)


def rows_digest(rows: pa.Table, layout: Any = None) -> str:
    """Digest of a table's content and row order; a picture counts by its content hash.

    Args:
        layout: how rows are cut into row groups, where that matters to who reads them.
    """
    if "image" in rows.column_names:
        rows = rows.drop_columns(["image"])
    sha = hashlib.sha256(json.dumps([rows.column_names, layout]).encode())
    for batch in rows.to_batches(max_chunksize=4096):
        for row in batch.to_pylist():
            sha.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return sha.hexdigest()


def _home(workspace: Workspace, name: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise wrong_use(
            "not a name for a dataset",
            place=repr(name),
            cure="use letters, digits and . - _",
        )
    return workspace.local.datasets / name


def _count(rows: pa.Table) -> dict[str, dict[str, int]]:
    pairs = zip(rows["split"].to_pylist(), rows["category_id"].to_pylist(), strict=True)
    counts: dict[str, dict[str, int]] = {}
    for (split, category), number in sorted(Counter((s, c or "") for s, c in pairs).items()):
        counts.setdefault(split, {})[category] = number
    return counts


def _descends(workspace: Workspace, home: Path, digest: str | None, ancestor: str) -> bool:
    while digest:
        if digest == ancestor:
            return True
        if not (home / digest / "manifest.json").is_file():
            return False
        digest = open_dataset(workspace, home / digest).manifest["parent"]
    return False


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another device, or a file system without hard links
        shutil.copyfile(source, target)


def _write_atomically(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    aside.write_text(text + "\n")
    aside.replace(path)


def _sweep(home: Path) -> None:
    # A draft whose writer was killed is never taken up again; one a day old has no living writer.
    for draft in home.glob(".draft-*"):
        try:
            if time.time() - draft.stat().st_mtime > _ABANDONED_AFTER_SECONDS:
                shutil.rmtree(draft, ignore_errors=True)
        except FileNotFoundError:
            continue
