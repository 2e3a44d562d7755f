"""Texts of any length in a registry's tags: a tag's value is cut or refused beyond a length, none here is."""

from collections.abc import Mapping

PREFIX = "finedefics."
# Registries differ: 5,000 characters in older ones, 65,535 bytes in a database column.
LIMIT = 4000


def spread(key: str, text: str) -> dict[str, str]:
    """The tags that hold a text: its parts under ``key.part1`` …, the beginning last, under ``key``.

    Who writes them one by one, in this order, and dies in between leaves a text that nobody sees.
    """
    pieces = [text[start : start + LIMIT] for start in range(0, len(text), LIMIT)] or [""]
    later = {f"{PREFIX}{key}.part{number}": piece for number, piece in enumerate(pieces[1:], 1)}
    return {**later, f"{PREFIX}{key}": pieces[0]}


def gathered(tags: Mapping[str, str], key: str) -> str | None:
    """The text that `spread` put into tags (without `PREFIX`); None where there is none."""
    if key not in tags:
        return None
    text, number = tags[key], 1
    while (part := tags.get(f"{key}.part{number}")) is not None:
        text, number = text + part, number + 1
    return text
