"""Embedders: pictures and texts as directions, so that what is alike lies near.

====================  =============================================================  ======================
``clip:MODEL``        a model of pictures and texts (CLIP, SigLIP, SigLIP2, …)       picture to text
``vision:MODEL``      a model of pictures alone (DINOv2, ViT, ConvNeXt, …)           picture to centroid
``tuned:FOLDER``      a multimodal model's own embeddings of objects and texts       picture to text
``descriptions``      the words of descriptions, counted; nothing is downloaded      description to text
====================  =============================================================  ======================

MODEL is a folder or a hub name. What an embedder is compared with follows from what it can embed: with
pictures and texts, a picture is compared with the category's texts; with pictures alone, with the mean
direction of the category's labelled training pictures; with texts alone, the picture's description with the
category's.

A new embedder is one class in a file of its own, registered by name: in an installed package (entry points of
the group ``finedefics.embedders``), or in a ``.py`` file whose path is given as the name.
"""

from finedefics.embedders._base import (
    EMBEDDERS,
    Embedder,
    Settings,
    embed_categories,
    make_embedder,
    mode_of,
    normalised,
)
from finedefics.embedders._centroids import Centroids

__all__ = [
    "EMBEDDERS",
    "Centroids",
    "Embedder",
    "Settings",
    "embed_categories",
    "make_embedder",
    "mode_of",
    "normalised",
]
