"""The miner "confusions": what a model took each category for, as its evaluation recorded it."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finedefics.errors import FinedeficsError, wrong_use
from finedefics.mining.base import KEEP, MINERS, Confusable, Ranking
from finedefics.records import Category

_COLUMNS = ["category_id", "predicted", "scope"]


@MINERS.register("confusions")
class ConfusionMiner:
    """Ranks by how often answers took one category for the other, in either direction.

    Similarity is the number of such answers over those that the picture's own category was asked about.
    Counted are answers among all categories. A picture without a label has no candidates: what it shows was
    never judged.

    Args:
        argument: the folder of an evaluation of the split ``val``: answers on test pictures must not decide
            what is trained, or the test would be trained for.

    Raises:
        FinedeficsError: no evaluation is there, it is of another split, or it confused nothing.
    """

    def __init__(self, categories: Sequence[Category], argument: str | None = None) -> None:
        items = _items(argument)
        self._known = {category.category_id for category in categories}
        wide = items.filter(pc.equal(items["scope"], "all"))
        pairs = zip(wide["category_id"].to_pylist(), wide["predicted"].to_pylist(), strict=True)
        counted = Counter((true, said) for true, said in pairs if true in self._known)
        self._asked: Counter[str] = Counter()
        self._confused: dict[str, Counter[str]] = {}
        for (true, said), times in counted.items():
            self._asked[true] += times
            if said is not None and said != true and said in self._known:
                for one, other in ((true, said), (said, true)):
                    self._confused.setdefault(one, Counter())[other] += times
        if not self._confused:
            raise FinedeficsError(
                "its answers confuse no two categories of this dataset",
                place=f"miner confusions:{argument}",
                cure="choose the evaluation of a model on these categories, or another miner",
            )
        said_of = json.dumps(sorted((t, s or "", n) for (t, s), n in counted.items()))
        self.miner_id = f"confusions-{hashlib.sha256(said_of.encode()).hexdigest()[:12]}"

    def __call__(self, pictures: Sequence[Confusable], keep: int = KEEP) -> list[Ranking]:
        """At most ``keep`` candidates a picture; none for a category that is never confused."""
        ranked: dict[str | None, Ranking] = {None: []}
        for picture in pictures:
            if (own := picture.category_id) not in ranked:
                ranked[own] = self._rank(str(own), keep)
        return [list(ranked[picture.category_id]) for picture in pictures]

    def _rank(self, own: str, keep: int) -> Ranking:
        others = self._confused.get(own, Counter())
        asked = max(1, self._asked[own])
        return [(o, n / asked) for o, n in sorted(others.items(), key=lambda one: (-one[1], one[0]))[:keep]]


def _items(argument: str | None) -> pa.Table:
    if not argument:
        raise wrong_use(
            "it does not say whose confusions", place="miner 'confusions'", cure="write confusions:EVALUATION"
        )
    folder = Path(argument).expanduser()
    try:
        split = json.loads((folder / "summary.json").read_text())["split"]
        items = pq.read_table(folder / "items.parquet", columns=_COLUMNS)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise FinedeficsError(
            f"no evaluation can be read here ({type(error).__name__})",
            place=str(folder),
            cure="give an evaluation of `finedefics evaluate … --split val`",
        ) from error
    if split != "val":
        raise wrong_use(
            f"these are answers on the split {split}, and negatives decide what is trained",
            place=f"miner confusions:{argument}",
            cure="evaluate the model with --split val, and name that evaluation",
        )
    return items
