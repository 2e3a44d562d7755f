"""The figures of a study: means over worlds, paired differences, and which of them were planned."""

from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

from finedefics_platform.study.document import GROUPS, OWN, Comparison
from finedefics_platform.study.execution import Outcome
from finedefics_platform.study.plan import Cell, Plan
from finedefics_platform.study.statistics import Difference, harmonic, holm, mean_and_error, paired

Figures = dict[str, dict[str, float]]  # of one arm in one condition: {world: {metric: share}}


def summary(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """What ``study.json`` holds; see `docs/studies.md`."""
    study = plan.study
    figures = _figures(plan, outcome)
    names = {key: name_of(*key) for key in figures}
    worlds = list(dict.fromkeys(cell.world for cell in plan.cells))
    return {
        "study": study.name,
        "digest": plan.digest,
        "question": study.question,
        "limits": study.limits,
        "worlds": worlds,
        "worlds_are": "drawn" if study.worlds else "data sets",
        "conditions": {name: study.conditions.get(name, {}) for name in study.condition_names if name != OWN},
        "seeds": list(study.seeds),
        "answers": list(study.evaluation.answers),
        "arms": {names[key]: _means(found) for key, found in figures.items()},
        "tokens": {name_of(*key): _tokens(plan, outcome, *key) for key in figures},
        "differences": _differences(plan, figures),
        "figures": {names[key]: found for key, found in figures.items()},
        "failed": list(_failures(plan, outcome)),
        "steps": _steps(plan, outcome),
        "seconds": sum(outcome.records[a]["seconds"] for a in plan.steps if a in outcome.records),
        "settings": study.model_dump(mode="json"),
    }


def name_of(condition: str, arm: str) -> str:
    """How an arm is called in tables: with its condition, where there are several."""
    return arm if condition == OWN else f"{arm} @ {condition}"


def _figures(plan: Plan, outcome: Outcome) -> dict[tuple[str, str], Figures]:
    """Means over the training seeds, of every arm and condition; worlds with a failed seed are left out."""
    found: dict[tuple[str, str], Figures] = {}
    for condition in plan.study.condition_names:
        for arm in plan.study.arms:
            own: Figures = {}
            for world in dict.fromkeys(cell.world for cell in plan.cells):
                cells = [plan.cells[Cell(condition, arm, world, seed)] for seed in plan.study.seeds]
                if all(address in outcome.records for cell in cells for address in cell):
                    shares = [_of_cell(outcome, cell) for cell in cells]
                    shared = [metric for metric in shares[0] if all(metric in each for each in shares)]
                    own[world] = _with_harmonic(
                        {metric: fmean(each[metric] for each in shares) for metric in shared}
                    )
            found[condition, arm] = own
    return found


def _of_cell(outcome: Outcome, cell: tuple[str, ...]) -> dict[str, float]:
    """Its evaluation's figures, those of its labels and those of its training."""
    return {k: v for a in cell for k, v in outcome.records[a]["result"].get("figures", {}).items()}


def _with_harmonic(figures: dict[str, float]) -> dict[str, float]:
    for metric in [metric for metric in figures if metric.startswith("new/")]:
        answer = metric.partition("/")[2]
        if f"labelled/{answer}" in figures:
            figures[f"harmonic/{answer}"] = harmonic(figures[metric], figures[f"labelled/{answer}"])
    return {metric: figures[metric] for metric in sorted(figures, key=_place)}


def _place(metric: str) -> tuple[int, str]:
    group, _, answer = metric.partition("/")
    return GROUPS.index(group), answer


def _means(found: Figures) -> dict[str, Any]:
    metrics = dict.fromkeys(metric for figures in found.values() for metric in figures)
    return {
        metric: mean_and_error([figures[metric] for figures in found.values() if metric in figures])
        for metric in metrics
    }


def _tokens(plan: Plan, outcome: Outcome, condition: str, arm: str) -> float | None:
    """Positions that the language model computed in training: mean of an arm's runs, None without one."""
    spent = []
    for cell, (address, *_) in plan.cells.items():
        if (cell.condition, cell.arm) == (condition, arm):
            results = [outcome.records.get(a, {}).get("result", {}) for a in plan.steps[address].needs]
            spent += [result["forwarded_tokens"] for result in results if result.get("forwarded_tokens")]
    return fmean(spent) if spent else None


def _differences(plan: Plan, figures: Mapping[tuple[str, str], Figures]) -> list[dict[str, Any]]:
    """The planned comparisons, corrected together, then all others to the arms that any is compared with."""
    rows = [
        _row(plan, figures, (condition, each.arm), (other, each.against), each.metric, each.against_metric)
        for each, condition, other in plan.study.planned()
    ]
    tested = [row for row in rows if row["n"] > 1]  # one without spread has no p, and is asked all the same
    corrected = holm([1.0 if row["p"] is None else row["p"] for row in tested])
    for row, p in zip(tested, corrected, strict=True):
        row["holm"] = None if row["p"] is None else p
    said = {(row["arm"], row["against"], row["metric"]) for row in rows}
    for left, right, metric in _others(plan, figures):
        if (name_of(*left), name_of(*right), metric) not in said:
            rows.append({**_row(plan, figures, left, right, metric), "planned": False})
    return rows


def _others(
    plan: Plan, figures: Mapping[tuple[str, str], Figures]
) -> Iterator[tuple[tuple[str, str], tuple[str, str], str]]:
    arms = list(plan.study.arms)
    comparisons: tuple[Comparison, ...] = plan.study.comparisons
    references = list(dict.fromkeys(each.against for each in comparisons)) or arms[:1]
    for condition in plan.study.condition_names:
        for against in references:
            for arm in arms:
                if arm != against:
                    left, right = (condition, arm), (condition, against)
                    shared = _metrics(figures[left]) & _metrics(figures[right])
                    for metric in sorted(shared, key=_place):
                        yield left, right, metric


def _metrics(found: Figures) -> set[str]:
    return {metric for figures in found.values() for metric in figures}


def _row(
    plan: Plan,
    figures: Mapping[tuple[str, str], Figures],
    left: tuple[str, str],
    right: tuple[str, str],
    metric: str,
    against: str | None = None,
) -> dict[str, Any]:
    """A comparison as it is told; ``against``: the other's metric, where it is another one."""
    worlds = dict.fromkeys(cell.world for cell in plan.cells)
    pairs = {
        world: (figures[left][world][metric], figures[right][world][against or metric])
        for world in worlds
        if metric in figures[left].get(world, {}) and (against or metric) in figures[right].get(world, {})
    }
    difference = (
        paired(*zip(*pairs.values(), strict=True)) if pairs else Difference(float("nan"), None, None, None, 0)
    )
    return {
        "arm": name_of(*left),
        "against": name_of(*right) + (f" ({against})" if against else ""),
        "metric": metric,
        "mean": difference.mean if pairs else None,
        "low": difference.low,
        "high": difference.high,
        "p": difference.p,
        "holm": None,
        "n": difference.n,
        "planned": True,
        "missing": [world for world in worlds if world not in pairs],
    }


def _failures(plan: Plan, outcome: Outcome) -> Iterator[dict[str, Any]]:
    for cell, addresses in plan.cells.items():
        reasons = dict.fromkeys(outcome.failed[a] for a in addresses if a in outcome.failed)
        for reason in reasons:
            name = name_of(cell.condition, cell.arm)
            yield {"arm": name, "world": cell.world, "seed": cell.seed, "error": reason}


def _steps(plan: Plan, outcome: Outcome) -> dict[str, dict[str, Any]]:
    """How many steps of each kind there are, and their seconds together."""
    kinds: dict[str, dict[str, Any]] = {}
    for address, step in plan.steps.items():
        kind = kinds.setdefault(step.kind, {"steps": 0, "seconds": 0.0})
        kind["steps"] += 1
        kind["seconds"] += outcome.records.get(address, {}).get("seconds", 0.0)
    return kinds
