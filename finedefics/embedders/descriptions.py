"""Descriptions as counted words: similar is what is described alike. Nothing is learned or downloaded."""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np

from finedefics.embedders._base import EMBEDDERS, Array, Settings, normalised
from finedefics.errors import wrong_use

_DIM = 1024


@EMBEDDERS.register("descriptions")
class CountedWords:
    """Words and pairs of words, weighed by how few categories they are said of (tf-idf), hashed with signs.

    Signed hashing keeps cosines in expectation; 1,024 places hold descriptions of some tens of words well
    apart.
    """

    dim = _DIM

    def __init__(
        self,
        argument: str | None = None,
        settings: Settings | None = None,
        *,
        said_of: Mapping[str, int] | None = None,
        categories: int = 0,
    ) -> None:
        if argument:
            raise wrong_use("it takes no argument", place="embedder 'descriptions'", cure="leave it out")
        self._said_of, self._categories = dict(said_of or {}), categories

    @property
    def embedder_id(self) -> str:
        """With the digest of the words' weights."""
        weights = repr([self._categories, sorted(self._said_of.items())])
        return f"descriptions-{hashlib.sha256(weights.encode()).hexdigest()[:12]}"

    def fit(self, texts: Sequence[str]) -> "CountedWords":
        """This embedder with words weighed by in how many of these texts, of all categories, they occur."""
        said_of = Counter(term for text in texts for term in set(_terms(text)))
        return CountedWords(said_of=said_of, categories=len(texts))

    def embed_texts(self, texts: Sequence[str]) -> Array:
        """[texts, dim], normalised; zeros for a text without a word."""
        rows = np.zeros((len(texts), _DIM))
        for row, text in enumerate(texts):
            for term, times in Counter(_terms(text)).items():
                place, sign = _place(term)
                weight = 1 + math.log((1 + self._categories) / (1 + self._said_of.get(term, 0)))
                rows[row, place] += sign * (1 + math.log(times)) * weight
        return normalised(rows)


def _terms(text: str) -> list[str]:
    words = re.findall(r"\w+", text.casefold())
    return [*words, *(f"{a} {b}" for a, b in pairwise(words))]


@lru_cache(maxsize=1 << 20)
def _place(term: str) -> tuple[int, int]:
    number = int.from_bytes(hashlib.blake2b(term.encode(), digest_size=8).digest(), "big")
    return number % _DIM, 1 if number >> 63 else -1
