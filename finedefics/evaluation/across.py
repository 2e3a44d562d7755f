"""Several files of replies together: two on the same questions, one method over data sets and over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from finedefics.errors import FinedeficsError
from finedefics.evaluation.clustered import ClusteredEstimate, clustered_difference, clustered_mcnemar
from finedefics.evaluation.predictions import Prediction
from finedefics.evaluation.scored import Scored
from finedefics.evaluation.statistics import (
    Estimate,
    Seeds,
    holm,
    interval,
    mcnemar,
    over_seeds,
    paired_difference,
)


@dataclass(frozen=True)
class Compared:
    """Two files of replies on the questions that both answered; differences are first minus second.

    Attributes:
        first, second: accuracy of each on these questions.
        only_first, only_second: questions that one of them alone answered, which are left out.
        gained, lost: right by the first alone, and by the second alone.
        p: of McNemar's exact test; ``p_clustered`` by category, None of one category.
    """

    data: str
    files: tuple[str, str]
    first: Estimate
    second: Estimate
    difference: Estimate
    clustered: ClusteredEstimate
    gained: int
    lost: int
    p: float
    p_clustered: float | None
    only_first: int
    only_second: int

    def told(self) -> dict[str, Any]:
        """All figures, for a machine."""
        found, wide = self.difference, self.clustered
        return {
            "data": self.data,
            "file": self.files[0],
            "against": self.files[1],
            "accuracy": self.first.mean,
            "accuracy_against": self.second.mean,
            "difference": found.mean,
            "n": found.n,
            "ci95": [found.low, found.high],
            "ci95_clustered": None if wide.low is None else [wide.low, wide.high],
            "categories": wide.clusters,
            "gained": self.gained,
            "lost": self.lost,
            "p": self.p,
            "p_clustered": self.p_clustered,
            "left_out": [self.only_first, self.only_second],
        }


def compare(first: Scored, second: Scored) -> Compared:
    """The paired difference of two files on the questions that both answered.

    A question is the same where picture, truth and the set of options are; the path counts, or where no paths
    are alike the file name.

    Raises:
        FinedeficsError: they have no question in common.
    """
    for key in (_by_path, _by_name):
        left, right = ({key(item): row for row, item in enumerate(s.items)} for s in (first, second))
        whole = len(left) == len(first.items) and len(right) == len(second.items)  # no name means two
        if whole and (common := [one for one in left if one in right]):
            break
    else:
        pictures = {_name(item) for item in first.items} & {_name(item) for item in second.items}
        raise FinedeficsError(
            f"no question in common ({len(pictures)} pictures of one name, asked on other options)",
            place=f"{first.file.name} against {second.file.name}",
            cure="give replies to the same questions: the same pictures with the same options",
        )
    owner = [first.items[left[one]].truth for one in common]
    return _compared(
        first.file.data,
        (first.file.name, second.file.name),
        first.correct[[left[one] for one in common]],
        second.correct[[right[one] for one in common]],
        owner,
        (len(first.items) - len(common), len(second.items) - len(common)),
    )


def compare_tables(first: pa.Table, second: pa.Table, *, data: str, names: tuple[str, str]) -> Compared:
    """The like of two item tables, each of one answer and scope, on the pictures of both.

    Where both tables have ``options``, only pictures that were asked on the same ones are compared.

    Args:
        data: what both are of.
        names: of the two, for messages and figures.

    Raises:
        FinedeficsError: they have no picture in common, or none with the same options.
    """
    left, right = ({row["sample_id"]: row for row in one.to_pylist()} for one in (first, second))
    both = [one for one in left if one in right]
    common = [one for one in both if _same_options(left[one].get("options"), right[one].get("options"))]
    if not common:
        raise FinedeficsError(
            f"no question in common ({len(both)} pictures, asked on other options)",
            place=f"{names[0]} against {names[1]}",
            cure="evaluate with `--options FILE`, the file of questions that the replies are to",
        )
    a, b = (np.array([rows[one]["correct"] for one in common]) for rows in (left, right))
    owner = [left[one]["category_id"] for one in common]
    return _compared(data, names, a, b, owner, (len(left) - len(common), len(right) - len(common)))


def _same_options(one: Sequence[str] | None, other: Sequence[str] | None) -> bool:
    return one is None or other is None or set(one) == set(other)


def _compared(
    data: str,
    files: tuple[str, str],
    a: NDArray[np.bool_],
    b: NDArray[np.bool_],
    owner: Sequence[str],
    alone: tuple[int, int],
) -> Compared:
    test = mcnemar(a, b)
    return Compared(
        data=data,
        files=files,
        first=interval(a),
        second=interval(b),
        difference=paired_difference(a, b),
        clustered=clustered_difference(a, b, owner),
        gained=test.gained,
        lost=test.lost,
        p=test.p,
        p_clustered=clustered_mcnemar(a, b, owner),
        only_first=alone[0],
        only_second=alone[1],
    )


def with_holm(rows: Sequence[Mapping[str, Any]], *names: str) -> list[dict[str, Any]]:
    """Rows with ``<name>_holm`` beside each p of such a name: over all rows that have one."""
    found = [dict(row) for row in rows]
    for name in names:
        having = [row for row in found if row[name] is not None]
        for row, adjusted in zip(having, holm([row[name] for row in having]), strict=True):
            row[f"{name}_holm"] = adjusted
    return found


def seeds_of(scored: Sequence[Scored]) -> dict[str, Seeds]:
    """By data set the mean over its files, where several answered the very same questions (as seeds do)."""
    alike: dict[tuple[str, frozenset[Any]], list[Scored]] = {}
    for one in scored:
        alike.setdefault((one.file.data, frozenset(item.key for item in one.items)), []).append(one)
    return {
        data: over_seeds([one.accuracy.mean for one in group])
        for (data, _), group in alike.items()
        if len(group) > 1
    }


def _by_path(item: Prediction) -> Any:
    return item.key


def _by_name(item: Prediction) -> Any:
    return _name(item), item.truth, frozenset(item.options)


def _name(item: Prediction) -> str:
    return PurePosixPath(item.image.replace("\\", "/")).name
