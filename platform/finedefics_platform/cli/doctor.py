"""`finedefics doctor`: is everything here that a run needs?"""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape

from finedefics.errors import FinedeficsError

from .console import reporter

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(
    ray: Annotated[bool, typer.Option("--ray", help="Also start a Ray cluster (about 15 s).")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Check machine, packages, workspace, tracking, cluster, hub and clock; exit code 1 if one fails.

    Example: `finedefics doctor --ray`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.operate.doctor import examine

    out = reporter(json)
    counts = {"ok": 0, "warn": 0, "fail": 0}
    for check in examine(open_workspace(), with_ray=ray):
        counts[check.status] += 1
        out.event("check", **asdict(check))
        cure = f"; {check.cure}" if check.cure else ""
        colour = COLOURS[check.status]
        out.say(f"[{colour}]{check.status:<4}[/] {check.name:<17} {escape(check.found + cure)}")
    if failed := counts["fail"]:
        thing = "1 check failed" if failed == 1 else f"{failed} checks failed"
        raise FinedeficsError(thing, place="finedefics doctor", cure="follow the cures above")
    out.done(**counts)
