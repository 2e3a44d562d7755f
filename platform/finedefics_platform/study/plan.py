"""From a study file to its steps: equal steps are one step, whichever arms need them."""

import string
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from finedefics import __version__
from finedefics.errors import wrong_use
from finedefics_platform.base.digest import digest_of
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.model import Model
from finedefics_platform.data.store import open_dataset
from finedefics_platform.study.document import Arm, Label, Study, settings_digest
from finedefics_platform.study.steps import (
    Base,
    Data,
    Evaluate,
    Judge,
    Labels,
    Result,
    Step,
    Train,
    Truth,
    filled,
)
from finedefics_platform.training.identity import base_of

_BASE = "base"  # in a labeller's braces: the model that arms start from


@dataclass(frozen=True)
class Cell:
    """One figure's place in the study: an arm in one condition and world, trained with one seed."""

    condition: str
    arm: str
    world: str
    seed: int


@dataclass(frozen=True)
class Plan:
    """The steps of a study in an order in which each can be done.

    Attributes:
        study: its settings.
        digest: of all that it says.
        steps: by address; what a step needs stands before it.
        cells: addresses of the steps that each figure comes from: the evaluation, what the labels are worth,
            and the training.
        given: results that are there without a step: data sets and a model that the file names.
    """

    study: Study
    digest: str
    steps: Mapping[str, Step]
    cells: Mapping[Cell, tuple[str, ...]]
    given: Mapping[str, Result]

    @property
    def key(self) -> str:
        """``<study>-<digest>``."""
        return f"{self.study.name}-{self.digest}"

    @property
    def uses(self) -> dict[str, int]:
        """How many cells each step goes into."""
        counts = dict.fromkeys(self.steps, 0)
        for addresses in self.cells.values():
            for step in self.before(*addresses):
                counts[step] += 1
        return counts

    def before(self, *addresses: str) -> set[str]:
        """Steps and all that they rest on."""
        found, open_ = set[str](), list(addresses)
        while open_:
            current = open_.pop()
            if current in self.steps and current not in found:
                found.add(current)
                open_ += self.steps[current].needs
        return found


def plan(workspace: Workspace, study: Study, documents: Mapping[str, Mapping[str, Any]]) -> Plan:
    """The steps that a study consists of; nothing is done.

    Args:
        documents: the experiments of the trained arms (`load_study`).

    Raises:
        FinedeficsError: a dataset or model is not there, or an experiment or a labeller's name is wrong.
    """
    return _Planner(workspace, study, documents).plan()


class _Planner:
    def __init__(
        self, workspace: Workspace, study: Study, documents: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self.workspace, self.study, self.documents = workspace, study, documents
        self.steps: dict[str, Step] = {}
        self.given: dict[str, Result] = {}
        for document in documents.values():
            filled(document, "any", "any")  # wrong keys are found before anything is made

    def plan(self) -> Plan:
        cells: dict[Cell, tuple[str, ...]] = {}
        for condition in self.study.condition_names:
            for place in self._places(condition):
                for seed in self.study.seeds:
                    for arm in self.study.arms:
                        cells[Cell(condition, arm, place.name, seed)] = self._measured(place, arm, seed)
        digest = settings_digest(self.study, dict(self.documents))  # type: ignore[arg-type]
        return Plan(self.study, digest, self.steps, cells, self.given)

    def _places(self, condition: str) -> "list[_Place]":
        study = self.study
        if study.worlds is None:
            assert study.model is not None
            base = base_of(self.workspace, Model(path=study.model))
            model = self._known("model", base.identity, {"model": base.path})
            places = []
            for reference in study.datasets:
                dataset = open_dataset(self.workspace, reference)
                data = self._known("data", dataset.digest, {"dataset": dataset.reference})
                places.append(_Place(dataset.reference, data, model, None, condition))
            return places
        settings = study.settings(condition)
        said = settings.model_dump(mode="json", exclude={"base"})
        places = []
        for seed in study.worlds.seeds:
            world, told = settings.world(seed), f"world {seed}" + (f", {condition}" if condition else "")
            data = self._add(f"data of {told}", (), Data(seed, settings), [seed, said])
            texts = [[each.name, each.description] for each in world.species]
            taught = [seed, texts, asdict(settings.recipe), asdict(settings.sizes), settings.base.seed]
            model = self._add(f"base of {told}", (), Base(seed, settings), taught)
            places.append(_Place(str(seed), data, model, seed, condition))
        return places

    def _measured(self, place: "_Place", arm: str, seed: int) -> tuple[str, ...]:
        settings = self.study.arms[arm]
        judged = settings.labels not in (None, "truth") and place.seed is not None
        labels = (self._judged(place, arm, seed),) if judged else ()
        if labels and not settings.train:
            return labels
        trained = (self._model(place, arm, seed),) if settings.train else ()
        return (self._evaluated(place, arm, seed), *labels, *trained)

    def _judged(self, place: "_Place", arm: str, seed: int) -> str:
        """Address of the step that holds an arm's labels against the truth."""
        assert place.seed is not None
        labels = self._data(place, arm, self.study.arms[arm], seed, ())
        task = Judge(labels, place.seed, self.study.settings(place.condition))
        return self._add(f"judge labels of {self._told(place, arm, None)}", (labels,), task, "truth")

    def _evaluated(self, place: "_Place", arm: str, seed: int) -> str:
        settings = self.study.evaluation
        model = self._model(place, arm, seed)
        task = Evaluate(place.data, model, settings)
        said = settings.model_dump(mode="json", exclude={"every", "micro_tokens"})
        return self._add(f"evaluate {self._told(place, arm, seed)}", (place.data, model), task, said)

    def _model(self, place: "_Place", arm: str, seed: int, asked: tuple[str, ...] = ()) -> str:
        """Address of the step that makes an arm's model; ``asked``: the arms whose labels wait for it."""
        if arm in asked:
            raise wrong_use(
                f"its labels wait for its own model ({' → '.join([*asked, arm])})",
                place=f"arms.{arm}",
                cure="name another arm in the labeller",
            )
        settings = self.study.arms[arm]
        if not settings.train:
            return place.base
        data = self._data(place, arm, settings, seed, asked)
        document = {**self.documents[arm], "seed": seed}
        task = Train(data, place.base, document)
        experiment = filled(document, "any", "any")
        needs, resources = (data, place.base), experiment.resources
        return self._add(
            f"train {self._told(place, arm, seed)}",
            needs,
            task,
            experiment.digest(),
            cpus=resources.processes * resources.cpus_per_worker,
            gpus=resources.processes * resources.gpus_per_worker,
        )

    def _data(self, place: "_Place", arm: str, settings: Arm, seed: int, asked: tuple[str, ...]) -> str:
        """Address of the data that an arm trains on, with labels where it takes them."""
        if settings.labels is None:
            return place.data
        told = self._told(place, arm, None)
        if settings.labels == "truth":
            assert place.seed is not None
            task = Truth(place.data, place.seed, self.study.settings(place.condition))
            return self._add(f"true labels of {told}", (place.data,), task, "truth")
        label = settings.labels if isinstance(settings.labels, Label) else self.study.label
        assert label is not None
        models = []
        for name in sorted({name for _, name, _, _ in string.Formatter().parse(label.labeller) if name}):
            if name != _BASE and name not in self.study.arms:
                raise wrong_use(
                    f"there is no arm {name!r}",
                    place=label.labeller,
                    cure=f"write {{base}} or one of: {', '.join(self.study.arms)}",
                )
            source = place.base if name == _BASE else self._model(place, name, seed, (*asked, arm))
            models.append((name, source))
        made = Labels(place.data, label.labeller, label.precision, tuple(models))
        needs = (place.data, *(address for _, address in models))
        return self._add(f"labels of {told}", needs, made, [label.labeller, label.precision])

    def _told(self, place: "_Place", arm: str, seed: int | None) -> str:
        condition = f", {place.condition}" if place.condition else ""
        with_seed = f", seed {seed}" if seed is not None and len(self.study.seeds) > 1 else ""
        return f"{arm} in {'world ' if place.seed is not None else ''}{place.name}{condition}{with_seed}"

    def _add(
        self,
        title: str,
        needs: tuple[str, ...],
        task: Any,
        said: Any,
        *,
        cpus: float = 1.0,
        gpus: float = 0.0,
    ) -> str:
        address = digest_of([__version__, task.kind, type(task).__name__, needs, said])
        self.steps.setdefault(address, Step(address, title, needs, task, cpus, gpus))
        return address

    def _known(self, kind: str, content: str, result: Result) -> str:
        address = digest_of(["given", kind, content])
        self.given[address] = result
        return address


@dataclass(frozen=True)
class _Place:
    """A world or data set in a condition: its data, its base model, and the seed of a drawn world."""

    name: str
    data: str
    base: str
    seed: int | None
    condition: str
