"""The promotion rule: may a candidate become champion, and why. Pure: figures in, a decision out.

Two figures say something about each other only where they were measured alike. So versions are compared on
the same ground (version of the data, split, way of asking) and there on the pictures that both answered.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field

from finedefics.evaluation.statistics import paired_difference

GroundKey = tuple[str, str, int, int, str]


class GatePolicy(BaseModel):
    """What a candidate must show, on every slice (such as ``alignment/new``) that decides."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    minimum_accuracy: float = Field(0.0, ge=0, le=1, description="Accuracy below this is refused.")
    minimum_n: int = Field(30, ge=1, description="Fewer evaluated or common pictures decide nothing.")
    max_drop: float = Field(0.05, ge=0, le=1, description="Accuracy that may be lost against the champion.")
    slices: tuple[str, ...] = Field(
        (), description="What decides: slices or their first parts (`alignment`); default: every slice."
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Confidence of the paired interval.")


@dataclass(frozen=True, order=True)
class Ground:
    """What makes two measurements comparable."""

    dataset: str  # name@digest, for messages; the digest decides
    digest: str
    split: str
    options: int  # of the multiple choice
    seed: int  # of the order in which options are shown, and of random ones
    file: str = ""  # name@digest of a published file of options; the digest decides

    def __str__(self) -> str:
        of_file = f" of {self.file}" if self.file else ""
        return f"{self.dataset} {self.split}, {self.options} options{of_file}, seed {self.seed}"

    @property
    def key(self) -> GroundKey:
        """What has to be equal."""
        return self.digest, self.split, self.options, self.seed, self.file.rpartition("@")[2]


@dataclass(frozen=True)
class Slice:
    """Accuracy on one part of a measurement; ``items`` (sample id -> correct) where they were kept."""

    accuracy: float
    n: int
    items: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """One evaluation of a version: its slices, named ``answer/group``, and where they were measured.

    Groups (labelled, new) are those of the version's own training.
    """

    ground: Ground
    slices: Mapping[str, Slice]
    limit: int | None = None  # of pictures; None: the whole split


@dataclass(frozen=True)
class Missing:
    """An evaluation without which nothing can be decided: of ``who``, alike to that of the other one."""

    who: str  # candidate or champion
    ground: Ground
    answers: tuple[str, ...]
    limit: int | None = None


@dataclass(frozen=True)
class Decision:
    """The gate's answer.

    Attributes:
        allowed: whether the candidate may become champion.
        reasons: sentences: what speaks against, or else what was compared.
        missing: what has to be evaluated before it can be decided.
    """

    allowed: bool
    reasons: tuple[str, ...]
    missing: tuple[Missing, ...] = ()


def decide(
    candidate: Sequence[Measured], champion: Sequence[Measured] | None, policy: GatePolicy
) -> Decision:
    """Judge a candidate against the policy and, where there is one, against the champion.

    A champion's slice is a promise: on the same pictures the candidate must keep it, whatever group they are
    in for the candidate. The whole confidence interval of the paired difference must lie above ``-max_drop``:
    a small test set cannot show that nothing was lost. Where both were measured on several grounds, every one
    of them counts; where they share none, nothing is decided.
    """
    against: list[str] = []
    compared: list[str] = []
    missing: list[Missing] = []
    judged = {name: _largest(candidate, name) for name in _deciding(candidate, policy)}
    if not judged:
        wanted = f" for {', '.join(policy.slices)}" if policy.slices else ""
        against.append(f"The candidate has no accuracy{wanted}.")
    for name, (_, shown) in judged.items():
        against += _short_of_minimum(name, shown, policy)
    for name in _deciding(champion or (), policy):
        passed, failed, wanting = _compare(name, candidate, champion or (), policy)
        compared += passed
        against += failed
        missing += wanting
    if against:
        return Decision(False, tuple(against), _joined(missing))
    if champion is None:
        compared += [f"{name}: {s.accuracy:.3f} on {s.n} pictures of {g}." for name, (g, s) in judged.items()]
        compared.append("There is no champion to compare with.")
    return Decision(True, tuple(compared))


def _deciding(measured: Iterable[Measured], policy: GatePolicy) -> list[str]:
    def decides(name: str) -> bool:
        return any(name == wanted or name.startswith(f"{wanted}/") for wanted in policy.slices)

    names = sorted({name for one in measured for name in one.slices})
    return [name for name in names if not policy.slices or decides(name)]


def _largest(measured: Iterable[Measured], name: str) -> tuple[Ground, Slice]:
    """The slice on most pictures: a smaller evaluation never stands for a larger one."""
    found = [(one.ground, one.slices[name]) for one in measured if name in one.slices]
    return max(found, key=lambda pair: pair[1].n)


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


def _compare(
    name: str, candidate: Sequence[Measured], champion: Sequence[Measured], policy: GatePolicy
) -> tuple[list[str], list[str], list[Missing]]:
    """Sentences on what passed and on what did not, for one slice of the champion, and what is missing."""
    answer = name.partition("/")[0]
    passed: list[str] = []
    failed: list[str] = []
    most = 0
    grounds = {one.ground.key: one.ground for one in champion if name in one.slices}
    for key, ground in sorted(grounds.items()):
        held, shown = _items(champion, key, name), _answered(candidate, key, answer)
        common = sorted(held.keys() & shown.keys())
        most = max(most, len(common))
        if len(common) < policy.minimum_n:
            continue
        paired = paired_difference(
            [shown[one] for one in common], [held[one] for one in common], confidence=policy.confidence
        )
        own, other = (sum(items[one] for one in common) / len(common) for items in (shown, held))
        sentence = (
            f"{name} on {ground}: candidate {own:.3f}, champion {other:.3f}; paired difference "
            f"{paired.mean:+.3f} [{paired.low:+.3f}, {paired.high:+.3f}] over {paired.n} pictures; "
            f"a drop of {policy.max_drop:.3f} is allowed."
        )
        (passed if paired.low >= -policy.max_drop else failed).append(sentence)
    if passed or failed:
        return passed, failed, []
    return (
        [],
        [_nothing_in_common(name, candidate, champion, most, policy)],
        [_wanted(answer, candidate, champion, name)],
    )


def _nothing_in_common(
    name: str, candidate: Sequence[Measured], champion: Sequence[Measured], most: int, policy: GatePolicy
) -> str:
    ground, held = _largest(champion, name)
    there = f"{name}: the champion has {held.accuracy:.3f} on {held.n} pictures of {ground}"
    if name not in {slice_name for one in candidate for slice_name in one.slices}:
        return f"{there}, the candidate was not evaluated."
    other, shown = _largest(candidate, name)
    return (
        f"{there}, the candidate {shown.accuracy:.3f} on {shown.n} pictures of {other}: {most} pictures that "
        f"both answered alike, the minimum is {policy.minimum_n}, so nothing was compared."
    )


def _wanted(answer: str, candidate: Sequence[Measured], champion: Sequence[Measured], name: str) -> Missing:
    """The champion is asked what the candidate was asked; what the candidate never answered, it is asked."""
    asked = [one for one in candidate if _answers(one, answer)]
    who, source = ("champion", asked) if asked else ("candidate", [m for m in champion if name in m.slices])
    largest = max(source, key=lambda one: sum(part.n for part in one.slices.values()))
    return Missing(who, largest.ground, (answer,), largest.limit)


def _answers(measured: Measured, answer: str) -> bool:
    return any(name.partition("/")[0] == answer for name in measured.slices)


def _items(measured: Iterable[Measured], key: GroundKey, name: str) -> dict[str, bool]:
    """A slice's items on a ground, over all evaluations there."""
    alike = [one for one in measured if one.ground.key == key and name in one.slices]
    return {sample: right for one in alike for sample, right in one.slices[name].items.items()}


def _answered(measured: Iterable[Measured], key: GroundKey, answer: str) -> dict[str, bool]:
    """A way of answering on a ground, all groups together."""
    alike = [one for one in measured if one.ground.key == key]
    return {
        sample: right
        for one in alike
        for name, part in one.slices.items()
        if name.partition("/")[0] == answer
        for sample, right in part.items.items()
    }


def _joined(missing: Iterable[Missing]) -> tuple[Missing, ...]:
    """One evaluation for several answers on one ground."""
    found: dict[tuple[str, Ground, int | None], list[str]] = {}
    for one in missing:
        answers = found.setdefault((one.who, one.ground, one.limit), [])
        answers += [answer for answer in one.answers if answer not in answers]
    return tuple(
        Missing(who, ground, tuple(answers), limit) for (who, ground, limit), answers in found.items()
    )
