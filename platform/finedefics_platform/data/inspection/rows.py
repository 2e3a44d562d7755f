"""Single rows of a dataset by their number in file order, read with their row groups only."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finedefics_platform.data.store import Dataset


class Rows:
    """Reads rows of the samples and their companions by number."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._groups = dataset.row_groups()
        self._ends = np.cumsum([group.rows for group in self._groups])

    def read(self, rows: Sequence[int], columns: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
        """The rows in the order asked for; ``columns`` as `Dataset.read` takes them.

        Raises:
            FinedeficsError: a file of the dataset is missing or damaged.
        """
        wanted: dict[int, list[int]] = defaultdict(list)
        for row in rows:
            wanted[int(np.searchsorted(self._ends, row, side="right"))].append(row)
        found: dict[int, dict[str, Any]] = {}
        for number, members in sorted(wanted.items()):
            group = self._groups[number]
            start = int(self._ends[number]) - group.rows
            # not the whole group: its pictures would be made into objects of Python's
            table = self._dataset.read(group, columns).take([row - start for row in members])
            found |= dict(zip(members, table.to_pylist(), strict=True))
        return [found[row] for row in rows]
