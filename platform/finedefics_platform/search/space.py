"""What a search may change: keys of an experiment and the values each may take."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from finedefics.errors import wrong_use
from finedefics_platform.base.digest import digest_of
from finedefics_platform.config.documents import override
from finedefics_platform.config.experiment import Experiment, parse_experiment
from finedefics_platform.config.section import Section


class Domain(Section):
    """The values one key may take: exactly one of the kinds."""

    choice: tuple[Any, ...] | None = Field(None, min_length=1, description="One of these values.")
    uniform: tuple[float, float] | None = Field(None, description="A number between these two.")
    loguniform: tuple[float, float] | None = Field(
        None, description="A number between these two, every magnitude as likely: for rates."
    )
    integers: tuple[int, int] | None = Field(
        None, description="A whole number between these two, both ends included."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> "Domain":
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(type(self).model_fields)}")
        ends = getattr(self, given[0])
        if given[0] != "choice" and not ends[0] < ends[1]:
            raise ValueError(f"{given[0]} needs a lower and a higher end")
        return self

    def extremes(self) -> tuple[Any, ...]:
        """Every value of a choice, both ends of a range."""
        return next(
            values
            for values in (self.choice, self.uniform, self.loguniform, self.integers)
            if values is not None
        )

    def sampler(self) -> Any:
        """The Ray Tune distribution."""
        from ray import tune

        if self.choice is not None:
            return tune.choice(list(self.choice))
        if self.uniform is not None:
            return tune.uniform(*self.uniform)
        if self.loguniform is not None:
            return tune.loguniform(*self.loguniform)
        assert self.integers is not None
        return tune.randint(self.integers[0], self.integers[1] + 1)


def check_key(document: Mapping[str, Any], key: str, place: str) -> None:
    """FinedeficsError (exit code 2) if the experiment, its defaults filled in, has no such key."""
    node: Any = parse_experiment(document, place=place).model_dump(mode="json")
    for part in key.split("."):
        children = dict(enumerate(node)) if isinstance(node, list) else node if isinstance(node, dict) else {}
        index = int(part) if isinstance(node, list) and part.isdigit() else part
        if index not in children:
            known = ", ".join(map(str, children)) or "a key that holds this value"
            raise wrong_use(
                f"unknown key `{key}`", place=f"{place}: space", cure=f"instead of `{part}` use: {known}"
            )
        node = children[index]


def trial_experiment(document: Mapping[str, Any], config: Mapping[str, Any], name: str) -> Experiment:
    """The experiment of one trial: the document with the sampled values.

    A run's key depends on what determines its weights. What a trial is judged by belongs to a trial's
    identity too, so that no figure is reused that was measured otherwise: it stands in the name.
    """
    changed = json.loads(json.dumps(document))
    changed["name"] = "trial"
    for key, value in config.items():
        override(changed, key, value, place=f"search {name}")
    if (changed.get("adapters") or {}).get("kind") == "full":
        changed["adapters"] = {"kind": "full"}  # a space of both: what the others sample has no effect here
    experiment = parse_experiment(changed, place=f"search {name}")
    measured = digest_of(experiment.evaluation.model_dump(mode="json", include={"every", "limit"}))
    return experiment.model_copy(update={"name": f"{name}-trial-{measured[:6]}"})
