"""Where a recorded run comes from, in the tags that MLflow's own pages show: command, commit, user."""

import re
import sys
from functools import cache
from pathlib import Path

from finedefics_platform.base.user import user
from finedefics_platform.tracking.facts import system_facts

CODE = "finedefics.code"  # what made it: the commit of a checkout, or the version of an installed package
COMMIT = "mlflow.source.git.commit"
ENVIRONMENT = "environment.json"  # artefact of a run: packages, Python, machine, state of the checkout


def source_tags() -> dict[str, str]:
    """MLflow's tags for source, commit and user of a run that this process records."""
    name, kind = _source()
    facts = system_facts()
    tags = {"mlflow.source.name": name, "mlflow.source.type": kind, "mlflow.user": user(), CODE: code()}
    return tags | ({COMMIT: facts["git_commit"]} if "git_commit" in facts else {})


@cache
def code() -> str:
    """What code runs: ``1a2b3c…``, ``1a2b3c… changed`` where files differ, or ``finedefics 0.3.0``."""
    facts = system_facts()
    if "git_commit" not in facts:
        return f"finedefics {facts['version.finedefics']}"
    return facts["git_commit"] + (" changed" if facts["git_changed"] == "true" else "")


def _source() -> tuple[str, str]:
    """The command without its arguments: those may name places of this machine."""
    program = Path(sys.argv[0] if sys.argv else "")
    if program.parent.name == "jobs" and program.suffix == ".py":
        return f"jobs/{program.name}", "JOB"
    command = next((word for word in sys.argv[1:2] if re.fullmatch("[a-z]+", word)), "")
    if program.stem == "finedefics" and command:
        return f"finedefics {command}", "LOCAL"
    return "finedefics", "LOCAL"
