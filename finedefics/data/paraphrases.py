"""One value in many wordings, as a model that is asked a picture at a time words it: a function of a seed."""

from collections.abc import Mapping

import numpy as np

_ISH = {"red": "reddish", "white": "whitish", "blue": "bluish", "orange": "orangish"}
_SYNONYMS = {
    "red": ("crimson", "scarlet"),
    "orange": ("tangerine", "amber"),
    "yellow": ("golden", "lemon"),
    "green": ("emerald", "olive"),
    "blue": ("azure", "navy"),
    "pink": ("rose", "salmon"),
    "white": ("snowy", "ivory"),
    "black": ("ebony", "jet"),
    "no": ("none", "0"),
    "one": ("1", "single"),
    "two": ("2", "double"),
    "three": ("3", "3"),
    "plain": ("unmarked", "uniform"),
    "spotted": ("spots", "speckled"),
    "striped": ("stripes", "streaked"),
}
_COLOURS = ("red", "orange", "yellow", "green", "blue", "pink", "white", "black")
# Shares of the ways in which a value is worded; "as it is" has the rest.
WAYS = {
    "case": 0.05,
    "attribute": 0.12,
    "hedge": 0.08,
    "ish": 0.08,
    "shade": 0.10,
    "synonym": 0.10,
    "error": 0.03,
}


def paraphrased(seen: Mapping[str, str], rng: np.random.Generator) -> dict[str, str]:
    """The same attributes, each value in one of its wordings."""
    return {name: _worded(name, value, rng) for name, value in seen.items()}


def _worded(name: str, value: str, rng: np.random.Generator) -> str:
    ways = [*WAYS, "as it is"]
    way = str(rng.choice(ways, p=[*WAYS.values(), 1 - sum(WAYS.values())]))
    first = bool(rng.integers(2))
    match way:
        case "case":
            return value.upper() if first else value.capitalize()
        case "attribute":
            return f"a {value} {name}" if first else f"{name}: {value}"
        case "hedge":
            return f"mostly {value}" if first else f"it appears {value}"
        case "ish" if value in _COLOURS:
            return _ISH.get(value, f"{value}ish")
        case "shade" if value in _COLOURS:
            return f"bright {value}" if first else f"dark {value}"
        case "synonym":
            return _SYNONYMS[value][first]
        case "error" if len(value) > 4:
            place = int(rng.integers(1, len(value) - 1))
            return value[:place] + value[place + 1 :]
    return value
