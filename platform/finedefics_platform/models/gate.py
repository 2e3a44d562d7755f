"""The promotion rule: may a candidate become champion, and why. Pure: figures in, a decision out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from finedefics.evaluation.statistics import paired_difference


class GatePolicy(BaseModel):
    """What a candidate must show, on every slice (such as ``alignment/new``) that decides."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    minimum_accuracy: float = Field(0.0, ge=0, le=1, description="Accuracy below this is refused.")
    minimum_n: int = Field(30, ge=1, description="Fewer evaluated pictures than this decide nothing.")
    max_drop: float = Field(0.05, ge=0, le=1, description="Accuracy that may be lost against the champion.")
    slices: tuple[str, ...] = Field(
        (), description="What decides: slices or their first parts (`alignment`); default: every slice."
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Confidence of the paired interval.")


@dataclass(frozen=True)
class Slice:
    """Accuracy on one part of the evaluation; ``items`` (sample id -> correct) where they were kept."""

    accuracy: float
    n: int
    items: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Figures:
    """What a model version showed: its evaluation by slice."""

    slices: Mapping[str, Slice]

    @classmethod
    def from_evaluation(
        cls, evaluation: Mapping[str, Any], items: Mapping[str, Mapping[str, bool]] | None = None
    ) -> "Figures":
        """Read nested figures: every mapping with ``accuracy`` and ``n`` is a slice, named by its path.

        ``{"alignment": {"new": {"accuracy": 0.8, "n": 50}}}`` has the slice ``alignment/new``; figures that
        stand alone are the slice ``all``. ``items`` holds, by slice, which pictures were answered correctly.
        """
        found: dict[str, Slice] = {}

        def visit(node: Mapping[str, Any], path: str) -> None:
            if "accuracy" in node:
                name = path or "all"
                n = int(node.get("n", 0))
                found[name] = Slice(float(node["accuracy"]), n, (items or {}).get(name, {}))
                return
            for key, value in node.items():
                if isinstance(value, Mapping):
                    visit(value, f"{path}/{key}" if path else key)

        visit(evaluation, "")
        return cls(found)


@dataclass(frozen=True)
class Decision:
    """The gate's answer; ``reasons`` are sentences: what speaks against, or else what was compared."""

    allowed: bool
    reasons: tuple[str, ...]


def decide(candidate: Figures, champion: Figures | None, policy: GatePolicy) -> Decision:
    """Judge a candidate against the policy and, where there is one, against the champion.

    A champion's slice is a promise: the candidate must have it too. Where both kept their items, the whole
    confidence interval of the paired difference must lie above ``-max_drop``: a small test set cannot show
    that nothing was lost. Without items, the accuracies themselves are compared.
    """
    against: list[str] = []
    compared: list[str] = []
    judged = _deciding(candidate, policy)
    if not judged:
        wanted = f" for {', '.join(policy.slices)}" if policy.slices else ""
        against.append(f"The candidate has no accuracy{wanted}.")
    for name, shown in judged.items():
        against += _short_of_minimum(name, shown, policy)
    for name, held in (_deciding(champion, policy) if champion else {}).items():
        if name not in judged:
            against.append(f"{name}: the champion has {held.accuracy:.3f}, the candidate was not evaluated.")
            continue
        passed, sentence = _compare(name, judged[name], held, policy)
        (compared if passed else against).append(sentence)
    if against:
        return Decision(False, tuple(against))
    if champion is None:
        compared += [f"{name}: {s.accuracy:.3f} on {s.n} pictures." for name, s in judged.items()]
        compared.append("There is no champion to compare with.")
    return Decision(True, tuple(compared))


def _deciding(figures: Figures, policy: GatePolicy) -> dict[str, Slice]:
    def decides(name: str) -> bool:
        return any(name == wanted or name.startswith(f"{wanted}/") for wanted in policy.slices)

    return {name: part for name, part in figures.slices.items() if not policy.slices or decides(name)}


def _short_of_minimum(name: str, shown: Slice, policy: GatePolicy) -> list[str]:
    short = []
    # `not >=` and not `<`, so that an accuracy that is not a number is refused as well
    if not shown.accuracy >= policy.minimum_accuracy:
        short.append(
            f"{name}: accuracy {shown.accuracy:.3f} is below the minimum {policy.minimum_accuracy:.3f}."
        )
    elif shown.accuracy > 1:
        short.append(f"{name}: accuracy {shown.accuracy:.3f} is not a share between 0 and 1.")
    if shown.n < policy.minimum_n:
        short.append(f"{name}: evaluated on {shown.n} pictures, the minimum is {policy.minimum_n}.")
    return short


def _compare(name: str, candidate: Slice, champion: Slice, policy: GatePolicy) -> tuple[bool, str]:
    values = f"{name}: candidate {candidate.accuracy:.3f}, champion {champion.accuracy:.3f}"
    allowed = f"a drop of {policy.max_drop:.3f} is allowed"
    common = sorted(candidate.items.keys() & champion.items.keys())
    if len(common) >= policy.minimum_n:
        paired = paired_difference(
            [candidate.items[key] for key in common],
            [champion.items[key] for key in common],
            confidence=policy.confidence,
        )
        interval = f"{paired.mean:+.3f} [{paired.low:+.3f}, {paired.high:+.3f}] over {paired.n} pictures"
        return paired.low >= -policy.max_drop, f"{values}; paired difference {interval}; {allowed}."
    difference = candidate.accuracy - champion.accuracy
    # rounding to the precision of a count keeps 0.85 - 0.90 from failing an allowed drop of 0.05
    return round(
        difference, 9
    ) >= -policy.max_drop, f"{values}; difference {difference:+.3f} (unpaired); {allowed}."
