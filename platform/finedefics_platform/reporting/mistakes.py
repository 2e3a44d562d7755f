"""Where models go wrong, as a page shows it: a matrix of confusions, pictures, and what was said of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MOST_CATEGORIES = 40  # of a matrix: more cannot be read, and those that are confused come first
NOTHING = -1  # what was named where no category was
_FREQUENT = 8


@dataclass(frozen=True)
class View:
    """One arm's answer: how often each category was given each name.

    Attributes:
        label: of the answer, with what competed.
        pairs: ``{(truth, named): pictures}``, positions among the categories; `NOTHING` for no name.
    """

    arm: str
    label: str
    pairs: Mapping[tuple[int, int], int]

    @property
    def wrong(self) -> int:
        """Pictures named wrongly."""
        return sum(n for (truth, named), n in self.pairs.items() if truth != named)


@dataclass(frozen=True)
class Said:
    """One answer to one picture.

    Attributes:
        named: position of the category, `NOTHING` for none.
        score: the answer's own confidence, higher is surer.
        reply: what the model wrote.
        options: positions of the categories it could choose from, in the order shown.
        position: place of the truth among them.
        words: the model's own description.
    """

    named: int
    score: float | None = None
    reply: str | None = None
    options: Sequence[int] | None = None
    position: int | None = None
    words: str | None = None


@dataclass(frozen=True)
class Shot:
    """A picture that is in the page: JPEG or PNG bytes, already small, and what each view said of it."""

    image: bytes
    truth: int
    said: Mapping[int, Said]


@dataclass(frozen=True)
class Mistakes:
    """What there is to look through.

    Attributes:
        names, groups: of every category.
        views: the answers of all arms.
        default: the view that is seen first.
        shots: pictures of the page, the wrong ones of the default view first.
        note: which pictures were left out.
    """

    names: Sequence[str]
    groups: Sequence[str]
    views: Sequence[View]
    default: int
    shots: Sequence[Shot] = field(default_factory=tuple)
    note: str = ""


def for_page(found: Mistakes) -> dict[str, Any]:
    """What the template and its script are given."""
    view = found.views[found.default]
    order = sorted(range(len(found.names)), key=lambda number: found.names[number].casefold())
    arms = dict.fromkeys(view.arm for view in found.views)
    return {
        "by_arm": [
            (arm, [(n, view.label) for n, view in enumerate(found.views) if view.arm == arm]) for arm in arms
        ],
        "default": found.default,
        "default_label": f"{view.arm}, {view.label}",
        "groups": list(dict.fromkeys(found.groups)),
        "categories": [(number, found.names[number]) for number in order],
        "frequent": _frequent(found, view),
        "left_out": f"{view.wrong} wrong answers by {view.arm}, {view.label}.",
        "shots": [_shot(found, shot) for shot in found.shots],
        "note": found.note,
        "data": {
            "names": list(found.names),
            "groups": list(found.groups),
            "views": [_view(found, view) for view in found.views],
            "shots": [
                {"truth": shot.truth, "said": {str(n): _said(said) for n, said in shot.said.items()}}
                for shot in found.shots
            ],
        },
    }


def _frequent(found: Mistakes, view: View) -> list[dict[str, Any]]:
    of: dict[int, int] = {}
    for (truth, _), n in view.pairs.items():
        of[truth] = of.get(truth, 0) + n
    wrong = [(n, truth, named) for (truth, named), n in view.pairs.items() if truth != named]
    wrong.sort(key=lambda one: (-one[0], one[1], one[2]))
    return [
        {"truth": found.names[truth], "named": _name(found, named), "count": n, "of": of[truth]}
        for n, truth, named in wrong[:_FREQUENT]
        if n > 1
    ]


def _shot(found: Mistakes, shot: Shot) -> dict[str, Any]:
    said = shot.said.get(found.default)
    return {
        "image": shot.image,
        "truth": found.names[shot.truth],
        "group": found.groups[shot.truth],
        "first": said is not None and said.named != shot.truth,
        "said": said and {"correct": said.named == shot.truth, "named": _name(found, said.named)},
    }


def _name(found: Mistakes, number: int) -> str:
    return "nothing" if number == NOTHING else found.names[number]


def _view(found: Mistakes, view: View) -> dict[str, Any]:
    order = matrix_order(view.pairs)
    there = {number for pair in view.pairs for number in pair if number != NOTHING}
    left = ""
    if len(there) > len(order):
        outside = sum(n for (t, p), n in view.pairs.items() if t != p and not {t, p} <= {*order, NOTHING})
        left = (
            f"The {len(order)} of {len(there)} categories with the most wrong answers; {outside} of those "
            "are in rows or columns that are not shown, and among the answers below."
        )
    return {
        "arm": view.arm,
        "label": view.label,
        "pairs": [[truth, named, n] for (truth, named), n in sorted(view.pairs.items())],
        "order": order,
        "nothing": any(named == NOTHING for _, named in view.pairs),
        "left": left,
    }


def matrix_order(pairs: Mapping[tuple[int, int], int], most: int = MOST_CATEGORIES) -> list[int]:
    """The categories of a matrix, those with the most wrong answers, so that confused ones stand together."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    wrong: dict[int, int] = {}
    for (truth, named), n in pairs.items():
        for number in (truth, named):
            if number != NOTHING:
                wrong[number] = wrong.get(number, 0) + (n if truth != named else 0)
    chosen = sorted(wrong, key=lambda number: (-wrong[number], number))[:most]
    if len(chosen) < 3:
        return sorted(chosen)
    chosen.sort()
    place = {number: i for i, number in enumerate(chosen)}
    mixed = np.zeros((len(chosen), len(chosen)))
    for (truth, named), n in pairs.items():
        if truth != named and truth in place and named in place:
            mixed[place[truth], place[named]] += n
            mixed[place[named], place[truth]] += n
    apart = 1 - mixed / max(mixed.max(), 1)
    np.fill_diagonal(apart, 0)
    tree = linkage(squareform(apart, checks=False), "average", optimal_ordering=True)
    return [chosen[i] for i in leaves_list(tree).tolist()]


def _said(said: Said) -> dict[str, Any]:
    told: dict[str, Any] = {"p": said.named}
    if said.score is not None:
        told["s"] = round(float(said.score), 4)
    if said.reply:
        told["r"] = said.reply
    if said.options is not None:
        told |= {"o": list(said.options), "k": said.position}
    if said.words:
        told["w"] = said.words
    return told
