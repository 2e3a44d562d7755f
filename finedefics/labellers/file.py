"""The labeller "file:PATH": what pictures were taken for elsewhere, as CSV, JSON lines or Parquet.

A row names a picture by ``sample_id`` or by ``source`` (its path in the ingested folder), and has a column
``category`` (or ``category_id``) with an id or a name. ``probability`` is 1 where it is left out; a row with
an empty category infers nothing.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finedefics.errors import FinedeficsError, reason_of, wrong_use
from finedefics.labellers.contract import LABELLERS, Given, Inferred, Unnamed, needs_argument
from finedefics.records import Category

_KEYS = ("sample_id", "source")
_CATEGORY = ("category_id", "category")
_ROWS = pa.schema([("key", pa.string()), ("position", pa.int32()), ("probability", pa.float32())])


@LABELLERS.register("file")
class FileLabeller:
    """Inferences by sample id or source; the rows are one Arrow table, which tasks share.

    Raises:
        FinedeficsError: the file is missing, or a row of it cannot be read, names no picture or one twice, or
            a category that is not known.
    """

    reads: Sequence[str] = ()
    splits = ("train", "val")

    def __init__(self, given: Given) -> None:
        path = Path(needs_argument("file", given.argument, "labels.csv")).expanduser()
        try:
            content = path.read_bytes()
        except OSError as error:
            raise wrong_use(
                f"cannot be read ({error.strerror})",
                place=str(path),
                cure="name a CSV, JSONL or Parquet file",
            ) from error
        self._digest = hashlib.sha256(content).hexdigest()[:12]
        rows = list(_rows(path, content, given.categories))
        self._rows = pa.Table.from_pylist(rows, _ROWS)
        counts = self._rows["key"].value_counts().to_pylist()
        if twice := sorted(row["values"] for row in counts if row["counts"] > 1):
            raise FinedeficsError(
                f"{len(twice)} pictures are labelled twice, {twice[0]} first",
                place=str(path),
                cure="keep one row a picture",
            )

    @property
    def labeller_id(self) -> str:
        """``file-`` and the digest of the file's content."""
        return f"file-{self._digest}"

    @property
    def rows(self) -> int:
        """How many pictures the file names."""
        return int(self._rows.num_rows)

    def key(self, row: int) -> str:
        """How a row names its picture."""
        return str(self._rows["key"][row].as_py())

    def matches(self, sample_ids: Sequence[str], sources: Sequence[str]) -> list[int | None]:
        """The row of each picture, found by its id, else by its source."""
        known = self._rows["key"].combine_chunks()
        by_id, by_source = (
            pc.index_in(pa.array(keys, pa.string()), value_set=known) for keys in (sample_ids, sources)
        )
        return [int(row) if row is not None else None for row in pc.coalesce(by_id, by_source).to_pylist()]

    def __call__(self, pictures: Sequence[Unnamed]) -> Inferred:
        """Of pictures that are named by their ids."""
        return self.look_up([picture.sample_id for picture in pictures], [""] * len(pictures))

    def look_up(self, sample_ids: Sequence[str], sources: Sequence[str]) -> Inferred:
        """What the file says; nothing of a picture that it does not name."""
        rows = self.matches(sample_ids, sources)
        positions, probability = self._rows["position"].to_numpy(), self._rows["probability"].to_numpy()
        there = [(place, row) for place, row in enumerate(rows) if row is not None and positions[row] >= 0]
        found = Inferred.nothing(len(rows))
        said = np.zeros(len(rows), np.float32)
        for place, row in there:
            found.positions[place], said[place] = positions[row], probability[row]
        return Inferred(found.positions, said, said.copy())


def _rows(path: Path, content: bytes, categories: Sequence[Category]) -> Iterator[dict[str, Any]]:
    # an id goes before a name: that of one category may be the name of another
    known = {one.name.casefold(): number for number, one in enumerate(categories)}
    known |= {one.category_id: number for number, one in enumerate(categories)}
    for where, row in _read(path, content):
        place = f"{path}, {where}"
        key = next((str(row[k]) for k in _KEYS if row.get(k)), None)
        if key is None:
            raise FinedeficsError(
                "this row names no picture", place=place, cure="give it a sample_id or a source"
            )
        if not any(k in row for k in _CATEGORY):
            raise FinedeficsError("there is no category", place=place, cure="name a column `category`")
        said = next((str(row[k]).strip() for k in _CATEGORY if row.get(k)), "")
        position = known.get(said, known.get(said.casefold(), -1)) if said else -1
        if said and position < 0:
            raise FinedeficsError(
                f"there is no category {said!r}", place=place, cure="give an id or a name of this dataset's"
            )
        yield {"key": key, "position": position, "probability": _probability(row, place)}


def _probability(row: Mapping[str, Any], place: str) -> float:
    given = row.get("probability")
    if given is None or given == "":
        return 1.0
    try:
        value = float(given)
    except (TypeError, ValueError):
        value = -1.0
    if not 0 <= value <= 1:
        raise FinedeficsError(
            f"the probability {given!r} is none", place=place, cure="give a number from 0 to 1, or none"
        )
    return value


def _read(path: Path, content: bytes) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if path.suffix.lower() == ".parquet":
        try:
            table = pq.read_table(io.BytesIO(content))
        except (OSError, pa.ArrowException) as error:
            raise FinedeficsError(
                f"no Parquet file that can be read ({reason_of(error)})",
                place=str(path),
                cure="write it again",
            ) from error
        wanted = [name for name in (*_KEYS, *_CATEGORY, "probability") if name in table.column_names]
        yield from ((f"row {number}", row) for number, row in enumerate(table.select(wanted).to_pylist()))
        return
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FinedeficsError("not UTF-8", place=str(path), cure="save it as UTF-8") from error
    if path.suffix.lower() == ".csv":
        for number, cells in enumerate(csv.DictReader(io.StringIO(text, newline="")), start=2):
            yield f"line {number}", {str(name): value for name, value in cells.items() if name}
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {number}", _json_object(line, f"{path}, line {number}")


def _json_object(line: str, place: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise FinedeficsError("not a JSON object", place=place, cure="write one object a line")
    return row
