"""What MLflow's pages say about experiments, runs and models, in Markdown: pure, from figures and settings.

A note says what the thing is, its figures, how it was made, and the commands that go on from there.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from finedefics_platform.config.experiment import Experiment

NOTE = "mlflow.note.content"
# A tag of a run holds 5,000 characters in MLflow's older servers, 8,000 in newer ones.
LONGEST = 4900
HEADS = ("on", "answer", "categories", "accuracy", "95 % interval", "pictures")


def cut(note: str) -> str:
    """A note that every server takes: cut at the end of a line, which is said."""
    if len(note) <= LONGEST:
        return note
    kept = note[: LONGEST - 40].rpartition("\n")[0]
    return f"{kept}\n\n… (cut: the rest is in its artefacts)"


def experiment_note(name: str) -> str:
    """Of an MLflow experiment of the platform."""
    return f"""**{name}**: runs of Finedefics, fine-grained recognition with multimodal language models.

- A training is a run with a child for each stage (losses and speed by step) and for each evaluation of it \
(accuracy, item table). Searches and studies have their trials and arms as children.
- Tags: `finedefics.key` is the name by which commands take a run, `finedefics.kind` what it is.
- In a terminal: `finedefics runs list`, `finedefics runs compare A B`, `finedefics models list`.
"""


def training_note(key: str, experiment: Experiment, dataset: str, figures: Sequence[Mapping] = ()) -> str:
    """Of a training run.

    Args:
        key: of the run.
        experiment: as it is trained.
        dataset: ``name@digest`` of the data.
        figures: rows of what it showed (`figure_rows`), empty before it was evaluated.
    """
    stages = [
        (
            stage.name,
            stage.steps,
            f"{stage.learning_rate:g}",
            ", ".join(f"{rows} {feed}" for feed, rows in stage.feeds.items()),
            ", ".join(f"{term} {setting.weight:g}" for term, setting in stage.terms.items()),
        )
        for stage in experiment.stages
    ]
    base, adapters = PurePath(experiment.model.path).name, experiment.adapters.identity() or "none"
    shown = f"\n\n{figure_table(figures)}" if figures else "Not evaluated yet.\n"
    return f"""Training run **{key}** on `{dataset}`.

**Figures.** {shown}
**Recipe.** Base model `{base}`, adapters {adapters}, seed {experiment.seed}.

{table(("stage", "steps", "learning rate", "feeds", "terms"), stages)}
**Use it.**

```
finedefics evaluate {key} --data {dataset.partition("@")[0]} --register NAME
finedefics predict {key} PICTURE.jpg
finedefics runs show {key}
```
"""


def figure_rows(on: str, figures: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows for `figure_table` out of figures by answer and group."""
    return [
        {"on": on, "answer": answer, "categories": group, **cell}
        for answer, cells in figures.items()
        for group, cell in cells.items()
        if isinstance(cell, Mapping)
    ]


def figure_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Accuracy in per cent, with intervals."""
    cells = [
        (
            row["on"],
            row["answer"],
            row["categories"],
            f"{100 * row['accuracy']:.1f} %",
            f"{100 * row['low']:.1f} to {100 * row['high']:.1f}",
            row["n"],
        )
        for row in rows
    ]
    return table(HEADS, cells)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; a bar in a cell does not break it."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(_cell(value) for value in line)} |\n" for line in lines)


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
