"""The describer "file:PATH": descriptions that somebody made elsewhere, as JSON lines or CSV.

A row names a picture by ``sample_id`` (or ``id``) or by ``source`` (or ``image``: its path in the ingested
folder), and has ``description``, ``attributes`` (a JSON object) or both. In a CSV every other column is an
attribute, and an empty cell is one that is not visible.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from finedefics.describers.contract import DESCRIBERS, Description, Given, Subject
from finedefics.errors import FinedeficsError, wrong_use

_KEYS = ("sample_id", "id", "source", "image")
_ROWS = pa.schema([("key", pa.string()), ("description", pa.string()), ("attributes", pa.string())])


@DESCRIBERS.register("file")
class FileDescriber:
    """Descriptions by sample id or source; the rows are one Arrow table, which tasks share.

    Raises:
        FinedeficsError: the file is missing, or a row of it cannot be read, names no picture or one twice.
    """

    reads_images = False

    def __init__(self, given: Given) -> None:
        if not given.argument:
            raise wrong_use(
                "no file is named", place="describer 'file'", cure="write file:descriptions.jsonl"
            )
        path = Path(given.argument).expanduser()
        try:
            content = path.read_bytes()
            rows = list(_rows(path, content.decode("utf-8-sig")))
        except OSError as error:
            raise wrong_use(
                f"cannot be read ({error.strerror})", place=str(path), cure="name a JSONL or CSV file"
            ) from error
        except UnicodeDecodeError as error:
            raise FinedeficsError("not UTF-8", place=str(path), cure="save it as UTF-8") from error
        self._digest = hashlib.sha256(content).hexdigest()[:12]
        self._rows = pa.Table.from_pylist(rows, _ROWS)
        counts = self._rows["key"].value_counts().to_pylist()
        if twice := sorted(row["values"] for row in counts if row["counts"] > 1):
            raise FinedeficsError(
                f"{len(twice)} pictures are described twice, {twice[0]} first",
                place=str(path),
                cure="keep one row a picture",
            )

    @property
    def describer_id(self) -> str:
        """``file-`` and the digest of the file's content."""
        return f"file-{self._digest}"

    @property
    def rows(self) -> int:
        """How many pictures the file describes."""
        return int(self._rows.num_rows)

    def matches(self, sample_ids: Sequence[str], sources: Sequence[str]) -> list[int | None]:
        """The row of each picture, found by its id, else by its source."""
        by_id, by_source = (
            pc.index_in(pa.array(keys, pa.string()), value_set=self._rows["key"].combine_chunks())
            for keys in (sample_ids, sources)
        )
        return [int(row) if row is not None else None for row in pc.coalesce(by_id, by_source).to_pylist()]

    def key(self, row: int) -> str:
        """How a row names its picture."""
        return str(self._rows["key"][row].as_py())

    def __call__(self, subjects: Sequence[Subject]) -> list[Description | None]:
        """None for a picture that the file does not name."""
        found = self.matches([s.sample_id for s in subjects], [s.source for s in subjects])
        return [None if row is None else self._description(row) for row in found]

    def _description(self, row: int) -> Description | None:
        text = self._rows["description"][row].as_py() or ""
        attributes = json.loads(self._rows["attributes"][row].as_py())
        return Description(text, attributes) if text or attributes else None


def _rows(path: Path, text: str) -> Iterator[dict[str, str | None]]:
    read = _csv(text) if path.suffix.lower() == ".csv" else _json_lines(path, text)
    for number, row in read:
        place = f"{path}, line {number}"
        key = next((str(row[k]) for k in _KEYS if row.get(k)), None)
        if key is None:
            raise FinedeficsError(
                "this row names no picture", place=place, cure="give it a sample_id or a source"
            )
        attributes = row.get("attributes") or {}
        if not isinstance(attributes, dict):
            raise FinedeficsError(
                "its attributes are no JSON object", place=place, cure='write {"crown": "red"}'
            )
        kept = {str(name): str(value).strip() for name, value in attributes.items() if _said(value)}
        description = str(row.get("description") or "").strip()
        yield {"key": key, "description": description, "attributes": json.dumps(kept)}


def _json_lines(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise FinedeficsError(
                "not a JSON object", place=f"{path}, line {number}", cure="write one object a line"
            )
        yield number, row


def _csv(text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, row in enumerate(csv.DictReader(io.StringIO(text, newline="")), start=2):
        cells = {str(name): value for name, value in row.items() if name is not None}
        known = {name: cells.pop(name) for name in (*_KEYS, "description") if name in cells}
        told = cells.pop("attributes", None)
        try:
            yield number, {**known, "attributes": json.loads(told) if told else cells}
        except ValueError:
            yield number, {**known, "attributes": told}


def _said(value: object) -> bool:
    return value is not None and bool(str(value).strip())
