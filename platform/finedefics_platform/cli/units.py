"""Sizes and lengths of time as a person reads and writes them."""

import re
from datetime import timedelta

from finedefics.errors import wrong_use

_UNITS = {"d": "days", "h": "hours", "m": "minutes"}


def size(count: float) -> str:
    """Bytes: ``17 MiB``."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def age(length: timedelta) -> str:
    """A length of time, in the unit that says enough of it: ``3 days``."""
    hours = length.total_seconds() / 3600
    if hours >= 48:
        return f"{hours / 24:.0f} days"
    return f"{hours:.0f} hours" if hours >= 2 else f"{hours * 60:.0f} minutes"


def duration(text: str) -> timedelta:
    """``7d``, ``12h`` or ``30m``; FinedeficsError (exit code 2) for anything else."""
    if (match := re.fullmatch(r"(\d{1,6})([dhm])", text.strip())) is None:
        raise wrong_use("not a length of time", place=f"--older-than {text}", cure="write 7d, 12h or 30m")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})
