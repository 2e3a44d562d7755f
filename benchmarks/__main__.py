"""Run benchmarks by name, or all of them; print a table and write ``benchmarks/results.json``."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

import benchmarks.answering
import benchmarks.answers
import benchmarks.collating
import benchmarks.false_conflicts
import benchmarks.jobs
import benchmarks.letters
import benchmarks.memory
import benchmarks.mining
import benchmarks.packing
import benchmarks.serving
import benchmarks.stage_one
import benchmarks.stream
import benchmarks.stream_memory
import benchmarks.stream_reading  # noqa: F401  (importing registers)
from benchmarks.registry import BENCHMARKS, Result

RESULTS = Path(__file__).parent / "results.json"


def main(names: list[str]) -> int:
    """Exit code 2 for an unknown name, else 0: a missed aim is a result, not a failure."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        known = ", ".join(BENCHMARKS)
        print(f"error: {unknown[0]}: unknown benchmark; use: {known}", file=sys.stderr)
        return 2
    found: dict[str, Result] = {}
    for function in dict.fromkeys(BENCHMARKS[name] for name in names or BENCHMARKS):
        found |= {k: v for k, v in function().items() if not names or k in names}
    stored = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    stored |= {name: asdict(result) for name, result in found.items()}
    RESULTS.write_text(json.dumps(stored, indent=1) + "\n")
    Console(width=None if sys.stdout.isatty() else 160).print(_table(found))
    return 0


def _table(found: dict[str, Result]) -> Table:
    table = Table(title="Benchmarks", title_justify="left")
    for column in ("name", "value", "aim", "spread", "how"):
        table.add_column(column, overflow="fold")
    for name, result in found.items():
        mark = "[green]" if result.reached else "[yellow]"
        sign = "≥" if result.better == "higher" else "≤"
        spread = f"{result.spread[0]:.3g} to {result.spread[1]:.3g}"
        value = f"{mark}{result.value:.3g}[/] {result.unit}"
        table.add_row(name, value, f"{sign} {result.aim:g}", spread, result.how)
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
