"""Rules on the candidate's own figures: high enough, on enough pictures, and worth the name of a figure."""

import math
from typing import Annotated, Any

from pydantic import Field

from finedefics_platform.models.gate.case import Case, Ground, Slice, Verdict, answer_of, verdict
from finedefics_platform.models.gate.known import RULES

Share = Annotated[float, Field(ge=0, le=1)]


@RULES.register("minimum")
def minimum(case: Case, *, accuracy: Share = 0.0, n: Annotated[int, Field(ge=1)] = 30) -> Verdict:
    """Every slice that decides reaches ``accuracy`` on ``n`` pictures, in its largest evaluation."""
    judged = case.judged()
    if not judged:
        wanted = f" for {', '.join(case.slices)}" if case.slices else ""
        return verdict([f"The candidate has no accuracy{wanted}."])
    against, passed = [], []
    for name, (ground, shown) in judged.items():
        short = _short(name, shown, accuracy, n)
        against += short
        if not short:
            where = ground.told(shown.scope)
            passed.append(f"{name}: {shown.accuracy:.3f} on {shown.n} pictures of {where}.")
    return verdict(against, passed, _figures(judged))


def _short(name: str, shown: Slice, accuracy: float, n: int) -> list[str]:
    short = []
    # `not >=` and not `<`, so that an accuracy that is not a number is refused as well
    if not shown.accuracy >= accuracy:
        short.append(f"{name}: accuracy {shown.accuracy:.3f} is below the minimum {accuracy:.3f}.")
    elif shown.accuracy > 1:
        short.append(f"{name}: accuracy {shown.accuracy:.3f} is not a share between 0 and 1.")
    if shown.n < n:
        short.append(f"{name}: evaluated on {shown.n} pictures, the minimum is {n}.")
    return short


@RULES.register("intervals")
def intervals(case: Case) -> Verdict:
    """Every figure that decides has an interval around it."""
    judged = case.judged()
    against = [
        f"{name}: accuracy {shown.accuracy:.3f} has no interval."
        for name, (_, shown) in judged.items()
        if not shown.low <= shown.accuracy <= shown.high
    ]
    return verdict(against, ["Every figure has its 95 % interval."], _figures(judged))


@RULES.register("not_near_chance")
def not_near_chance(case: Case) -> Verdict:
    """Guessing lies below every interval; where chance was not computed, that is said and lets through."""
    against: list[str] = []
    unknown: list[str] = []
    figures: dict[str, Any] = {}
    for name in case.judged():
        one = max((m for m in case.candidate if name in m.slices), key=lambda m: m.slices[name].n)
        shown = one.slices[name]
        chance = (one.chance or {}).get(shown.scope)
        if chance is None:
            unknown.append(name)
            continue
        figures[name] = {"chance": chance, "low": shown.low, "accuracy": shown.accuracy}
        if not shown.low > chance:
            against.append(
                f"{name}: {shown.accuracy:.3f} [{shown.low:.3f}, {shown.high:.3f}] is not shown to be better "
                f"than guessing ({chance:.3f})."
            )
    passed = [f"Better than guessing: {', '.join(figures)}."] if figures else []
    if unknown:
        passed.append(f"What guessing gives was not computed for {', '.join(unknown)}.")
    return verdict(against, passed, figures)


@RULES.register("unparsed")
def unparsed(case: Case, *, most: Share = 0.05) -> Verdict:
    """At most a share of the replies of an answer that decides named no category and no option."""
    shares: dict[str, float] = {}
    for answer in case.answers():
        counted = [one for one in case.candidate if _answers(one.slices, answer)]
        shares |= {answer: max((one.unparsed or {}).get(answer, 0.0) for one in counted)}
    against = [
        f"{answer}: {100 * share:.1f} % of the replies named nothing, {100 * most:.1f} % are allowed."
        for answer, share in shares.items()
        if not share <= most
    ]
    return verdict(against, [f"At most {100 * most:.1f} % of the replies named nothing."], shares)


def _answers(slices: Any, answer: str) -> bool:
    return any(answer_of(name) == answer for name in slices)


def _figures(judged: dict[str, tuple[Ground, Slice]]) -> dict[str, Any]:
    def number(value: float) -> float | None:
        return None if math.isnan(value) else value

    return {
        name: {
            "accuracy": number(shown.accuracy),
            "low": number(shown.low),
            "high": number(shown.high),
            "n": shown.n,
            "on": ground.told(shown.scope),
        }
        for name, (ground, shown) in judged.items()
    }
