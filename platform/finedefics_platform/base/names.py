"""What a user may have meant by a name that there is not."""

from collections.abc import Iterable

_ALIKE = 72.0  # of 100: one letter in four may be another


def nearest(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """The names that are most like ``name``, the likest first; empty where none is."""
    from rapidfuzz import fuzz, process, utils

    names = list(dict.fromkeys(known))
    found = process.extract(
        name,
        names,
        # the beginning of a long name, or a key without its digest, is like the whole
        scorer=lambda a, b, **more: max(fuzz.ratio(a, b, **more), fuzz.ratio(a, b[: len(a)], **more) - 1),
        processor=utils.default_process,
        score_cutoff=_ALIKE,
        limit=most,
    )
    return [each[0] for each in found]


def meant(name: str, known: Iterable[str]) -> str:
    """``did you mean X or Y? `` to begin a cure with; empty where nothing is like it."""
    found = nearest(name, known)
    return f"did you mean {' or '.join(found)}? " if found else ""
