"""Invented names of two words: each word is shared by several species, so none alone names one."""

import numpy as np


def _listed(words: str) -> tuple[str, ...]:
    return tuple(words.split())


FIRST_WORDS = _listed(
    """
    alba brin corva dusk ember fenn gilt harrow isle jura karst lorn
    """
)
SECOND_WORDS = _listed(
    """
    tern wren finch lark shrike pipit veery knot dove siskin plover rail
    """
)
# Of worlds that the first twelve do not fit. Their order is kept: it decides which name a species has.
MORE_FIRST_WORDS = _listed(
    """
    moor nord orla penn quill rime sable thorn umber vale wold xeno yarrow zeph arden birch
    cairn dell elden frost glen heath iron juno kelp loch marsh nettle onyx pike reed slate
    tarn upland vesper wisp
    """
)
MORE_SECOND_WORDS = _listed(
    """
    auk bunting crake dunlin egret falcon godwit heron ibis jay kite linnet merlin nuthatch
    oriole petrel quail robin skua thrush vireo warbler whimbrel yellowhammer avocet bittern
    curlew dipper eider fulmar gannet hoopoe jackdaw kestrel lapwing martin
    """
)
FEW = 2 * len(FIRST_WORDS)  # species that the first words name
SHARED_BY = 4  # species that a word of a larger world is shared by, where the lists are long enough
MOST_SPECIES = (len(FIRST_WORDS) + len(MORE_FIRST_WORDS)) ** 2


def names_of(rng: np.random.Generator, count: int) -> list[str]:
    """So many different names, at most `MOST_SPECIES`."""
    words = words_of(count)
    first, second = rng.permutation(words[0]), rng.permutation(words[1])
    size = len(first)
    if count <= FEW:  # every word is shared by two names, of which not all need be used
        names = [f"{first[i % size]} {second[(i + (i // size) * 5) % size]}" for i in range(2 * size)]
        return [names[i] for i in rng.permutation(len(names))[:count]]
    # whole rounds over the words first, so that each is used about equally often
    turns = rng.permutation(size)
    names = [f"{first[i % size]} {second[(i + turns[i // size]) % size]}" for i in range(count)]
    return [names[i] for i in rng.permutation(count)]


def words_of(count: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """First and second words that the names of so many species are made of: as many of each."""
    if count <= FEW:
        return FIRST_WORDS, SECOND_WORDS
    first, second = FIRST_WORDS + MORE_FIRST_WORDS, SECOND_WORDS + MORE_SECOND_WORDS
    size = min(max(count // SHARED_BY, len(FIRST_WORDS)), len(first))
    size = max(size, int(np.ceil(np.sqrt(count))))
    return first[:size], second[:size]
