"""What a check of the doctor says, and how it asks what may hang, crash or speak."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

GIB = 2**30
SLOW_IMPORT_SECONDS = 180
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Check:
    """One finding: what was looked at, how it stands, and what to do where it is not well."""

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    cure: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a program ended, and the last thing that it wrote."""

    ok: bool
    output: str


def run_python(program: str, *, seconds: float, folder: Path | None = None, **environment: str) -> Outcome:
    """Run a program in a fresh interpreter, so that a crash, a hang or a log line is its own."""
    return run_command([sys.executable, "-c", program], seconds=seconds, folder=folder, **environment)


def run_command(
    arguments: list[str], *, seconds: float, folder: Path | None = None, **environment: str
) -> Outcome:
    """Run a command; what it printed, or where it failed what it complained of."""
    try:
        done = subprocess.run(
            arguments,
            cwd=folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return Outcome(False, f"no answer within {seconds:.0f} s")
    except OSError as error:
        return Outcome(False, str(error))
    return Outcome(done.returncode == 0, (done.stdout if done.returncode == 0 else done.stderr).strip())


def within(seconds: float, ask: Callable[[], Answer]) -> Answer:
    """The answer to a question to the network, where finding a name alone may take half a minute.

    Raises:
        TimeoutError: no answer; whatever the question raises is raised as well.
    """
    got: list[Answer] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            got.append(ask())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not got:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    return got[0]


def at_least(name: str, amount: int, needed: int, comfortable: int, found: str, cure: str) -> Check:
    """A check of an amount in bytes: fails below ``needed``, warns below ``comfortable``."""
    if amount < needed:
        return Check(name, "fail", f"{found}, at least {gib(needed)} needed", cure)
    if amount < comfortable:
        return Check(name, "warn", f"{found}, {gib(comfortable)} are comfortable", cure)
    return Check(name, "ok", found)


def gib(amount: int) -> str:
    """Bytes in words."""
    return f"{amount / GIB:.1f} GiB"
