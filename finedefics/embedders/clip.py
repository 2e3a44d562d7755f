"""Models trained on pictures and texts together: CLIP, SigLIP, SigLIP2 and what else transformers has."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

from finedefics.embedders._base import EMBEDDERS, Array, Settings, needs_argument, normalised
from finedefics.embedders._models import (
    embed_in_batches,
    features,
    load_image_processor,
    load_model,
    loaded,
    model_identity,
)
from finedefics.errors import FinedeficsError


@EMBEDDERS.register("clip")
class ClipEmbedder:
    """A dual encoder of transformers by hub name or folder; texts longer than its context are cut.

    SigLIP models were trained on lower-case texts that are padded to their full context, without a mask, and
    read the last place: any other padding gives another embedding.
    """

    def __init__(self, argument: str | None, settings: Settings) -> None:
        self.model = needs_argument("clip", argument, "google/siglip2-base-patch16-224")
        self.settings = settings

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model, "settings": self.settings}  # weights do not travel

    @cached_property
    def embedder_id(self) -> str:
        """``clip:`` with the model's content or commit, and its precision."""
        return f"clip:{model_identity(self.model)}-{self.settings.of_encoder}"

    @property
    def dim(self) -> int:
        """Width of the space that pictures and texts share."""
        config = self._config
        text = getattr(config, "text_config", config)
        if self._is_siglip:
            return int(getattr(text, "projection_size", None) or text.hidden_size)
        return int(getattr(config, "projection_dim", None) or text.projection_dim)

    @property
    def template(self) -> str:
        """How a category's name is worded, as in the model's own training and evaluation."""
        return "this is a photo of {name}." if self._is_siglip else "a photo of a {name}."

    def embed_pictures(self, images: Sequence[bytes]) -> Array:
        """[pictures, dim], normalised."""
        process, model = self._processor, self._model
        return embed_in_batches(
            images,
            self.settings,
            lambda pictures: process(images=pictures, return_tensors="pt"),
            lambda inputs: features(model.get_image_features(**inputs)),
        )

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Array:
        """[texts, dim], normalised."""
        found = []
        for start in range(0, len(texts), self.settings.batch_size):
            tokens = self._tokens(texts[start : start + self.settings.batch_size])
            output = self._model.get_text_features(**tokens)
            found.append(features(output).float().cpu())
        return normalised(torch.cat(found).numpy())

    def _tokens(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        length = self._config.text_config.max_position_embeddings
        if self._is_siglip:
            texts = [text.lower() for text in texts]
        encoded = self._tokenizer(
            list(texts),
            padding="max_length" if self._is_siglip else True,
            truncation=True,
            max_length=length,
            return_tensors="pt",
        )
        wanted = ("input_ids",) if self._is_siglip else ("input_ids", "attention_mask")
        return {key: encoded[key].to(self.settings.device) for key in wanted if key in encoded}

    @property
    def _is_siglip(self) -> bool:
        return str(self._config.model_type).startswith("siglip")

    @cached_property
    def _config(self) -> Any:
        from transformers import AutoConfig

        config = loaded(self.model, lambda: AutoConfig.from_pretrained(self.model, trust_remote_code=False))
        if not hasattr(config, "text_config") or not hasattr(config, "vision_config"):
            raise FinedeficsError(
                f"a {config.model_type} does not embed pictures and texts",
                place=f"embedder clip:{self.model}",
                cure=f"use a model of the kind of CLIP or SigLIP, or vision:{self.model}",
            )
        return config

    @cached_property
    def _model(self) -> Any:
        assert self._config
        model = load_model(self.model, self.settings)
        if not hasattr(model, "get_text_features") or not hasattr(model, "get_image_features"):
            raise FinedeficsError(
                f"a {self._config.model_type} does not embed pictures and texts apart",
                place=f"embedder clip:{self.model}",
                cure="use a model of the kind of CLIP or SigLIP, or tuned:FOLDER for a multimodal one",
            )
        return model

    @cached_property
    def _processor(self) -> Any:
        return load_image_processor(self.model)

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return loaded(self.model, lambda: AutoTokenizer.from_pretrained(self.model, trust_remote_code=False))
