"""The rows of an item table: what was asked of every picture, and what came of an answer's scores."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from finedefics.scoring import best_category, multiple_choice, shown

LABELLED, NEW = "labelled", "new"
ALL, OPTIONS = "all", "options"


@dataclass(frozen=True)
class Questions:
    """Pictures, their truth, and the options of their multiple choice.

    Attributes:
        sample_ids: of the pictures.
        truth: ids of their categories.
        choices: for each picture the positions of its options in ``categories``, the truth among them.
        categories: ids of all that compete.
        labelled: ids of those that had a labelled picture in training; the others are the group "new".
        seed: decides in what order options are shown.
    """

    sample_ids: Sequence[str]
    truth: Sequence[str | None]
    choices: Sequence[Sequence[int]]
    categories: Sequence[str]
    labelled: Collection[str]
    seed: int = 0

    def rows(
        self,
        answer: str,
        scores: Tensor,
        *,
        among_all: bool = True,
        graded: bool = True,
        texts: Sequence[str] = (),
        rotation: int = 0,
    ) -> list[dict[str, Any]]:
        """An answer's rows: one a picture and scope, first of all categories, then of the options.

        A question that has fewer options than ``rotation`` turns them was asked in this order before: it has
        no row.

        Args:
            scores: [pictures, categories].
            among_all: whether every category competed, too; not so where the question lists the options.
            graded: whether the score of what is chosen says how sure the answer is.
            texts: the model's own words, one a picture, or none.
            rotation: how far the order of the options was turned.
        """
        chosen = {ALL: best_category(scores)} if among_all else {}
        chosen[OPTIONS] = multiple_choice(scores, self.choices)
        ids: dict[int | None, str] = dict(enumerate(self.categories))
        return [
            {
                "sample_id": sample_id,
                "category_id": self.truth[row],
                "group": LABELLED if self.truth[row] in self.labelled else NEW,
                "answer": answer,
                "scope": scope,
                "predicted": (predicted := ids.get(best[row])),
                "correct": predicted == self.truth[row],
                "description": texts[row] if texts else None,
                "reply": texts[row] if texts else None,
                "score": float(scores[row, best[row]]) if graded and best[row] is not None else None,
                "rotation": rotation,
                **(self._shown(row, rotation) if scope == OPTIONS else {"options": None, "position": None}),
            }
            for scope, best in chosen.items()
            for row, sample_id in enumerate(self.sample_ids)
            if rotation < len(self.choices[row])
        ]

    def _shown(self, row: int, rotation: int) -> dict[str, Any]:
        order = shown(self.choices[row], seed=self.seed, sample_id=self.sample_ids[row], rotation=rotation)
        options = [self.categories[position] for position in order]
        return {"options": options, "position": options.index(self.truth[row] or "")}
