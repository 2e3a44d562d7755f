"""Multimodal language models of several families behind one surface.

A new family is a module here that registers a `Family` under the model's ``model_type``.
"""

from finedefics.backbones import idefics, llava, paligemma, qwen
from finedefics.backbones.base import PARTS, Backbone
from finedefics.backbones.family import FAMILIES, Family, ImageTokens, family_of_name
from finedefics.backbones.loading import load_backbone, load_processor, model_type
from finedefics.backbones.precision import DTYPES, stored_dtype

__all__ = [
    "DTYPES",
    "FAMILIES",
    "PARTS",
    "Backbone",
    "Family",
    "ImageTokens",
    "family_of_name",
    "idefics",
    "llava",
    "load_backbone",
    "load_processor",
    "model_type",
    "paligemma",
    "qwen",
    "stored_dtype",
]
