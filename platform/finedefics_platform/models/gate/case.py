"""What a gate looks at and what it answers: figures of a candidate and of its rivals; verdicts.

Two figures say something about each other only where they were measured alike. So versions are compared on
the same ground (version of the data, split, way of asking) and there on the pictures that both answered.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

GroundKey = tuple[str, str, int, int, str]
ALL = "all"  # the scope in which every category competes
LABELLED, NEW = "labelled", "new"  # groups: categories with and without a label in training


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

    def told(self, scope: str) -> str:
        """What a figure of this scope was measured on: among all categories no options were shown."""
        if scope != ALL:
            return str(self)
        pictures = f", pictures of {self.file}" if self.file else ""
        return f"{self.dataset} {self.split}, all categories{pictures}"

    @property
    def key(self) -> GroundKey:
        """What has to be equal."""
        return self.digest, self.split, self.options, self.seed, self.file.rpartition("@")[2]


@dataclass(frozen=True)
class Slice:
    """Accuracy on one part of a measurement.

    Attributes:
        accuracy: share of right answers, with its 95 % interval ``low`` to ``high``.
        n: pictures.
        items: sample id -> whether it was right, where they were kept.
        scope: "all" or "options": what competed.
    """

    accuracy: float
    n: int
    items: Mapping[str, bool] = field(default_factory=dict)
    low: float = math.nan
    high: float = math.nan
    scope: str = ALL


@dataclass(frozen=True)
class Measured:
    """One evaluation: its slices, named ``answer/group``, and where they were measured.

    Groups (labelled, new) are those of the model's own training.

    Attributes:
        limit: of pictures; None: the whole split.
        unparsed: by answer, the share of replies that named nothing; None where that was not counted.
        chance: by scope, what guessing gives; None where that was not computed.
        leaks: ``pictures`` of ``of`` test pictures that are training pictures too, and ``unchecked``, data
            that was not to be had for a comparison; None where nobody looked.
    """

    ground: Ground
    slices: Mapping[str, Slice]
    limit: int | None = None
    unparsed: Mapping[str, float] | None = None
    chance: Mapping[str, float] | None = None
    leaks: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Baseline:
    """An evaluation of something that is no version: a frozen ``encoder``, or the ``base`` model."""

    name: str
    kind: str
    measured: Measured


@dataclass(frozen=True)
class Case:
    """All that a rule may look at.

    Attributes:
        candidate: its evaluations.
        champion: the champion's; None where there is no champion.
        baselines: evaluated on the same pictures.
        provenance: what is known of where the candidate comes from, by name.
        slices: what decides: slices or their first parts (``alignment``); empty for every slice.
    """

    candidate: Sequence[Measured]
    champion: Sequence[Measured] | None = None
    baselines: Sequence[Baseline] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    slices: tuple[str, ...] = ()

    def deciding(self, measured: Iterable[Measured]) -> list[str]:
        """Names of the slices that decide, sorted."""
        names = sorted({name for one in measured for name in one.slices})
        return [name for name in names if not self.slices or any(map(_within(name), self.slices))]

    def answers(self) -> list[str]:
        """Ways of answering of the candidate that decide, sorted."""
        return sorted({answer_of(name) for name in self.deciding(self.candidate)})

    def judged(self) -> dict[str, tuple[Ground, Slice]]:
        """The candidate's deciding slices, each of the evaluation that has most pictures of it."""
        return {name: largest(self.candidate, name) for name in self.deciding(self.candidate)}


@dataclass(frozen=True)
class Missing:
    """An evaluation without which nothing can be decided: of ``who``, alike to that of the other one."""

    who: str  # candidate or champion
    ground: Ground
    answers: tuple[str, ...]
    limit: int | None = None


@dataclass(frozen=True)
class Verdict:
    """What one rule says.

    Attributes:
        passed: whether it lets the candidate through.
        sentences: what speaks against, or else what was seen.
        figures: what the sentences rest on, JSON-able.
        missing: what has to be evaluated before the rule can be answered.
        rule, settings: which rule, asked how; filled in by whoever asks.
    """

    passed: bool
    sentences: tuple[str, ...]
    figures: Mapping[str, Any] = field(default_factory=dict)
    missing: tuple[Missing, ...] = ()
    rule: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """The gate's answer.

    Attributes:
        allowed: whether the candidate may become champion.
        reasons: sentences: what speaks against, or else what was seen.
        missing: what has to be evaluated before it can be decided.
        verdicts: of each rule.
        gate: which gate it was: its ``name``, ``slices`` and ``rules``; empty where none was asked.
    """

    allowed: bool
    reasons: tuple[str, ...]
    missing: tuple[Missing, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    gate: Mapping[str, Any] = field(default_factory=dict)


def verdict(
    against: Sequence[str],
    passed: Sequence[str] = (),
    figures: Mapping[str, Any] | None = None,
    missing: Sequence[Missing] = (),
) -> Verdict:
    """A verdict of sentences: refused where one speaks ``against``, and then those alone are told."""
    return Verdict(not against, tuple(against or passed), figures or {}, tuple(missing))


def answer_of(name: str) -> str:
    """The way of answering of a slice's name."""
    return name.partition("/")[0]


def largest(measured: Iterable[Measured], name: str) -> tuple[Ground, Slice]:
    """The slice on most pictures: a smaller evaluation never stands for a larger one."""
    found = [(one.ground, one.slices[name]) for one in measured if name in one.slices]
    return max(found, key=lambda pair: pair[1].n)


def _within(name: str) -> Any:
    return lambda wanted: name == wanted or name.startswith(f"{wanted}/")
