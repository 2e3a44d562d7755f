"""Why something failed, in a line: the mistake that a user can mend, out of whatever wraps it."""

from collections.abc import Iterator

from finedefics.errors import FinedeficsError
from finedefics_platform.base.secrets import without_secrets


def mistake_in(error: BaseException) -> FinedeficsError | None:
    """The `FinedeficsError` that an error is or wraps: of a Ray task, a training worker, a search trial."""
    for inner in chain(error):
        if isinstance(inner, FinedeficsError):
            # Ray's wrapper is an instance of what it wraps, with the remote traceback as its message.
            wrapped = getattr(inner, "cause", None)
            return wrapped if isinstance(wrapped, FinedeficsError) else inner
    return None


def chain(error: BaseException) -> Iterator[BaseException]:
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


def in_a_line(error: BaseException, longest: int = 300) -> str:
    """What ended some work, short and without secrets; of anybody else's error its kind comes first."""
    mistake = mistake_in(error)
    if mistake is not None:
        said = str(mistake)
    elif not isinstance(error, Exception):  # Ctrl-C, SIGTERM: nothing went wrong
        said = "interrupted" if isinstance(error, KeyboardInterrupt) else "terminated"
    else:
        lines = str(error).strip().splitlines()
        said = f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__
    line = " ".join(without_secrets(said).split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"
