"""Rules on where the candidate comes from, and on whether its test pictures were kept from it."""

from typing import Any

from finedefics_platform.models.gate.case import Case, Missing, Verdict, answer_of, verdict
from finedefics_platform.models.gate.known import RULES

CHANGED = "changed"  # ends what is said of code that differed from its commit


@RULES.register("provenance")
def provenance(
    case: Case,
    *,
    needs: tuple[str, ...] = ("run", "dataset_digest", "config_digest", "code", "model_digest"),
    clean: bool = False,
) -> Verdict:
    """What the candidate was made of is known: the run, data, configuration, code and model.

    Args:
        case: ``code`` is the commit of a checkout, or the version of an installed package.
        needs: what has to be known.
        clean: whether the code must not have differed from its commit.
    """
    known = {name: case.provenance[name] for name in needs if case.provenance.get(name)}
    against = [f"Nothing says its {name.replace('_', ' ')}." for name in needs if name not in known]
    if clean and case.provenance.get("code", "").endswith(CHANGED):
        against.append(f"The code that made it differed from its commit ({case.provenance['code']}).")
    told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in known.items())
    return verdict(against, [f"It is known what it was made of: {told}."], known)


@RULES.register("no_leak")
def no_leak(case: Case, *, most: int = 0, unlooked: bool = False) -> Verdict:
    """No evaluation has test pictures that stand in the training split of the same data.

    Args:
        case: of each evaluation that has a slice that decides; one that looked speaks for all on the same
            pictures.
        most: pictures that may.
        unlooked: let an evaluation through that did not look for leaks (an older one).
    """
    against: list[str] = []
    missing: list[Missing] = []
    figures: dict[str, Any] = {}
    judged = [one for one in case.candidate if case.deciding([one])]
    looked = {(one.ground.digest, one.ground.split) for one in judged if one.leaks is not None}
    for one in judged:
        where = f"{one.ground.split} pictures of {one.ground.dataset}"
        if one.leaks is not None:
            found, of = int(one.leaks["pictures"]), int(one.leaks["of"])
            figures[f"{where}, {one.ground}"] = dict(one.leaks)
            if found > most:
                against.append(f"{found} of {of} {where} are training pictures too.")
        elif not unlooked and (one.ground.digest, one.ground.split) not in looked:
            against.append(f"Nobody looked whether {where} are training pictures too.")
            answers = tuple(sorted({answer_of(name) for name in case.deciding([one])}))
            missing.append(Missing("candidate", one.ground, answers, one.limit))
    told = ["No test picture is a training picture." if looked else "Leaks were not looked for."]
    unchecked = sorted({name for one in judged for name in (one.leaks or {}).get("unchecked", ())})
    if unchecked:
        told.append(f"The training pictures of {', '.join(unchecked)} were not to be had for a comparison.")
    return verdict(list(dict.fromkeys(against)), told, figures, missing)
