"""Models of pictures alone: DINOv2 and its kind, ViT, ConvNeXt, ResNet, or the picture half of a CLIP."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

from finedefics.embedders._base import EMBEDDERS, Array, Settings, needs_argument
from finedefics.embedders._models import (
    embed_in_batches,
    features,
    load_image_processor,
    load_model,
    model_identity,
)

_CLASS_TOKENS = ("cls_token", "class_token")


@EMBEDDERS.register("vision")
class VisionEmbedder:
    """A vision model of transformers by hub name or folder, frozen.

    The class token's last state where the model has one (a pooling layer on top of it is often missing from
    the checkpoint, and random then); else what the model pools itself; else the mean over places.
    """

    def __init__(self, argument: str | None, settings: Settings) -> None:
        self.model = needs_argument("vision", argument, "facebook/dinov2-base")
        self.settings = settings

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model, "settings": self.settings}  # weights do not travel

    @cached_property
    def embedder_id(self) -> str:
        """``vision:`` with the model's content or commit, and its precision."""
        return f"vision:{model_identity(self.model)}-{self.settings.of_encoder}"

    @cached_property
    def dim(self) -> int:
        """Width of the embedding; asked of the model itself, with a blank picture."""
        import io

        from PIL import Image

        blank = io.BytesIO()
        Image.new("RGB", (64, 64)).save(blank, format="PNG")
        return int(self.embed_pictures([blank.getvalue()]).shape[1])

    def embed_pictures(self, images: Sequence[bytes]) -> Array:
        """[pictures, dim], normalised."""
        process = self._processor
        return embed_in_batches(
            images,
            self.settings,
            lambda pictures: process(images=pictures, return_tensors="pt"),
            self._features,
        )

    def _features(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        if hasattr(self._model, "get_image_features"):
            return features(self._model.get_image_features(**inputs))
        output = self._model(**inputs)
        states = output.last_hidden_state
        if states.dim() == 3 and self._has_class_token:
            return states[:, 0]
        if getattr(output, "pooler_output", None) is not None:
            return output.pooler_output.flatten(1)
        return states.mean(1) if states.dim() == 3 else states.flatten(2).mean(2)

    @cached_property
    def _has_class_token(self) -> bool:
        names = (name.rpartition(".")[2] for name, _ in self._model.named_parameters())
        return any(name in _CLASS_TOKENS for name in names)

    @cached_property
    def _model(self) -> Any:
        return load_model(self.model, self.settings, may_lack="pooler")

    @cached_property
    def _processor(self) -> Any:
        return load_image_processor(self.model)
