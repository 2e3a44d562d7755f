"""Memory that this process holds in bytes, now and at its peak, as Linux tells it in ``/proc``."""

import sys
from pathlib import Path

_SELF = Path("/proc/self")


def can_be_told() -> bool:
    """Whether this system tells it, and forgets a peak when it is asked to."""
    return sys.platform == "linux" and (_SELF / "clear_refs").exists()


def resident() -> int:
    """Bytes held now."""
    return _status("VmRSS")


def peak() -> int:
    """Most bytes held since the process started, or since `forget_peak`.

    ``getrusage`` would still tell that of the process this one was started by.
    """
    return _status("VmHWM")


def forget_peak() -> None:
    """The peak counts from now on."""
    (_SELF / "clear_refs").write_text("5")


def _status(key: str) -> int:
    lines = (_SELF / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) * 1024
