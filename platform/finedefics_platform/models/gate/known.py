"""Which rules there are: those of `rules/`, and what installed packages bring."""

from collections.abc import Callable

from finedefics.registry import Registry
from finedefics_platform.models.gate.case import Verdict

# A rule takes the case and, by name, its settings with their defaults; it looks at nothing else.
Rule = Callable[..., Verdict]
RULES: Registry[Rule] = Registry(
    "gate rule", package="finedefics_platform.models.gate.rules", group="finedefics.gate_rules"
)
