"""Model FLOPs of a Stage I step: what its samples need, however the step is scheduled.

Every unique sequence counts once and useful tokens only. What is computed again is not counted, neither the
second forward pass of divided batches nor that of checkpointed layers: a step that recomputes has a lower
utilisation, by what it paid for its memory. One number holds for every schedule of the same samples, so
utilisations compare as speeds do. A product of n rows with a matrix of N weights takes 2·N·n.

- Language model, a sequence of s tokens, L layers of width h with N weights in all: forward 2·N·s for the
  products and 2·L·h·s² for attention (the causal half of 4·L·h·s²). Backward, gradients of activations take
  as much again for the products and twice for attention. Whole weights take 2·N·s more for their own
  gradients; adapters' own products (below 1 %) are not counted. Sum of factors: products 2 with adapters, 3
  with whole weights; attention 3 with either. Weights in four bits are counted as the weights they stand for.
- Output head, at answer tokens only: the same factors.
- Vision tower, frozen: forward only; 2·N a patch, and for attention 4·h·n² in a layer where n patches see
  each other (both halves), 4·h·Σ m² over windows of m patches in Qwen's windowed layers.
- Connector: a weight counts for as many rows as go through it. Idefics2's projection sees patches, its
  resampler's keys and values patches and latents, the rest of it latents; attention 4·w·latents·(patches +
  latents) a layer, w the heads' width together. Qwen's merger sees groups of four patches. Frozen beside
  adapters: forward only. Trained with whole weights: three times that, less the gradient towards the frozen
  tower where the first layers would pass one on (Idefics2; Qwen's first norm is trained and needs it).
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from benchmarks.gpu.shapes import Shape
from finedefics.backbones import Backbone
from finedefics.batch import Batch

Sides = list[tuple[int, int]]


def weights(backbone: Backbone) -> dict[str, int]:
    """Weights by the rows that they multiply; to be taken before adapters are put in or weights quantized."""
    found = {"text": _count(backbone.part("text").layers.parameters())}
    connector = dict(backbone.part("connector").named_parameters())
    if backbone.model.config.model_type == "idefics2":
        found["vision"] = _count(backbone.part("vision").parameters())
        found["vision"] -= backbone.part("vision").embeddings.position_embedding.weight.numel()
        projection = {k: p for k, p in connector.items() if k.startswith("modality_projection")}
        keys = {k: p for k, p in connector.items() if "k_proj" in k or "v_proj" in k}
        found["first"] = _count(p for k, p in projection.items() if "gate_proj" in k or "up_proj" in k)
        found["projection"] = _count(projection.values())
        found["keys"] = _count(keys.values())
        found["latents"] = _count(p for k, p in connector.items() if "proj" in k)
        found["latents"] -= found["projection"] + found["keys"]
        return found
    found["merger"] = _count(p for k, p in connector.items() if k.startswith("mlp"))
    found["vision"] = _count(backbone.part("vision").parameters()) - _count(connector.values())
    return found


def step_flops(shape: Shape, backbone: Backbone, counted: dict[str, int], batch: Batch, tuning: str) -> float:
    """Model FLOPs of one step, forward and backward.

    Args:
        counted: what `weights` gave.
        tuning: ``full``, ``lora`` or ``qlora``.
    """
    lengths = [n for packed in (batch.sequences, batch.embedded) for n in sequence_lengths(packed.segments)]
    attention = 2 * shape.text_layers * shape.text_hidden * sum(n * n for n in lengths)
    products = 2 * counted["text"] * sum(lengths)
    answers = int((batch.targets != -100).sum())
    products += 2 * shape.text_hidden * backbone.model.get_output_embeddings().out_features * answers
    pictures = sides(shape, batch)
    connector, unpassed = connector_flops(shape, counted, pictures)
    seen = vision_flops(shape, counted, pictures)
    if tuning == "full":
        return 3 * products + 3 * attention + 3 * connector - unpassed + seen
    return 2 * products + 3 * attention + connector + seen


def vision_flops(shape: Shape, counted: dict[str, int], pictures: Sides) -> float:
    """Forward pass of the vision tower."""
    found = 0.0
    for rows, columns in pictures:
        patches, windowed = rows * columns, 0.0
        if shape.window:
            windowed = _squares(rows, shape.window) * _squares(columns, shape.window)
        whole = len(shape.whole) if shape.window else shape.vision_layers
        seen = whole * patches**2 + (shape.vision_layers - whole) * windowed
        found += 2 * counted["vision"] * patches + 4 * shape.vision_hidden * seen
    return found


def connector_flops(shape: Shape, counted: dict[str, int], pictures: Sides) -> tuple[float, float]:
    """Forward pass of the connector, and the part of it whose gradient towards the tower nobody wants."""
    patches = sum(rows * columns for rows, columns in pictures)
    if "merger" in counted:
        return 2 * counted["merger"] * patches / 4, 0.0
    latents = shape.latents * len(pictures)
    width = shape.resampler_depth * shape.resampler_heads * shape.resampler_head_dim
    products = counted["projection"] * patches + counted["keys"] * (patches + latents)
    products += counted["latents"] * latents
    return 2 * products + 4 * width * shape.latents * (patches + latents), 2 * counted["first"] * patches


def sides(shape: Shape, batch: Batch) -> Sides:
    """Rows and columns of patches of every picture."""
    if "image_grid_thw" in batch.images:
        return [(rows, columns) for _, rows, columns in batch.images["image_grid_thw"].tolist()]
    pixels = batch.images["pixel_values"]
    height, width = (side // shape.patch for side in pixels.shape[-2:])
    return [(height, width)] * len(pixels)


def sequence_lengths(segments: Tensor) -> list[int]:
    """Length of every sequence of a packed pass, from its segments [rows, width]."""
    return [n for row in segments.cpu() for n in torch.bincount(row)[1:].tolist() if n]


def _count(parameters: Iterable[Tensor]) -> int:
    return sum(p.numel() for p in parameters if p.dim() > 1)  # norms and biases multiply no matrix


def _squares(side: int, window: int) -> int:
    """Sum of the squares of a side's windows, the last of which may be narrower."""
    whole, rest = divmod(side, window)
    return whole * window**2 + rest**2
