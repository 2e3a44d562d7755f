"""The rule on frozen encoders: what a user would pick without this product must not be better."""

from typing import Annotated, Any

from pydantic import Field

from finedefics_platform.models.gate.case import (
    LABELLED,
    NEW,
    Case,
    GroundKey,
    Measured,
    Verdict,
    answer_of,
    verdict,
)
from finedefics_platform.models.gate.comparing import answered, grounds, items, paired, scope_of
from finedefics_platform.models.gate.known import RULES


@RULES.register("not_below_encoder")
def not_below_encoder(
    case: Case,
    *,
    margin: Annotated[float, Field(ge=0, le=1)] = 0.0,
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95,
    n: Annotated[int, Field(ge=1)] = 30,
) -> Verdict:
    """Where a frozen encoder was evaluated on the same ground, the candidate is not surely worse.

    The candidate's best answer that decides is compared with the encoder's best, labelled and new categories
    apart, in the scope of the candidate's answer. It is refused where the whole interval of the paired
    difference lies below ``-margin``. Without such an evaluation the rule lets through, and says so.
    """
    against: list[str] = []
    passed: list[str] = []
    figures: dict[str, Any] = {}
    encoders = [one for one in case.baselines if one.kind == "encoder"]
    for group in (LABELLED, NEW):
        names = [name for name in case.deciding(case.candidate) if name.endswith(f"/{group}")]
        for key, ground in sorted({of for name in names for of in grounds(case.candidate, name)}):
            best = max(names, key=lambda name: _share(items(case.candidate, key, name)))
            own, scope = items(case.candidate, key, best), scope_of(case.candidate, key, best)
            for encoder in encoders:
                answer, theirs = _best([encoder.measured], key, scope, set(own))
                found = paired(own, theirs, confidence)
                if found is None or found.n < n:
                    continue
                told = found.sentence(best, ground.told(scope), f"{encoder.name} by {answer}", margin)
                figures[f"{best} on {ground.told(scope)}, {encoder.name} by {answer}"] = found.figures()
                (against if found.high < -margin else passed).append(told)
    return verdict(against, passed or ["No frozen encoder was evaluated on the same pictures."], figures)


def _best(
    measured: list[Measured], key: GroundKey, scope: str, among: set[str]
) -> tuple[str, dict[str, bool]]:
    """The encoder's answer that is right most often on these pictures."""
    answers = sorted({answer_of(name) for one in measured for name in one.slices})
    found = {
        answer: {one: right for one, right in answered(measured, key, answer, scope).items() if one in among}
        for answer in answers
    }
    return max(found.items(), key=lambda one: _share(one[1]), default=("", {}))


def _share(correct: dict[str, bool]) -> float:
    return sum(correct.values()) / len(correct) if correct else -1.0
