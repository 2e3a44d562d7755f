"""Rows of tables as mappings, whatever file they are in; what cannot be parsed comes with the reason."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from finedefics.data.readers._csv import records
from finedefics.data.tree import Tree, is_text
from finedefics.errors import FinedeficsError, reason_of

_ROWS_AT_ONCE = 4096

Row = tuple[str, dict[str, Any] | str]  # where it stands; the cells, or why there are none


class Rows(Protocol):
    """A table that is read once, row by row."""

    names: Sequence[str]

    def rows(self, columns: Sequence[str], image: str) -> Iterator[Row]:
        """Every row; of a column of pictures as bytes, ``image``, only the path that goes with them."""
        ...

    def has_bytes(self, column: str) -> bool:
        """Whether a column holds the pictures themselves."""
        ...

    def label_names(self, column: str | None) -> Sequence[str]:
        """What the file calls the numbers of a column; empty where it does not."""
        ...


def open_rows(tree: Tree, file: str) -> Rows:
    """The rows of a file, by its suffix.

    Raises:
        FinedeficsError: it cannot be read, or is damaged.
    """
    suffix = file.lower()[file.rindex(".") :] if "." in file else ""
    if suffix == ".parquet":
        return _Parquet(tree, file)
    if suffix in (".jsonl", ".ndjson"):
        return _JsonLines(tree, file)
    return _Separated(tree, file, "\t" if suffix in (".tsv", ".tab") else None)


class _Text:
    """A table as text: no bytes, and no names for numbers."""

    def has_bytes(self, column: str) -> bool:
        return False

    def label_names(self, column: str | None) -> Sequence[str]:
        return ()


class _Separated(_Text):
    def __init__(self, tree: Tree, file: str, delimiter: str | None) -> None:
        text = tree.text(file)
        head = text.partition("\n")[0]
        if delimiter is None:  # spreadsheets of many countries write semicolons
            delimiter = ";" if ";" in head and "," not in head else ","
        self._records = records(text, delimiter)
        _, header = next(self._records, (1, []))
        if isinstance(header, str):
            raise FinedeficsError(
                f"the header is {header}", place=f"{tree.where(file)}, line 1", cure="mend it"
            )
        self.names: Sequence[str] = [name.strip() for name in header]
        if not any(self.names):
            raise FinedeficsError(
                "there is no header", place=tree.where(file), cure="name the columns in line 1"
            )

    def rows(self, columns: Sequence[str], image: str) -> Iterator[Row]:
        for line, cells in self._records:
            where = f"line {line}"
            if isinstance(cells, str):
                yield where, cells
            elif cells and len(cells) != len(self.names):
                yield where, f"{len(cells)} cells, and the header has {len(self.names)}"
            elif cells:
                yield where, dict(zip(self.names, cells, strict=True))


class _JsonLines(_Text):
    def __init__(self, tree: Tree, file: str) -> None:
        self._lines = tree.text(file).split("\n")  # other signs that end a line may stand in a text
        names: dict[str, None] = {}
        for _, row in self._parsed():
            names.update(dict.fromkeys(row if isinstance(row, dict) else ()))
        self.names: Sequence[str] = list(names)

    def rows(self, columns: Sequence[str], image: str) -> Iterator[Row]:
        return self._parsed()

    def _parsed(self) -> Iterator[Row]:
        for number, line in enumerate(self._lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not is_text(json.dumps(row, ensure_ascii=False)):
                yield f"line {number}", "it holds half a character"
            else:
                yield f"line {number}", row if isinstance(row, dict) else "no JSON object"


class _Parquet:
    def __init__(self, tree: Tree, file: str) -> None:
        try:
            self._file = pq.ParquetFile(tree.open(file))
        except (OSError, pa.ArrowException) as error:
            raise FinedeficsError(
                f"no Parquet file that can be read ({reason_of(error)})",
                place=tree.where(file),
                cure="fetch it again",
            ) from error
        self._schema = self._file.schema_arrow
        self._place = tree.where(file)
        self.names: Sequence[str] = self._schema.names
        self._bytes: dict[str, bool] = {}
        self._named = _class_labels(self._schema)

    def rows(self, columns: Sequence[str], image: str) -> Iterator[Row]:
        # pictures stay where they are until they are checked: listing reads the path beside them at most
        leaves = [name for name in columns if name != image or not self.has_bytes(image)]
        if self.has_bytes(image) and _is_pair(self._schema.field(image).type):
            leaves.append(f"{image}.path")
        number = 0
        try:
            for group in range(self._file.num_row_groups):
                if not leaves:
                    for _ in range(self._file.metadata.row_group(group).num_rows):
                        yield f"row {number}", {}
                        number += 1
                    continue
                for batch in self._file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=leaves):
                    for row in batch.to_pylist():
                        yield f"row {number}", self._flat(row, image)
                        number += 1
        except (OSError, pa.ArrowException) as error:
            raise FinedeficsError(
                f"the Parquet file is damaged ({reason_of(error)})",
                place=f"{self._place}, row {number}",
                cure="fetch it again",
            ) from error

    def has_bytes(self, column: str) -> bool:
        if column not in self._bytes:
            kind = self._schema.field(column).type
            binary = bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
            pair = _is_pair(kind) and not self._all_null(f"{column}.bytes")
            self._bytes[column] = binary or pair
        return self._bytes[column]

    def label_names(self, column: str | None) -> Sequence[str]:
        return self._named.get(column or "", ())

    def _all_null(self, leaf: str) -> bool:
        """Whether the bytes of all pictures are left out, and the paths lead to files."""
        for group in range(self._file.num_row_groups):
            found = self._file.metadata.row_group(group)
            for number in range(found.num_columns):
                chunk = found.column(number)
                if chunk.path_in_schema == leaf:
                    seen = chunk.statistics
                    if seen is None or seen.null_count is None or seen.null_count < found.num_rows:
                        return False
        return True

    def _flat(self, row: dict[str, Any], image: str) -> dict[str, Any]:
        value = row.get(image)
        return {**row, image: value.get("path")} if isinstance(value, dict) else row


def _class_labels(schema: pa.Schema) -> dict[str, list[str]]:
    """Names of numbers by column, where the Hugging Face libraries wrote the file."""
    try:
        told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = told.get("info", {}).get("features", {})
        return {
            column: feature["names"]
            for column, feature in features.items()
            if isinstance(feature, dict) and isinstance(feature.get("names"), list)
        }
    except (ValueError, AttributeError):
        return {}


def _is_pair(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind)) and {"bytes", "path"} <= {field.name for field in kind}
