"""Where a forecast's facts come from: the model's configuration and processor, and the dataset's rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Any

from finedefics.backbones import load_processor
from finedefics.backbones.published import PUBLISHED, published_config
from finedefics.batch import Batch
from finedefics.collation import Collator
from finedefics.errors import FinedeficsError, reason_of
from finedefics.records import Category, Sample
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.experiment import Experiment
from finedefics_platform.config.stage import Stage
from finedefics_platform.data.store import Dataset, open_dataset
from finedefics_platform.training.identity import base_folder, model_place
from finedefics_platform.training.worker import objective_settings

_READ = 512  # pictures at least, as rows of a source may come category by category


@dataclass(frozen=True)
class Source:
    """What is known of a model without its weights.

    Attributes:
        config: transformers' configuration.
        processor: the model's processor, None where it is not at hand.
        settings: of the image processor, the experiment's over the checkpoint's own.
        told: where the facts are from.
    """

    config: Any
    processor: Any | None
    settings: Mapping[str, Any]
    told: str


def source_of(workspace: Workspace, experiment: Experiment) -> Source:
    """The configuration of an experiment's model: its folder's, the hub's, or what is published of it.

    Raises:
        FinedeficsError: none of them can be had.
    """
    from transformers import AutoConfig

    model = experiment.model
    try:
        folder = model_place(workspace, model.path) is not None
        # of a model on the hub the configuration is enough: its weights need not be here
        place = str(base_folder(workspace, model)) if folder else model.path
        revision = None if folder else model.revision
        config = AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=False)
        processor = load_processor(place, model.processor)
    except (OSError, ValueError) as error:
        config = published_config(model.path)
        if config is None:
            if isinstance(error, FinedeficsError):
                raise
            raise FinedeficsError(
                f"no configuration of the model can be had ({reason_of(error)})",
                place=model.path,
                cure="give a folder with config.json, or a hub name that can be reached",
            ) from error
        settings = {**PUBLISHED[model.path].processor, **model.processor}
        return Source(config, None, settings, f"what is published of {model.path}: the hub is not reachable")
    settings = {**processor.image_processor.to_dict(), **model.processor}
    return Source(config, processor, settings, f"the configuration of {model.path}")


def dataset_of(workspace: Workspace, experiment: Experiment) -> Dataset | None:
    """The experiment's dataset, None where it is not there yet."""
    try:
        return open_dataset(workspace, experiment.data.dataset)
    except FinedeficsError:
        return None


def batches(
    source: Source, experiment: Experiment, stage: Stage, dataset: Dataset, count: int
) -> list[Batch]:
    """So many of a rank's steps, collated for real from the first rows of the training split.

    Rows of the feed ``inferred`` are pictures of any category: which name they learn does not matter here.
    """
    ranks = experiment.resources.processes
    settings = objective_settings(stage, experiment.model.object_readout)
    collate = Collator(
        source.processor,
        dataset.categories(),
        settings,
        negatives=experiment.data.negatives,
        templates=experiment.data.templates.as_templates(),
        attributes=dataset.attribute_names(),
        similar=dataset.neighbours(),
    )
    rows = _rows(stage, dataset, count * max(stage.feeds.values()))
    made = []
    for step in range(count):
        taken: dict[str, list[Any]] = {
            feed: list(islice(rows[feed], many // ranks)) for feed, many in stage.feeds.items()
        }
        made.append(collate(taken, step=step))
    return made


def _rows(stage: Stage, dataset: Dataset, most: int) -> dict[str, Iterator[Any]]:
    samples = dataset.samples("train", max(_READ, 4 * most))
    categories = dataset.categories()
    kinds: dict[str, Sequence[Sample] | Sequence[Category]] = {
        "labelled": [s for s in samples if s.category_id],
        "captioned": [s for s in samples if not s.category_id and s.description],
        "text": [c for c in categories if c.description],
        "inferred": [
            s if s.category_id else replace(s, category_id=categories[0].category_id) for s in samples
        ],
    }
    for feed in stage.feeds:
        if not kinds[feed]:
            raise FinedeficsError(
                f"the first {len(samples)} pictures of train give the feed {feed} nothing",
                place=f"dataset {dataset.reference}",
                cure="mix the rows, or leave the feed out",
            )
    return {feed: cycle(kinds[feed]) for feed in stage.feeds}
