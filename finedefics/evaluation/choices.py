"""Which categories compete for a picture in the multiple choice, and where they come from."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count as natural_numbers

from finedefics.errors import FinedeficsError
from finedefics.records import Sample


@dataclass(frozen=True)
class Choice:
    """The options of one picture.

    Attributes:
        options: category ids, the truth first, then wrong ones: the most similar, then random ones.
        drawn: how many of them are random.
    """

    options: tuple[str, ...]
    drawn: int = 0


def choose_options(
    samples: Sequence[Sample], categories: Sequence[str], count: int, *, seed: int = 0
) -> list[Choice]:
    """The truth of every picture and its most similar wrong categories; random ones where too few are mined.

    Random ones are drawn from the seed and the picture's id alone: they are the same whatever other pictures
    are asked. With fewer categories than options, all categories are the options.

    Args:
        samples: labelled pictures with their mined negatives.
        categories: ids of all that compete.
        count: options a picture, at least 2.

    Raises:
        FinedeficsError: a picture has no label.
    """
    known = sorted(categories)
    there, count = set(known), min(count, len(known))
    choices = []
    for sample in samples:
        if sample.category_id is None:
            raise FinedeficsError(
                "the picture has no label",
                place=f"sample {sample.sample_id}",
                cure="evaluate on a labelled split",
            )
        similar = dict.fromkeys(i for i in sample.negatives if i in there and i != sample.category_id)
        options = [sample.category_id, *similar][:count]
        drawn = _draw(known, set(options), count - len(options), f"{seed}\0{sample.sample_id}")
        choices.append(Choice((*options, *drawn), len(drawn)))
    return choices


def _draw(categories: Sequence[str], taken: set[str], wanted: int, key: str) -> list[str]:
    """So many further categories, by hashes of the key: no generator's algorithm decides a figure."""
    if wanted >= len(categories) - len(taken):
        return [one for one in categories if one not in taken]
    drawn: dict[str, None] = {}
    for turn in natural_numbers():
        if len(drawn) == wanted:
            break
        number = int.from_bytes(hashlib.sha256(f"{key}\0{turn}".encode()).digest()[:8], "big")
        if (one := categories[number % len(categories)]) not in taken:
            drawn.setdefault(one)
    return list(drawn)
