"""The model that is trained, as one rank holds it at a run's start and where a later stage is resumed."""

from functools import partial
from pathlib import Path

import torch

from finedefics.adapters import load_adapters, merge, quantization, save_adapters
from finedefics.backbones import Backbone, load_backbone
from finedefics.backbones.compiling import check_compiler
from finedefics.backbones.precision import check_dtype
from finedefics.errors import FinedeficsError
from finedefics_platform.base.storage import Location, commit, fetch
from finedefics_platform.config.experiment import Experiment
from finedefics_platform.training.sharding import built_sharded, consolidated_state, whole


def load_model(experiment: Experiment, folder: Path, device: torch.device, world_size: int) -> Backbone:
    """The model that is to be trained, as one rank holds it: its shards alone under ZeRO 3.

    Args:
        folder: of the model.

    Raises:
        FinedeficsError: the device does not compute in the experiment's dtype, or torch cannot compile for
            it, or as `load_backbone`.
    """
    model = experiment.model
    check_dtype(model.dtype, str(device))
    if experiment.compute.compile:
        check_compiler(device.type)
    with built_sharded(experiment, world_size):
        backbone = load_backbone(
            folder,
            dtype=model.dtype,
            train=model.train,
            quantization=quantization(experiment.adapters.as_settings(), model.dtype),
            processor=model.processor,
            attention=model.attention,
        )
    _forget_unused_names(backbone)
    return backbone.to(device)


def _forget_unused_names(backbone: Backbone) -> None:
    """Let the model be saved under the names that its checkpoint has.

    Transformers saves by the renamings that it read by, and in shards keeps those as well that no weight had.
    """
    kept = getattr(backbone.model, "_weight_conversions", None)
    if kept is not None:
        backbone.model._weight_conversions = [each for each in kept if each.was_used()]


def keep_adapters(backbone: Backbone, place: Location, rank: int) -> None:
    """Keep a finished stage's adapters before they are merged, for a later stage's checkpoints lack the sum.

    All ranks call it; rank 0 writes, in PEFT's format.
    """
    state = consolidated_state(backbone.model, rank, named="lora_")
    if rank == 0:
        with commit(place, replace=True) as folder:
            save_adapters(backbone, folder, state)


def merge_kept(backbone: Backbone, place: Location) -> None:
    """Merge a finished stage's adapters into the weights that it began with. All ranks call it.

    Raises:
        FinedeficsError: they are not there.
    """
    try:
        folder = fetch(place)
    except FileNotFoundError as error:
        raise FinedeficsError(
            "the adapters of a finished stage are missing",
            place=str(place),
            cure="start over with --force",
        ) from error
    load_adapters(backbone, folder, gather=whole)
    merge(backbone, gather=partial(whole, written=True))
