"""What an ingest does to pictures: check each, decide which are kept, write the kept ones.

Checking and writing run in tasks; deciding needs all of them at once and only their hashes, so it runs in
one place. Pictures are read again to be written: that is cheap beside decoding, and no process ever holds
more of them than one file.
"""

import hashlib
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from finedefics.data.readers import Entry, category_id
from finedefics.errors import FinedeficsError
from finedefics.records import SAMPLES, SPLITS
from finedefics_platform.base.progress import Progress
from finedefics_platform.base.storage import Location
from finedefics_platform.base.tasks import run_tasks
from finedefics_platform.data.parquet import write_parquet

FORMATS = ("JPEG", "PNG")
ROW_GROUP_ROWS = 64
GROUPS_PER_FILE = 16
_CHECKED_AT_ONCE = 256


@dataclass(frozen=True)
class Checked:
    """A picture as found: its hash and size in pixels, or why it cannot be used."""

    content_hash: str = ""
    width: int = 0
    height: int = 0
    problem: str | None = None


@dataclass(frozen=True)
class Rejected:
    """A picture that was not taken, and why."""

    source: str
    split: str | None
    reason: str


def check_pictures(entries: Sequence[Entry], progress: Progress) -> list[Checked]:
    """Read and decode every picture in Ray tasks; one outcome an entry, in their order."""
    paths = [entry.path for entry in entries]
    return run_tasks(paths, _check_all, chunk=_CHECKED_AT_ONCE, label="checking pictures", progress=progress)


def check_picture(path: str) -> Checked:
    """Read one picture and decode it as training will; never raises for what is in the file."""
    from PIL import Image, UnidentifiedImageError

    from finedefics.rgb import as_rgb

    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        return Checked(problem=f"cannot be read ({getattr(error, 'strerror', None) or error})")
    if not content:
        return Checked(problem="empty file")
    try:
        with warnings.catch_warnings():
            # A picture that is suspiciously large is an error here, not a warning in some worker's log.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as picture:
                kind = picture.format
                picture.verify()
            if kind not in FORMATS:
                return Checked(problem=f"unsupported format {kind} (JPEG and PNG are)")
            with Image.open(io.BytesIO(content)) as picture:
                picture.load()  # verify reads headers and checksums; only decoding finds a cut-off file
                width, height = as_rgb(picture).size
    except UnidentifiedImageError:
        return Checked(problem="not a picture")
    except FinedeficsError as error:
        return Checked(problem=error.thing)
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError and more
        return Checked(problem=f"damaged picture ({error})")
    return Checked(hashlib.sha256(content).hexdigest(), width, height)


def _check_all(paths: Sequence[str]) -> list[Checked]:
    return [check_picture(path) for path in paths]


def admit(
    entries: Sequence[Entry], checked: Sequence[Checked]
) -> tuple[list[tuple[Entry, Checked]], list[Rejected]]:
    """Decide which pictures are kept; order of the input is kept in both results.

    Of one content in several splits only the most held-out split keeps it (test, then val), so that nothing
    is judged on what it was trained on. Within a split the first copy stays; copies with different labels
    all go, as one of the labels is wrong.
    """
    copies: dict[str, list[Entry]] = {}
    for entry, outcome in zip(entries, checked, strict=True):
        if outcome.problem is None:
            copies.setdefault(outcome.content_hash, []).append(entry)
    reasons = {
        source: reason
        for same in copies.values()
        if len(same) > 1
        for source, reason in _judge_copies(same).items()
    }
    kept, rejected = [], []
    for entry, outcome in zip(entries, checked, strict=True):
        if reason := outcome.problem or reasons.get(entry.source):
            rejected.append(Rejected(entry.source, entry.split, reason))
        else:
            kept.append((entry, outcome))
    return kept, rejected


def _judge_copies(same: Sequence[Entry]) -> dict[str, str]:
    """Reasons, by source, of the copies that go."""
    split = max((entry.split for entry in same), key=SPLITS.index)  # SPLITS runs from train to test
    inside = [entry for entry in same if entry.split == split]
    labels = sorted({entry.category for entry in inside if entry.category is not None})
    first = next((entry for entry in inside if entry.category is not None), inside[0])
    reasons = {
        entry.source: f"the same picture is in {split} ({first.source})"
        for entry in same
        if entry.split != split
    }
    for entry in inside:
        if len({category_id(label) for label in labels}) > 1:
            reasons[entry.source] = f"the same picture is labelled {' and '.join(labels)}"
        elif entry is not first:
            reasons[entry.source] = f"a copy of {first.source}"
    return reasons


def sample_rows(kept: Sequence[tuple[Entry, Checked]]) -> tuple[list[dict[str, Any]], dict[str, Entry]]:
    """Rows of the samples table without their pictures, in the order they are stored, and entries by id.

    Sections (train with and without label, val, test) stand one after the other; inside one, ids order the
    pictures, which are hashes: any stretch of rows is a mixture of categories.
    """
    rows, by_id = [], {}
    for entry, outcome in kept:
        identity = f"{outcome.content_hash}\0{entry.source}"
        sample_id = hashlib.sha256(identity.encode()).hexdigest()[:16]
        by_id[sample_id] = entry
        rows.append(
            {
                "sample_id": sample_id,
                "category_id": None if entry.category is None else category_id(entry.category),
                "split": entry.split,
                "width": outcome.width,
                "height": outcome.height,
                "content_hash": outcome.content_hash,
                "source": entry.source,
            }
        )
    rows.sort(key=lambda row: (*_section(row), row["sample_id"]))
    return rows, by_id


def sample_files(
    rows: Sequence[Mapping[str, Any]], row_group_rows: int
) -> dict[str, Sequence[Mapping[str, Any]]]:
    """Which rows each file of the samples table holds, in order: no file mixes sections."""
    files: dict[str, Sequence[Mapping[str, Any]]] = {}
    for section in sorted({_section(row) for row in rows}):
        members = [row for row in rows if _section(row) == section]
        for start in range(0, len(members), step := row_group_rows * GROUPS_PER_FILE):
            files[f"part-{len(files):05d}.parquet"] = members[start : start + step]
    return files


def write_samples(
    files: Mapping[str, Sequence[Mapping[str, Any]]],
    by_id: Mapping[str, Entry],
    folder: Location,
    *,
    row_group_rows: int,
    progress: Progress,
) -> None:
    """Write the pictures into Parquet files in ``folder`` in Ray tasks; files that are there stay.

    Raises:
        FinedeficsError: a picture changed since it was checked, or a file cannot be written.
    """
    there = set(folder.files())
    parts = [
        (folder / name, [(by_id[row["sample_id"]].path, row) for row in rows])
        for name, rows in files.items()
        if name not in there
    ]
    write = partial(_write_parts, row_group_rows=row_group_rows)
    run_tasks(parts, write, chunk=1, label="writing samples", progress=progress)


def _section(row: Mapping[str, Any]) -> tuple[int, bool]:
    return SPLITS.index(row["split"]), row["category_id"] is None


def _write_parts(
    parts: Sequence[tuple[Location, Sequence[tuple[str, Mapping[str, Any]]]]], *, row_group_rows: int
) -> list[int]:
    for file, members in parts:
        write_parquet(file, SAMPLES, _with_pictures(members, row_group_rows))
    return [len(members) for _, members in parts]


def _with_pictures(
    members: Sequence[tuple[str, Mapping[str, Any]]], row_group_rows: int
) -> Iterator[pa.Table]:
    for start in range(0, len(members), row_group_rows):
        rows = [
            {**row, "image": _read_again(path, row["content_hash"])}
            for path, row in members[start : start + row_group_rows]
        ]
        yield pa.Table.from_pylist(rows, schema=SAMPLES)


def _read_again(path: str, content_hash: str) -> bytes:
    try:
        content = Path(path).read_bytes()
    except OSError:
        content = b""
    if hashlib.sha256(content).hexdigest() != content_hash:
        raise FinedeficsError(
            "the picture changed while it was ingested",
            place=path,
            cure="ingest again when the folder is at rest",
        )
    return content
