"""The model that a labeller asks, with the templates and the readout that its training wrote beside it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finedefics.records import Category

if TYPE_CHECKING:
    from finedefics.embedders import Settings
    from finedefics.scoring import AskedModel


def asked_model(model: str, categories: Sequence[Category], settings: "Settings") -> "AskedModel":
    """The model of a folder or hub name, asked as it was trained to be asked.

    Raises:
        FinedeficsError: it cannot be loaded, or the categories cannot be told apart.
    """
    from finedefics.conversation import Templates
    from finedefics.placing import load_placed
    from finedefics.readout import load_readout
    from finedefics.scoring import AskedModel

    placed = load_placed(model, settings.device, settings.dtype)
    return AskedModel(
        placed.backbone,
        categories,
        micro_tokens=placed.micro_tokens,
        templates=Templates.load(model),
        object_readout=load_readout(model),
    )


def was_tuned(model: str) -> bool:
    """Whether training left its templates beside the model, which may then know labels of train."""
    from finedefics.conversation import TEMPLATES_FILE

    return (Path(model).expanduser() / TEMPLATES_FILE).is_file()
