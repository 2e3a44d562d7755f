"""The multimodal language model behind a small, uniform surface; what differs between families is data.

Everything else in the package speaks to a `Backbone`: picture tokens in, hidden states out. A new family is
one entry in `FAMILIES`.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finedefics.errors import FinedeficsError, wrong_use


@dataclass(frozen=True)
class Family:
    """Where the parts of a Hugging Face image-text-to-text model stand (dotted attribute paths)."""

    vision: str
    connector: str
    text: str


FAMILIES: dict[str, Family] = {
    "idefics2": Family("model.vision_model", "model.connector", "model.text_model"),
    "idefics3": Family("model.vision_model", "model.connector", "model.text_model"),
    "smolvlm": Family("model.vision_model", "model.connector", "model.text_model"),
    "llava_next": Family("model.vision_tower", "model.multi_modal_projector", "model.language_model"),
    "llava_onevision": Family("model.vision_tower", "model.multi_modal_projector", "model.language_model"),
    "paligemma": Family("model.vision_tower", "model.multi_modal_projector", "model.language_model"),
}
PARTS = ("vision", "connector", "text")


class Backbone(nn.Module):
    """A Hugging Face image-text-to-text model with its processor.

    Args:
        model: any model whose ``config.model_type`` is in `FAMILIES`.
        processor: the model's processor.
        train: the parts whose weights are tuned; the others are frozen.
    """

    def __init__(
        self, model: nn.Module, processor: Any, train: Iterable[str] = ("text", "connector")
    ) -> None:
        super().__init__()
        self.model: Any = model
        self.processor = processor
        config: Any = model.config
        if config.model_type not in FAMILIES:
            raise wrong_use(
                "unknown model family",
                place=config.model_type,
                cure=f"use one of {', '.join(FAMILIES)}, or add an entry to finedefics/backbones.py",
            )
        self.family = FAMILIES[config.model_type]
        self.image_token_id = int(config.image_token_id)
        self.train_parts(train)

    def train_parts(self, parts: Iterable[str]) -> None:
        """Let gradients reach only the named parts (`PARTS`); the output head goes with the text model."""
        wanted = set(parts)
        for name in PARTS:
            self.part(name).requires_grad_(name in wanted)
        self.model.get_output_embeddings().requires_grad_("text" in wanted)

    def part(self, name: str) -> Any:
        """One of `PARTS`; FinedeficsError when the model lacks it."""
        try:
            return self.model.get_submodule(getattr(self.family, name))
        except AttributeError as error:
            raise FinedeficsError(
                f"the model has no {name} part",
                place=type(self.model).__name__,
                cure="use a multimodal checkpoint",
            ) from error

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def encode_images(self, images: Mapping[str, Tensor]) -> list[Tensor]:
        """Language-model tokens of each picture, after the connector: a list of [tokens, hidden]."""
        output = self.model.get_image_features(**images, return_dict=True).pooler_output
        return list(output)

    def embed_tokens(self, input_ids: Tensor, image_tokens: list[Tensor] | None = None) -> Tensor:
        """Input embeddings [batch, length, hidden]; picture tokens fill the image places, in order.

        Raises:
            ValueError: the number of places and of picture tokens differ.
        """
        embeddings = self.model.get_input_embeddings()(input_ids)
        if not image_tokens:
            return embeddings
        features = torch.cat(image_tokens).to(embeddings.dtype)
        places = input_ids == self.image_token_id
        if int(places.sum()) != len(features):
            raise ValueError(f"{int(places.sum())} image places but {len(features)} image tokens")
        return embeddings.masked_scatter(places[..., None].expand_as(embeddings), features)

    def hidden_states(self, embeddings: Tensor, attention_mask: Tensor, **options: Any) -> Tensor:
        """Final hidden states [batch, length, hidden] of the language model."""
        return self.language_model(embeddings, attention_mask, use_cache=False, **options).last_hidden_state

    def language_model(self, embeddings: Tensor, attention_mask: Tensor, **options: Any) -> Any:
        """The language model's raw output, caches included (``use_cache``, ``past_key_values``)."""
        return self.part("text")(inputs_embeds=embeddings, attention_mask=attention_mask, **options)

    def logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary logits [..., vocabulary] of hidden states [..., hidden]."""
        return self.model.get_output_embeddings()(hidden)

    def save_pretrained(self, folder: str | Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """Write an ordinary Hugging Face folder (safetensors and processor), loadable without this package.

        Args:
            folder: made where absent.
            state_dict: the model's consolidated weights where they are sharded over ranks.
        """
        self.model.save_pretrained(str(folder), state_dict=state_dict)
        self.processor.save_pretrained(str(folder))


def load_backbone(
    path: str | Path, *, dtype: str = "float32", train: Iterable[str] = ("text", "connector")
) -> Backbone:
    """Load a model by hub name or folder, as Transformers would, without running code from the checkpoint.

    Raises:
        FinedeficsError: the folder or name does not hold a loadable image-text-to-text model.
    """
    from transformers import AutoModelForImageTextToText

    try:
        model = AutoModelForImageTextToText.from_pretrained(
            str(path), dtype=getattr(torch, dtype), trust_remote_code=False
        )
        processor = load_processor(path)
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, FinedeficsError):
            raise
        reason = str(error).splitlines()[0][:160]
        raise FinedeficsError(
            f"no loadable image-text-to-text model ({reason})",
            place=str(path),
            cure="give a folder with config.json and safetensors, or a hub name",
        ) from error
    return Backbone(model, processor, train)


def load_processor(path: str | Path) -> Any:
    """The model's processor, with the PIL image backend: torchvision is not needed."""
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(str(path), trust_remote_code=False, backend="pil")


def model_type(path: str | Path) -> str | None:
    """``model_type`` of a checkpoint folder, None where there is none."""
    config = Path(path) / "config.json"
    return json.loads(config.read_text()).get("model_type") if config.is_file() else None
