"""`finedefics gc`: what the workspace could do without, and away with it if wished."""

from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from .console import reporter
from .units import age, duration, size

if TYPE_CHECKING:
    from finedefics_platform.operate.cleaning import Dispensable


def gc(
    older_than: Annotated[
        str, typer.Option("--older-than", help="Nothing was written there for so long: 7d, 12h, 30m.")
    ] = "7d",
    caches: Annotated[
        bool,
        typer.Option(
            "--caches", help="Also what towers (cache_vision) and embedders made of pictures, and downloads."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without, nothing is touched.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List what the workspace could do without, and remove it with --yes.

    These are parts of evaluations that were cut off and never gone on with, what finished runs and searches
    left over, drafts of killed writers, tables that no dataset version names, packages of no registered
    version, and the records of runs that were deleted (in the workspace's own database). What somebody is
    making, what is finished, and what a registered model needs always stays.

    Example: `finedefics gc --older-than 1d --caches --yes`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.operate.cleaning import dispensable, remove

    out, workspace = reporter(json), open_workspace()
    found = dispensable(workspace, duration(older_than), with_caches=caches)
    gone, rows = 0, []
    with out.progress("removing", len(found)) if yes and found else nullcontext(_nothing) as advance:
        for each in found:
            removed = yes and remove(workspace, each)
            advance(1)
            gone += each.bytes if removed else 0
            place, seconds = workspace.name_of(each.place), each.age.total_seconds()
            told = {"place": place, "kind": each.kind, "bytes": each.bytes, "age_seconds": seconds}
            out.event("dispensable", **told, why=each.why, about=each.about, removed=removed)
            why = each.why if removed or not yes else "somebody goes on with it: it stays"
            rows.append((escape(place), each.kind, size(each.bytes), age(each.age), why, escape(_what(each))))
    total = sum(each.bytes for each in found)
    if found:
        columns = ("place", "kind", "size", "age", "why", "what it is")
        out.table("Removed" if yes else "Could go", columns, rows)
    if not found:
        out.say(f"Nothing to clean in {escape(workspace.root.uri)}.")
    elif yes:
        out.say(f"{size(gone)} removed.")
    else:
        out.say(f"{size(total)} could go: the same command with --yes removes it.")
    out.done(found=len(found), bytes=total, removed_bytes=gone)


def _nothing(items: int) -> None:
    """A look moves no bar."""


def _what(found: "Dispensable") -> str:
    told = found.about
    if found.kind == "evaluation" and told:
        answers = ", ".join(told["answers"])
        return f"{told['model']} on {told['dataset']} ({told['split']}): {answers}; begun by {told['by']}"
    return ", ".join(f"{key} {value}" for key, value in told.items())
