"""The promotion rule: may a candidate become champion, and why. Pure: figures in, a decision out.

A gate is a YAML document of named rules with their settings (``default.yaml`` here is the one that is asked
where none is named). A rule is a registered function: a file in `rules`, an entry point of the group
``finedefics.gate_rules``, or a ``.py`` file whose path stands in the place of a name.
"""

from finedefics_platform.models.gate.case import (
    Baseline,
    Case,
    Decision,
    Ground,
    Measured,
    Missing,
    Slice,
    Verdict,
    verdict,
)
from finedefics_platform.models.gate.document import Gate, load_gate, parse_gate
from finedefics_platform.models.gate.judging import decide
from finedefics_platform.models.gate.known import RULES

__all__ = [
    "RULES",
    "Baseline",
    "Case",
    "Decision",
    "Gate",
    "Ground",
    "Measured",
    "Missing",
    "Slice",
    "Verdict",
    "decide",
    "load_gate",
    "parse_gate",
    "verdict",
]
