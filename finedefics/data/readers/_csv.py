"""Records of CSV text, each by the line that it begins in; a stray quote costs its own line and no other."""

import csv
import io
from collections.abc import Iterator


def records(text: str, delimiter: str = ",") -> Iterator[tuple[int, list[str] | str]]:
    """Every record with its line, counted from 1: its cells (none in an empty line), or why there are none.

    A quote that is never closed, or not where a cell ends, is found long after the line it stands in. Only
    that line is given up: reading goes on in the next.
    """
    lines = list(io.StringIO(text, newline=""))
    begin = 0
    while begin < len(lines):
        first = begin
        reader = csv.reader((lines[i] for i in range(first, len(lines))), delimiter=delimiter, strict=True)
        try:
            for cells in reader:
                yield begin + 1, cells
                begin = first + reader.line_num
            return
        except csv.Error as error:
            yield begin + 1, f"no valid CSV ({error})"
            begin += 1
