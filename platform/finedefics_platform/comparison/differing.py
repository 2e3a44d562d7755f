"""What differs between runs: settings, stages included, key by key; last metrics; paired accuracies."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from finedefics.evaluation.statistics import paired_difference
from finedefics.evaluation.tables import GROUPS
from finedefics_platform.comparison.arms import Arm, Gathered
from finedefics_platform.comparison.pairing import shared
from finedefics_platform.config.experiment import Experiment
from finedefics_platform.tracking.facts import flatten


@dataclass(frozen=True)
class Differences:
    """Runs side by side; a value a run, None where it has none.

    Attributes:
        names: as reports and `finedefics runs list` call them; ``keys``: of their folders.
        settings: keys of the experiment in which they differ, with their values as JSON.
        facts: what else differs: data, base, commit, hardware.
        metrics: last recorded values.
        accuracies: ``{"answer/scope/group": cells}`` of the evaluations on common ground; a cell has
            ``accuracy``, ``low``, ``high`` and ``n``.
        paired: differences of every run to the first on shared pictures.
        measured_on: what the accuracies are of; "" where there are none.
    """

    names: tuple[str, ...]
    keys: tuple[str, ...]
    settings: Mapping[str, tuple[str | None, ...]]
    facts: Mapping[str, tuple[str | None, ...]]
    metrics: Mapping[str, tuple[float | None, ...]]
    accuracies: Mapping[str, tuple[Mapping[str, Any] | None, ...]]
    paired: Sequence[Mapping[str, Any]]
    measured_on: str


def differing_settings(documents: Sequence[Mapping[str, str]]) -> dict[str, tuple[str | None, ...]]:
    """The keys in which flat experiments differ; None where one has no such key, or it is null there.

    Their names are no setting: whoever shows them has them as headings.
    """
    keys = dict.fromkeys(key for document in documents for key in document if key != "name")
    rows = {key: tuple(_value(document.get(key)) for document in documents) for key in keys}
    return {key: row for key, row in rows.items() if len(set(row)) > 1}


def _value(text: str | None) -> str | None:
    return None if text == "null" else text


def flat(experiment: Experiment) -> dict[str, str]:
    """Every key of an experiment with its value as JSON, stages by name: ``stages.align.terms.answer``.

    Stages of the same names in another order differ in ``stages``.
    """
    document = experiment.model_dump(mode="json")
    stages = document.pop("stages")
    flat = flatten(document)
    flat["stages"] = ", ".join(stage["name"] for stage in stages)
    for stage in stages:
        flat |= flatten({k: v for k, v in stage.items() if k != "name"}, f"stages.{stage['name']}.")
    return flat


def differences_of(
    gathered: Gathered,
    settings: Sequence[Mapping[str, str]],
    facts: Mapping[str, Mapping[str, str]],
    recorded: Mapping[str, Mapping[str, float]],
) -> Differences:
    """Put the runs that were gathered side by side.

    Args:
        settings: of every run, flat.
        facts: by run: data, base, commit and hardware, each a text.
        recorded: by run: last metrics that a tracking server has beside those of its folder.
    """
    runs = gathered.runs
    told = [_metrics(arm) | dict(recorded.get(arm.name, {})) for arm in runs]
    metrics = {
        name: tuple(own.get(name) for own in told) for name in sorted({n for own in told for n in own})
    }
    of_facts = [facts.get(arm.name, {}) for arm in runs]
    rows = {
        name: tuple(own.get(name) for own in of_facts)
        for name in dict.fromkeys(n for o in of_facts for n in o)
    }
    ground = gathered.ground
    return Differences(
        tuple(arm.name for arm in runs),
        tuple(arm.key or "" for arm in runs),
        differing_settings(settings),
        {name: row for name, row in rows.items() if len(set(row)) > 1},
        metrics,
        _accuracies(gathered),
        _paired(gathered),
        f"{next(a.judged for a in gathered.arms if a.judged).summary['dataset']} {ground.split}"
        if ground
        else "",
    )


def _metrics(arm: Arm) -> dict[str, float]:
    """The last value of everything a run recorded; of a stage's own terms too."""
    last: dict[str, float] = {}
    for row in arm.history:
        last |= row["metrics"]
    return last


def _accuracies(gathered: Gathered) -> dict[str, tuple[Mapping[str, Any] | None, ...]]:
    from finedefics.evaluation.tables import accuracy_table

    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for scope in ("all", "options"):
        table = accuracy_table(gathered.frames, {}, scope)
        for arm in gathered.runs:
            for answer, cells in table.get(arm.name, {}).items():
                for group in GROUPS:
                    if group in cells:
                        found.setdefault(f"{answer}/{scope}/{group}", {})[arm.name] = cells[group]
    return {name: tuple(cells.get(arm.name) for arm in gathered.runs) for name, cells in found.items()}


def _paired(gathered: Gathered) -> list[dict[str, Any]]:
    """Every run to the first, each answer over all shared pictures and by group."""
    with_items = [arm.name for arm in gathered.runs if arm.name in gathered.frames]
    rows = []
    for name in with_items[1:]:
        own, other = gathered.frames[name], gathered.frames[with_items[0]]
        asked = {*zip(other["answer"], other["scope"], strict=True)}
        for (answer, scope), items in own.groupby(["answer", "scope"], sort=False):
            if (answer, scope) not in asked:
                continue
            rivals = other[(other["answer"] == answer) & (other["scope"] == scope)]
            for group in (None, *reversed(GROUPS)):
                pair = shared(items, rivals, group)
                if pair is not None:
                    estimate = asdict(paired_difference(*pair))
                    told = {"run": name, "against": with_items[0], "answer": answer, "scope": scope}
                    rows.append({**told, "group": group or "all", **estimate})
    return rows
