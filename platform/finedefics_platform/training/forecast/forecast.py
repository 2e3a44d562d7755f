"""The forecast of a run: what its model has, and what a step of each stage takes of a rank."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from finedefics.backbones import Backbone
from finedefics.backbones.precision import torch_dtype
from finedefics.footprint import (
    Assumed,
    PartSize,
    Probe,
    Step,
    assumed_step,
    empty_backbone,
    part_sizes,
    picture_of,
    step_of,
)
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.experiment import Experiment
from finedefics_platform.config.stage import Stage
from finedefics_platform.data.store import Dataset
from finedefics_platform.training.forecast.memory import Portion, rank_memory
from finedefics_platform.training.forecast.source import Source, batches, dataset_of, source_of
from finedefics_platform.training.stream import check_divides
from finedefics_platform.training.worker import objective_settings

BATCHES = 2  # collated for real, of which the larger counts
ASSUMED = Assumed()


@dataclass(frozen=True)
class StageForecast:
    """What a stage takes.

    Attributes:
        name: of the stage.
        steps: it takes.
        pictures: of all its steps and ranks.
        tokens: of one step of all ranks, by kind: ``image``, ``text``, ``negatives``, and ``forwarded``, with
            padding.
        memory: of one rank at the peak of a step.
        kept: bytes on disk of a picture's features (``compute.cache_vision``), None where none are kept.
    """

    name: str
    steps: int
    pictures: int
    tokens: dict[str, int]
    memory: list[Portion]
    kept: int | None = None

    @property
    def total(self) -> int:
        """Bytes of one rank, on its card where it has one."""
        return sum(portion.bytes for portion in self.memory if not portion.host)

    @property
    def host(self) -> int:
        """Bytes of one rank that are offloaded to its machine's memory."""
        return sum(portion.bytes for portion in self.memory if portion.host)


@dataclass(frozen=True)
class Forecast:
    """What a run takes.

    Attributes:
        source: where the model's sizes are from.
        reckoned: where the tokens are from.
        parts: of the model.
        stages: of the experiment, in order.
    """

    source: str
    reckoned: str
    parts: list[PartSize]
    stages: list[StageForecast]

    @property
    def largest(self) -> StageForecast:
        """The stage that takes most of a rank's memory."""
        return max(self.stages, key=lambda stage: stage.total)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a machine."""
        return {
            **asdict(self),
            "parameters": sum(part.parameters for part in self.parts),
            "trained": sum(part.trained for part in self.parts),
            "bytes": self.largest.total,
            "host_bytes": max(stage.host for stage in self.stages),
        }


def forecast(workspace: Workspace, experiment: Experiment) -> Forecast:
    """What a run of the experiment will take; nothing is started, and no weights are loaded.

    Where dataset and processor are at hand some steps are collated for real; else tokens follow from the
    family's arithmetic and what is assumed of texts and pictures (`finedefics.footprint.Assumed`).

    Raises:
        FinedeficsError: no configuration of the model can be had, nothing can be told of its pictures, or a
            feed cannot be shared equally.
    """
    source = source_of(workspace, experiment)
    return forecast_of(source, experiment, dataset_of(workspace, experiment))


def forecast_of(
    source: Source,
    experiment: Experiment,
    dataset: Dataset | None,
    parts: list[PartSize] | None = None,
) -> Forecast:
    """As `forecast`, of a model whose source is known.

    Args:
        dataset: None where there is none: texts and pictures are assumed then.
        parts: of the model, where they are known.
    """
    real = dataset is not None and source.processor is not None
    reckoned = (
        f"the first {BATCHES} steps' rows of {dataset.reference}, collated"
        if real and dataset is not None
        else f"assumed: {ASSUMED.told()}"
    )
    build, text = _built(source, experiment), source.config.get_text_config()
    parts = parts or part_sizes(build(None), four_bits=experiment.adapters.kind == "qlora")
    probe = Probe(build, text.num_hidden_layers, checkpointing=experiment.compute.checkpointing)
    stages = []
    for stage in experiment.stages:
        check_divides(stage, experiment.resources.processes)
        steps = _collated(source, experiment, stage, dataset) if real and dataset is not None else None
        step = _joined(steps) if steps else _assumed(source, experiment, stage)
        held = probe.activations(step, experiment.compute.micro_tokens)
        memory = rank_memory(experiment, parts, step, held, text.hidden_size)
        stages.append(_stage(experiment, stage, step, memory, text.hidden_size))
    return Forecast(source.told, reckoned, parts, stages)


def _stage(
    experiment: Experiment, stage: Stage, step: Step, memory: list[Portion], hidden: int
) -> StageForecast:
    ranks = experiment.resources.processes
    tokens = {
        "image": step.image,
        "text": step.text,
        "negatives": step.negative,
        "forwarded": step.forwarded,
    }
    return StageForecast(
        name=stage.name,
        steps=stage.steps,
        pictures=stage.steps * step.pictures * ranks,
        tokens={kind: count * ranks for kind, count in tokens.items()},
        memory=memory,
        kept=_kept(experiment, step, hidden),
    )


def _kept(experiment: Experiment, step: Step, hidden: int) -> int | None:
    """Tokens of a picture x width of the language model x bytes of a number; a little is told beside them."""
    if not experiment.compute.cache_vision or step.picture is None:
        return None
    return step.picture.tokens * hidden * torch_dtype(experiment.model.dtype).itemsize


def _assumed(source: Source, experiment: Experiment, stage: Stage) -> Step:
    """A rank's share of a step by arithmetic."""
    ranks = experiment.resources.processes
    picture = picture_of(source.config, source.settings, ASSUMED.width, ASSUMED.height)
    feeds: dict[str, int] = {feed: rows // ranks for feed, rows in stage.feeds.items()}
    settings = objective_settings(stage, experiment.model.object_readout)
    return assumed_step(settings, feeds, experiment.data.negatives, picture, ASSUMED)


def _collated(source: Source, experiment: Experiment, stage: Stage, dataset: Dataset) -> list[Step]:
    vision = source.config.vision_config
    made = batches(source, experiment, stage, dataset, BATCHES)
    return [step_of(batch, int(source.config.image_token_id), vision.patch_size) for batch in made]


def _joined(steps: Sequence[Step]) -> Step:
    """The step that holds most, of several."""
    return max(steps, key=lambda step: step.forwarded)


def _built(source: Source, experiment: Experiment) -> Callable[[int | None], Backbone]:
    model, adapters = experiment.model, experiment.adapters.as_settings()

    def build(layers: int | None) -> Backbone:
        return empty_backbone(
            source.config, dtype=model.dtype, train=model.train, adapters=adapters, text_layers=layers
        )

    return build
