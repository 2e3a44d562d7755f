"""Attributes as a phrase: one wording, so that equal attributes give equal text."""

from collections.abc import Mapping

WORDING = "{value} {name}"


def write_description(attributes: Mapping[str, str], wording: str = WORDING) -> str:
    """Attributes as a phrase: ``{"crown": "red", "wing_bars": "2"}`` gives "red crown and 2 wing bars"."""
    phrases = [
        wording.format(name=name.replace("_", " "), value=value)
        for name, value in attributes.items()
        if value
    ]
    return " and ".join(filter(None, [", ".join(phrases[:-1]), *phrases[-1:]]))
