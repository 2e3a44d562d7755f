"""Tiny encoders of random weights, saved as ordinary Hugging Face folders: CLIP, SigLIP, DINOv2, ViT."""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import transformers
from tiny_models import tokenizer, tower

EDGE, WORDS = 32, 128


def _image_processor(module: str, name: str) -> Any:
    found = getattr(import_module(f"transformers.models.{module}.image_processing_pil_{module}"), name)
    if module == "siglip":
        return found(size={"height": EDGE, "width": EDGE})
    return found(size={"shortest_edge": EDGE}, crop_size={"height": EDGE, "width": EDGE})


def _text(kind: str, **more: Any) -> dict[str, Any]:
    return {
        "model_type": kind,
        "vocab_size": WORDS,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 16,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **more,
    }


def clip() -> tuple[Any, ...]:
    config = transformers.CLIPConfig(
        text_config=_text("clip_text_model"), vision_config=tower("clip_vision_model"), projection_dim=24
    )
    return transformers.CLIPModel(config), _image_processor("clip", "CLIPImageProcessorPil"), tokenizer()


def siglip() -> tuple[Any, ...]:
    config = transformers.SiglipConfig(
        text_config=_text("siglip_text_model"), vision_config=tower("siglip_vision_model")
    )
    images = _image_processor("siglip", "SiglipImageProcessorPil")
    return transformers.SiglipModel(config), images, tokenizer()


def dinov2() -> tuple[Any, ...]:
    config = transformers.Dinov2Config(**tower())
    return transformers.Dinov2Model(config), _image_processor("clip", "CLIPImageProcessorPil")


def vit() -> tuple[Any, ...]:
    """Without its pooling layer, as checkpoints of classifiers are."""
    model = transformers.ViTModel(transformers.ViTConfig(**tower()), add_pooling_layer=False)
    return model, _image_processor("siglip", "SiglipImageProcessorPil")


def save_encoder(kind: str, folder: Path) -> Path:
    """Build one and save it with its preprocessing."""
    torch.manual_seed(0)
    for part in {"clip": clip, "siglip": siglip, "dinov2": dinov2, "vit": vit}[kind]():
        part.save_pretrained(folder)
    return folder
