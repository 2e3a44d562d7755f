"""What a command says of the dataset version that it made."""

from typing import TYPE_CHECKING

from rich.markup import escape

from .console import Reporter

if TYPE_CHECKING:
    from finedefics_platform.data.store import Dataset


def finish(out: Reporter, made: "Dataset", following: str, **fields: int) -> None:
    """Say which version was made, what it holds, and the command that follows."""
    from finedefics_platform.data.inspection import quarantine_reasons

    rows = {name: table["rows"] for name, table in sorted(made.manifest["tables"].items())}
    out.say(f"[green]{made.reference}[/]: " + ", ".join(f"{n} {name}" for name, n in rows.items()))
    for reason, number in quarantine_reasons(made).items():
        out.say(f"[yellow]quarantined {number}[/]: {escape(reason)}")
    out.say(f"next: {escape(following)}")
    out.done(dataset=made.reference, path=str(made.root), rows=rows, **fields)
