"""`finedefics clean`: what the workspace could do without, and away with it if wished."""

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from finedefics.errors import wrong_use

from .console import reporter

if TYPE_CHECKING:
    from finedefics_platform.operate.cleaning import Dispensable

_UNITS = {"d": "days", "h": "hours", "m": "minutes"}


def clean(
    older_than: Annotated[
        str, typer.Option("--older-than", help="Nothing was written there for so long: 7d, 12h, 30m.")
    ] = "7d",
    features: Annotated[
        bool,
        typer.Option("--features", help="Also what frozen vision towers made of pictures (cache_vision)."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without, nothing is touched.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List what the workspace could do without, and remove it with --yes.

    These are parts of evaluations that were cut off and never gone on with. What somebody is making, and what
    is finished, always stays.

    Example: `finedefics clean --older-than 1d --features --yes`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.operate.cleaning import dispensable, remove

    out, workspace = reporter(json), open_workspace()
    found = dispensable(workspace, duration(older_than), features=features)
    gone, rows = 0, []
    for each in found:
        removed = yes and remove(workspace, each)
        gone += each.bytes if removed else 0
        place, seconds = workspace.name_of(each.place), each.age.total_seconds()
        told = {"place": place, "kind": each.kind, "bytes": each.bytes, "age_seconds": seconds}
        out.event("dispensable", **told, why=each.why, about=each.about, removed=removed)
        why = each.why if removed or not yes else "somebody goes on with it: it stays"
        rows.append((escape(place), _size(each.bytes), _age(each.age), why, escape(_what(each))))
    total = sum(each.bytes for each in found)
    if found:
        out.table("Removed" if yes else "Could go", ("place", "size", "age", "why", "what it is"), rows)
    if not found:
        out.say(f"Nothing to clean in {escape(workspace.root.uri)}.")
    elif yes:
        out.say(f"{_size(gone)} removed.")
    else:
        out.say(f"{_size(total)} could go: the same command with --yes removes it.")
    out.done(found=len(found), bytes=total, removed_bytes=gone)


def duration(text: str) -> timedelta:
    """``7d``, ``12h`` or ``30m``; FinedeficsError (exit code 2) for anything else."""
    if (match := re.fullmatch(r"(\d{1,6})([dhm])", text.strip())) is None:
        raise wrong_use("not a length of time", place=f"--older-than {text}", cure="write 7d, 12h or 30m")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _what(found: "Dispensable") -> str:
    told = found.about
    if not told:
        return ""
    answers = ", ".join(told["answers"])
    return f"{told['model']} on {told['dataset']} ({told['split']}): {answers}; begun by {told['by']}"


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _age(age: timedelta) -> str:
    hours = age.total_seconds() / 3600
    if hours >= 48:
        return f"{hours / 24:.0f} days"
    return f"{hours:.0f} hours" if hours >= 2 else f"{hours * 60:.0f} minutes"
