"""How a command that failed says so: one line that names the place, the thing and the cure."""

import errno
import sys
import traceback
from collections.abc import Iterator

from finedefics.errors import FinedeficsError
from finedefics_platform.base.secrets import without_secrets
from finedefics_platform.base.signals import INTERRUPTED, TERMINATED

from .console import Reporter


def interrupted(command: str) -> FinedeficsError:
    """The error of a command that Ctrl-C ended."""
    cure = "run it again, finished steps are skipped"
    return FinedeficsError("interrupted", place=command, cure=cure, exit_code=INTERRUPTED)


def terminated(command: str) -> FinedeficsError:
    """The error of a command that was asked to end (SIGTERM)."""
    cure = "run it again, finished steps are skipped"
    return FinedeficsError("terminated", place=command, cure=cure, exit_code=TERMINATED)


def explain(error: BaseException, command: str) -> FinedeficsError:
    """The error as the user should read it.

    A mistake found inside a Ray task, a training worker or a search trial arrives wrapped; the
    `FinedeficsError` inside speaks. A full disk has its own line. Anything else is named by its type.
    """
    for inner in _chain(error):
        if isinstance(inner, FinedeficsError):
            # Ray's wrapper is an instance of what it wraps, with the remote traceback as its message.
            wrapped = getattr(inner, "cause", None)
            return wrapped if isinstance(wrapped, FinedeficsError) else inner
    for inner in _chain(error):
        if _is_full_disk(inner):
            place = getattr(inner, "filename", None) or "the workspace or the temporary folder"
            cure = "free space, or set FINEDEFICS_HOME (and TMPDIR) to a larger disk"
            return FinedeficsError("the disk is full", place=str(place), cure=cure)
    wrapped = getattr(error, "cause", None)
    if isinstance(wrapped, BaseException):  # Ray's wrapper names its process first
        error = wrapped
    first_line = next(iter(str(error).strip().splitlines()), "")
    thing = f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
    return FinedeficsError(thing, place=command, cure="run again with --debug to see where")


def report(error: FinedeficsError, *, json: bool) -> int:
    """Print the one line (and the last JSON line) of a failed command; returns its exit code."""
    fields = {"thing": error.thing, "place": error.place, "cure": error.cure}
    fields = {name: without_secrets(str(text)) for name, text in fields.items()}
    Reporter(json=json).event("failed", error=fields)
    print(f"error: {without_secrets(str(error))}", file=sys.stderr)
    return error.exit_code


def print_traceback(error: BaseException) -> None:
    """The whole story, for ``--debug``."""
    print(without_secrets("".join(traceback.format_exception(error))), end="", file=sys.stderr)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it wraps, breadth first: causes, Ray's ``cause`` and Ray Train's worker failures."""
    pending, seen = [error], set[int]()
    while pending:
        current = pending.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        failures = getattr(current, "worker_failures", None)
        wrapped = [current.__cause__, getattr(current, "cause", None)]
        wrapped += failures.values() if isinstance(failures, dict) else []
        pending += [inner for inner in wrapped if isinstance(inner, BaseException)]


def _is_full_disk(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    # SQLite, Arrow and torch say it in words only.
    return any(words in str(error) for words in ("No space left on device", "database or disk is full"))
