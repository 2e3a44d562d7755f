"""Asks the rules of a gate, one by one, and puts their verdicts together."""

from dataclasses import replace

from finedefics.errors import FinedeficsError
from finedefics_platform.models.gate.case import Case, Decision, Verdict
from finedefics_platform.models.gate.comparing import joined
from finedefics_platform.models.gate.document import Gate, GateRule


def decide(case: Case, gate: Gate) -> Decision:
    """Judge a candidate by every rule of a gate: one that refuses is enough.

    Raises:
        FinedeficsError: a rule fails or answers with no verdict: that lets nothing through.
    """
    case = replace(case, slices=gate.slices)
    told = []
    for rule in gate.rules:
        told.append(replace(_asked(rule, case), rule=rule.name, settings=dict(rule.settings)))
    allowed = all(one.passed for one in told)
    reasons = [sentence for one in told if one.passed is allowed for sentence in one.sentences]
    if allowed and case.champion is None:
        reasons.append("There is no champion to compare with.")
    missing = joined(m for one in told if not one.passed for m in one.missing)
    return Decision(allowed, tuple(reasons), missing, tuple(told), gate.told())


def _asked(rule: GateRule, case: Case) -> Verdict:
    try:
        found = rule.ask(case, **rule.settings)
    except Exception as error:
        raise FinedeficsError(
            f"this gate rule failed ({type(error).__name__}: {error})",
            place=rule.name,
            cure="mend it, or leave it out of the gate",
        ) from error
    if not isinstance(found, Verdict):
        raise FinedeficsError(
            f"this gate rule answered with {type(found).__name__}",
            place=rule.name,
            cure="return a verdict (`finedefics_platform.models.gate.verdict`)",
        )
    return found
