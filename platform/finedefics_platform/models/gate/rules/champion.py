"""Rules on what is in use: nothing that the champion could do is lost, and nothing that was new is harmed."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from finedefics_platform.models.gate.case import (
    NEW,
    Baseline,
    Case,
    Measured,
    Missing,
    Verdict,
    answer_of,
    largest,
    verdict,
)
from finedefics_platform.models.gate.comparing import answered, grounds, items, paired, scope_of
from finedefics_platform.models.gate.known import RULES

Share = Annotated[float, Field(ge=0, le=1)]
Confidence = Annotated[float, Field(gt=0.5, lt=1)]
Pictures = Annotated[int, Field(ge=1)]


@RULES.register("not_worse_than_champion")
def not_worse_than_champion(
    case: Case, *, margin: Share = 0.05, confidence: Confidence = 0.95, n: Pictures = 30
) -> Verdict:
    """No data set and no group is worse than the champion by more than ``margin``.

    A champion's slice is a promise: on the same pictures the candidate must keep it, whatever group they are
    in for the candidate. The whole confidence interval of the paired difference must lie above ``-margin``:
    a small test set cannot show that nothing was lost. Where both were measured on several grounds, every one
    of them counts; where they share none on which both answered ``n`` pictures, nothing is decided.
    """
    champion = case.champion or ()
    against: list[str] = []
    passed: list[str] = []
    missing: list[Missing] = []
    figures: dict[str, Any] = {}
    for name in case.deciding(champion):
        most, compared = 0, False
        for key, ground in grounds(champion, name):
            held, scope = items(champion, key, name), scope_of(champion, key, name)
            found = paired(answered(case.candidate, key, answer_of(name), scope), held, confidence)
            most = max(most, found.n if found else 0)
            if found is None or found.n < n:
                continue
            compared = True
            where = ground.told(scope)
            figures[f"{name} on {where}"] = found.figures()
            sentence = found.sentence(name, where, "champion", margin)
            (passed if found.low >= -margin else against).append(sentence)
        if not compared:
            against.append(_nothing_in_common(name, case.candidate, champion, most, n))
            missing.append(_wanted(answer_of(name), case.candidate, champion, name))
    return verdict(against, passed, figures, missing)


@RULES.register("new_not_harmed")
def new_not_harmed(
    case: Case, *, margin: Share = 0.05, confidence: Confidence = 0.95, n: Pictures = 30
) -> Verdict:
    """Categories without a label in the candidate's training are named as well as by the champion.

    Tuning harms what it does not tune, and an average over all pictures hides it. The pictures are those that
    are new to the *candidate*, whatever they were to the champion, and whatever slices decide otherwise. They
    are compared with the champion's answers, and with those of the base model where it was evaluated alike;
    fewer than ``n`` common pictures compare nothing.
    """
    rivals = [("champion", one) for one in case.champion or ()]
    rivals += [(f"base model {one.name}", one.measured) for one in _bases(case.baselines)]
    against: list[str] = []
    passed: list[str] = []
    figures: dict[str, Any] = {}
    for answer in case.answers():
        name = f"{answer}/{NEW}"
        for key, ground in grounds(case.candidate, name):
            own = items(case.candidate, key, name)
            scope = scope_of(case.candidate, key, name)
            for rival in dict.fromkeys(who for who, _ in rivals):
                theirs = [one for who, one in rivals if who == rival]
                found = paired(own, answered(theirs, key, answer, scope), confidence)
                if found is None or found.n < n:
                    continue
                where = ground.told(scope)
                figures[f"{name} on {where}, {rival}"] = found.figures()
                told = found.sentence(f"New categories by {answer}", where, rival, margin)
                (passed if found.low >= -margin else against).append(told)
    return verdict(against, passed or ["No new categories to compare on."], figures)


def _bases(baselines: Sequence[Baseline]) -> list[Baseline]:
    return [one for one in baselines if one.kind == "base"]


def _nothing_in_common(
    name: str, candidate: Sequence[Measured], champion: Sequence[Measured], most: int, least: int
) -> str:
    ground, held = largest(champion, name)
    where = ground.told(held.scope)
    there = f"{name}: the champion has {held.accuracy:.3f} on {held.n} pictures of {where}"
    if name not in {slice_name for one in candidate for slice_name in one.slices}:
        return f"{there}, the candidate was not evaluated."
    other, shown = largest(candidate, name)
    return (
        f"{there}, the candidate {shown.accuracy:.3f} on {shown.n} pictures of {other.told(shown.scope)}: "
        f"{most} pictures that both answered alike, the minimum is {least}, so nothing was compared."
    )


def _wanted(answer: str, candidate: Sequence[Measured], champion: Sequence[Measured], name: str) -> Missing:
    """The champion is asked what the candidate was asked; what the candidate never answered, it is asked."""
    asked = [one for one in candidate if any(answer_of(of) == answer for of in one.slices)]
    who, source = ("champion", asked) if asked else ("candidate", [m for m in champion if name in m.slices])
    most = max(source, key=lambda one: sum(part.n for part in one.slices.values()))
    return Missing(who, most.ground, (answer,), most.limit)
