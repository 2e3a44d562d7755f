"""A study as its user writes it: arms, what they are measured on, and the comparisons meant beforehand."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from finedefics.errors import wrong_use
from finedefics_platform.base.digest import digest_of
from finedefics_platform.config.documents import override, read_yaml
from finedefics_platform.config.experiment import Evaluation
from finedefics_platform.config.section import Section, parse_document
from finedefics_platform.worlds.settings import WorldSettings

GROUPS = ("new", "labelled", "all", "harmonic", LABELS := "labels", TRAINING := "training")
# of inferred labels against the world's truth: right ones of those accepted, accepted ones of the pictures
# asked about, and the precision that the labeller promised from pictures whose label is known
# of training: how often a row's nearest category stood among its keys (`finedefics.contrast.Rows.coverage`)
FIGURES = {LABELS: ("precision", "coverage", "promised"), TRAINING: ("coverage",)}
OWN = ""  # the condition of a study that names none
_PAIRED = {"data.dataset": "data", "model.path": "base model", "seed": "seed"}
_NAME = r"^[a-z0-9_.-]+$"


class Worlds(Section):
    """Drawn worlds: one a seed, all by the same settings."""

    seeds: tuple[int, ...] = Field(min_length=1, description="One drawn world each; no two alike.")
    settings: WorldSettings = Field(WorldSettings(), description="What all of them ask of a model.")


class Label(Section):
    """How labels are inferred; ``{base}`` and ``{ARM}`` in the labeller are models of the same world."""

    labeller: str = Field(
        description="As of `finedefics data label --labeller`: `reading:{base}`, `alignment:{ARM}`."
    )
    precision: float = Field(
        0.9, gt=0, le=1, description="Share of right labels that is wanted among the accepted ones."
    )


class Arm(Section):
    """One way of training, the base itself, or labels that are measured and not trained on."""

    train: bool = Field(True, description="False: the base model as it is; with `labels`, those alone.")
    experiment: str | None = Field(None, description="Experiment file, relative to the study's.")
    set: dict[str, Any] = Field({}, description="Keys changed for this arm.")
    labels: Literal["truth", "inferred"] | Label | None = Field(
        None, description="Trains on inferred labels: the study's, its own, or the world's truth."
    )


class Comparison(Section):
    """A difference that is looked at: first, before any figure is known."""

    arm: str = Field(description="The arm that is looked at.")
    against: str = Field(description="The arm it is compared with.")
    metric: str = Field(description="`<group>/<answer>`, such as new/alignment; or `labels/precision`.")
    against_metric: str | None = Field(None, description="Default: `metric`. Another answer of the same.")
    condition: str | None = Field(None, description="Default: every condition, one comparison each.")
    against_condition: str | None = Field(None, description="Default: the condition of `arm`.")


class Study(Section):
    """Arms, paired over worlds or data sets and training seeds."""

    name: str = Field(pattern=_NAME, description="Begins the study's key (`<name>-<digest>`).")
    question: str = Field("", description="What it is to find out, in a sentence.")
    limits: str = Field("", description="What it does not show.")
    worlds: Worlds | None = Field(None, description="Drawn worlds that all arms are measured on.")
    datasets: tuple[str, ...] = Field((), description="Datasets in their place: names or `name@digest`.")
    model: str | None = Field(None, description="Base model of the arms on `datasets`.")
    conditions: dict[str, dict[str, Any]] = Field({}, description="Named changes of worlds.settings.")
    label: Label | None = Field(None, description="How arms with `labels: inferred` get their labels.")
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="Of training.")
    experiment: str | None = Field(None, description="Experiment file of all arms, relative to this one.")
    set: dict[str, Any] = Field({}, description="Keys changed for all arms.")
    evaluation: Evaluation = Field(Evaluation(), description="How every arm is asked, all alike.")
    arms: dict[str, Arm] = Field(min_length=1, description="By name, what differs between the arms.")
    comparisons: tuple[Comparison, ...] = Field(
        (), description="Differences that are looked at first, named before any figure is known."
    )

    @model_validator(mode="after")
    def _measured_on_something(self) -> "Study":
        if (self.worlds is None) == (not self.datasets):
            raise ValueError("give either `worlds` or `datasets`")
        if self.datasets and self.model is None:
            raise ValueError("`datasets` need a `model`")
        if self.worlds and self.model is not None:
            raise ValueError("worlds have base models of their own; leave `model` out")
        if self.conditions and self.worlds is None:
            raise ValueError("`conditions` change the settings of worlds, and there are none")
        for name in ("seeds", "datasets"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"a value of `{name}` stands there twice")
        if self.worlds and len(set(self.worlds.seeds)) < len(self.worlds.seeds):
            raise ValueError("a value of `worlds.seeds` stands there twice")
        return self

    @model_validator(mode="after")
    def _arms_are_paired(self) -> "Study":
        changes = {"set": self.set} | {f"arms.{name}.set": arm.set for name, arm in self.arms.items()}
        for name, changed in changes.items():
            for key in changed:
                for fixed, what in _PAIRED.items():
                    if key == fixed or fixed.startswith(f"{key}."):
                        raise ValueError(f"{name} changes {key}: arms that differ in {what} are not paired")
        for name, arm in self.arms.items():
            if not arm.train and (arm.set or arm.experiment):
                raise ValueError(f"arm {name} is not trained, so nothing can be set in it")
            if not arm.train and arm.labels and (arm.labels == "truth" or self.worlds is None):
                raise ValueError(f"arm {name} measures labels, which takes inferred ones and drawn worlds")
            if arm.train and not (arm.experiment or self.experiment):
                raise ValueError(f"arm {name} has no experiment, and the study names none")
            if arm.labels == "truth" and self.worlds is None:
                raise ValueError(f"arm {name} takes the truth, which only drawn worlds know")
            if arm.labels == "inferred" and self.label is None:
                raise ValueError(f"arm {name} takes inferred labels, and the study has no `label`")
        return self

    @model_validator(mode="after")
    def _comparisons_are_of_what_there_is(self) -> "Study":
        for number, each in enumerate(self.comparisons):
            place = f"comparisons.{number}"
            for arm in (each.arm, each.against):
                _known(place, "arm", arm, self.arms)
            for condition in (each.condition, each.against_condition):
                if condition is not None:
                    _known(place, "condition", condition, self.conditions)
            for metric in (each.metric, each.against_metric or each.metric):
                group, _, answer = metric.partition("/")
                _known(place, "group", group, GROUPS)
                kind = f"figure of {group}" if group in FIGURES else "answer"
                _known(place, kind, answer, FIGURES.get(group, self.evaluation.answers))
            if each.condition is None and each.against_condition is not None:
                raise ValueError(f"{place}: `against_condition` needs a `condition`")
            where = (
                each.against,
                each.against_condition or each.condition,
                each.against_metric or each.metric,
            )
            if (each.arm, each.condition, each.metric) == where:
                raise ValueError(f"{place}: {each.arm} is compared with itself")
        return self

    def settings(self, condition: str) -> WorldSettings:
        """The worlds' settings in a condition; FinedeficsError (exit code 2) where a change is wrong."""
        assert self.worlds is not None
        document = self.worlds.settings.model_dump(mode="json")
        for key, value in self.conditions.get(condition, {}).items():
            override(document, key, value, place=f"conditions.{condition}")
        return parse_document(WorldSettings, document, place=f"conditions.{condition}")

    @property
    def condition_names(self) -> tuple[str, ...]:
        """The conditions, or the one that has no name."""
        return tuple(self.conditions) or (OWN,)

    def planned(self) -> Iterator[tuple[Comparison, str, str]]:
        """The comparisons named beforehand, each in every condition that it leaves open."""
        for each in self.comparisons:
            for condition in (each.condition,) if each.condition is not None else self.condition_names:
                yield each, condition, each.against_condition or condition


def load_study(path: str | Path) -> tuple[Study, dict[str, dict[str, Any]]]:
    """Read a study file and the experiments of its trained arms, as documents.

    Raises:
        FinedeficsError: a file is missing, or a key or value is wrong (exit code 2).
    """
    study = parse_document(Study, read_yaml(path, "study"), place=str(path))
    return study, {name: _document(study, arm, Path(path)) for name, arm in study.arms.items() if arm.train}


def _document(study: Study, arm: Arm, path: Path) -> dict[str, Any]:
    document = deepcopy(read_yaml(path.parent / str(arm.experiment or study.experiment), "experiment"))
    for key in ("data.dataset", "model.path"):
        section, _, name = key.partition(".")
        if name in (document.get(section) or {}):
            raise wrong_use(
                f"the experiment names its own {key}, and arms that differ in {_PAIRED[key]} are not paired",
                place=f"{path.parent / str(arm.experiment or study.experiment)}",
                cure="leave it out: the study fills it in",
            )
    override(document, "resources.workers", document.get("resources", {}).get("workers", 0), place=str(path))
    for key, value in {**study.set, **arm.set}.items():
        override(document, key, value, place=str(path))
    return document


def _known(place: str, kind: str, name: str, there: Any) -> None:
    if name not in there:
        raise ValueError(f"{place}: there is no {kind} {name!r} (there are {', '.join(there) or 'none'})")


def settings_digest(study: Study, documents: dict[str, dict[str, Any]]) -> str:
    """Address of a study: all that it says but its words."""
    said = study.model_dump(mode="json", exclude={"name", "question", "limits", "experiment"})
    said["arms"] = {name: arm["labels"] for name, arm in said["arms"].items()}
    return digest_of([said, documents])
