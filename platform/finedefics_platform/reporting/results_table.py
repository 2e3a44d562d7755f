"""The result of a comparison as a table for the console."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from finedefics.evaluation.tables import GROUPS


def terminal_table(table: Mapping[str, Any], differences: Sequence[Mapping[str, Any]]) -> Table:
    """One row an arm and answer: percent with its 95 % interval on new and labelled categories, pictures/s.

    Args:
        table: `finedefics.evaluation.accuracy_table`.
        differences: rows of `finedefics.evaluation.differences`; they set the arrows.
    """
    compared = {
        (row["arm"], row["answer"], row["group"]): row
        for row in differences
        if row["comparison"] == "same_answer"
    }
    present = {group for answers in table.values() for cells in answers.values() for group in cells}
    groups = [group for group in reversed(GROUPS) if group in present]
    best = {
        group: max(
            cells[group]["accuracy"]
            for answers in table.values()
            for cells in answers.values()
            if group in cells
        )
        for group in groups
    }
    against = next((row["against"] for row in compared.values()), None)
    legend = "* highest in its column"
    if against:
        legend += f"   ▲ ▼ above, below {against}: paired 95 % interval without 0"
    shown = Table(title="Right answers, percent [95 % interval]", caption=legend, caption_justify="left")
    shown.add_column("arm")
    shown.add_column("answer")
    for group in groups:
        shown.add_column(group, no_wrap=True)
    shown.add_column("pictures/s", justify="right")
    for arm, answers in table.items():
        for number, (answer, cells) in enumerate(answers.items()):
            speed = cells.get("pictures_per_second")
            shown.add_row(
                Text(arm if number == 0 else ""),
                Text(answer),
                *(
                    _cell(cells.get(group), best[group], compared.get((arm, answer, group)))
                    for group in groups
                ),
                f"{speed:.3g}" if speed else "–",
                end_section=number == len(answers) - 1,
            )
    return shown


def _cell(cell: Mapping[str, Any] | None, best: float, difference: Mapping[str, Any] | None) -> Text:
    if cell is None:
        return Text("–", "dim")
    mean, low, high = (f"{100 * cell[name]:.0f}" for name in ("accuracy", "low", "high"))
    text = Text(f"{mean:>3} [{low}-{high}]")
    if cell["accuracy"] == best:
        text.append(" *")
        text.stylize("bold")
    if difference and difference["low"] > 0:
        text.append(" ▲", "green")
    elif difference and difference["high"] < 0:
        text.append(" ▼", "red")
    return text
