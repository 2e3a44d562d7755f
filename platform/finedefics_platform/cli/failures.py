"""How a command that failed says so: one line that names the place, the thing and the cure."""

import errno
import sys
import traceback

from finedefics.errors import FinedeficsError
from finedefics_platform.base.reasons import chain, mistake_in
from finedefics_platform.base.secrets import without_secrets
from finedefics_platform.base.signals import INTERRUPTED, TERMINATED

from .console import Reporter


def interrupted(command: str, line: str) -> FinedeficsError:
    """The error of a command that Ctrl-C ended; ``line`` is what was typed."""
    return FinedeficsError("interrupted", place=command, cure=_go_on(line), exit_code=INTERRUPTED)


def terminated(command: str, line: str) -> FinedeficsError:
    """The error of a command that was asked to end (SIGTERM)."""
    return FinedeficsError("terminated", place=command, cure=_go_on(line), exit_code=TERMINATED)


def _go_on(line: str) -> str:
    if "--force" in line.split():
        return f"run it again, and it starts over: {line}"
    return f"go on with it, finished steps are skipped: {line}"


def explain(error: BaseException, command: str) -> FinedeficsError:
    """The error as the user should read it.

    A mistake found inside a Ray task, a training worker or a search trial arrives wrapped; the
    `FinedeficsError` inside speaks. A full disk has its own line. Anything else is named by its type.
    """
    if (mistake := mistake_in(error)) is not None:
        return mistake
    for inner in chain(error):
        if _is_full_disk(inner):
            place = getattr(inner, "filename", None) or "the workspace or the temporary folder"
            cure = "free space, or set FINEDEFICS_HOME (and TMPDIR) to a larger disk"
            return FinedeficsError("the disk is full", place=str(place), cure=cure)
    for inner in chain(error):
        if isinstance(inner, OSError) and inner.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            thing = f"not allowed ({(inner.strerror or str(inner)).lower()})"
            cure = "check the rights of this place, or set FINEDEFICS_HOME to a folder you may write to"
            return FinedeficsError(thing, place=str(inner.filename or command), cure=cure)
    first = _first(error)  # Ray's own words about it are where it happened, and not what
    first_line = next(iter(str(first).strip().splitlines()), "")
    thing = f"{type(first).__name__}: {first_line}" if first_line else type(first).__name__
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


def _first(error: BaseException) -> BaseException:
    """What a Ray task failed with, without what Ray wrapped around it."""
    while isinstance(inner := getattr(error, "cause", None), BaseException):
        error = inner
    return error


def _is_full_disk(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    # SQLite, Arrow and torch say it in words only.
    return any(words in str(error) for words in ("No space left on device", "database or disk is full"))
