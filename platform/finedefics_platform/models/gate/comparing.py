"""Two models on the pictures that both answered alike: the paired difference, and what is wanting for one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from finedefics.evaluation.statistics import paired_difference
from finedefics_platform.models.gate.case import Ground, GroundKey, Measured, Missing, answer_of


@dataclass(frozen=True)
class Paired:
    """Accuracy of ``ours`` and ``theirs`` on ``n`` common pictures, and the interval of the difference."""

    ours: float
    theirs: float
    mean: float
    low: float
    high: float
    n: int

    def sentence(self, name: str, where: str, rival: str, allowed: float) -> str:
        """What was compared, in one sentence."""
        return (
            f"{name} on {where}: candidate {self.ours:.3f}, {rival} {self.theirs:.3f}; paired difference "
            f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}] over {self.n} pictures; "
            f"a drop of {allowed:.3f} is allowed."
        )

    def figures(self) -> dict[str, Any]:
        """As a log keeps it."""
        return {
            "candidate": self.ours,
            "other": self.theirs,
            "difference": self.mean,
            "low": self.low,
            "high": self.high,
            "n": self.n,
        }


def paired(ours: Mapping[str, bool], theirs: Mapping[str, bool], confidence: float) -> Paired | None:
    """Compare on the common pictures; None where there is none."""
    common = sorted(ours.keys() & theirs.keys())
    if not common:
        return None
    found = paired_difference(
        [ours[one] for one in common], [theirs[one] for one in common], confidence=confidence
    )
    own, other = (sum(items[one] for one in common) / len(common) for items in (ours, theirs))
    return Paired(own, other, found.mean, found.low, found.high, found.n)


def grounds(measured: Iterable[Measured], name: str) -> list[tuple[GroundKey, Ground]]:
    """Where a slice was measured, sorted."""
    return sorted({one.ground.key: one.ground for one in measured if name in one.slices}.items())


def scope_of(measured: Iterable[Measured], key: GroundKey, name: str) -> str:
    """What competed where a slice was measured."""
    return next(one.slices[name].scope for one in measured if one.ground.key == key and name in one.slices)


def items(measured: Iterable[Measured], key: GroundKey, name: str) -> dict[str, bool]:
    """A slice's items on a ground, over all evaluations there."""
    alike = [one for one in measured if one.ground.key == key and name in one.slices]
    return {sample: right for one in alike for sample, right in one.slices[name].items.items()}


def answered(
    measured: Iterable[Measured], key: GroundKey, answer: str, scope: str | None = None
) -> dict[str, bool]:
    """A way of answering on a ground, all groups together; where a scope is given, in that one only."""
    alike = [one for one in measured if one.ground.key == key]
    return {
        sample: right
        for one in alike
        for name, part in one.slices.items()
        if answer_of(name) == answer and scope in (None, part.scope)
        for sample, right in part.items.items()
    }


def joined(missing: Iterable[Missing]) -> tuple[Missing, ...]:
    """One evaluation for several answers on one ground."""
    found: dict[tuple[str, Ground, int | None], list[str]] = {}
    for one in missing:
        answers = found.setdefault((one.who, one.ground, one.limit), [])
        answers += [answer for answer in one.answers if answer not in answers]
    return tuple(
        Missing(who, ground, tuple(answers), limit) for (who, ground, limit), answers in found.items()
    )
