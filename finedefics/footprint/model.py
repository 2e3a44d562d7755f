"""A model without weights: its parts, how many parameters each has, and which of them are trained."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch

from finedefics.adapters import AdapterSettings, apply
from finedefics.backbones import Backbone
from finedefics.backbones.precision import torch_dtype

# a weight in NF4 is half a byte, and one float32 scale serves 64 of them (bitsandbytes, without double
# quantization of the scales)
FOUR_BITS = 0.5 + 4 / 64


@dataclass(frozen=True)
class PartSize:
    """A part of a model.

    Attributes:
        name: ``vision``, ``connector``, ``text`` (with the table of input embeddings), ``head``, ``adapters``
            or ``others``.
        parameters, trained: how many it has, and how many of them are tuned.
        bytes: what its weights take where they stand whole.
    """

    name: str
    parameters: int
    trained: int
    bytes: int


def empty_backbone(
    config: Any,
    *,
    dtype: str = "float32",
    train: Iterable[str] = ("text", "connector"),
    adapters: AdapterSettings | None = None,
    text_layers: int | None = None,
) -> Backbone:
    """The model of a configuration on the meta device, with what is trained marked; no weights anywhere.

    Args:
        config: transformers' configuration; unchanged.
        adapters: put beside the weights; those beside weights in four bits stand beside ordinary ones here
            (`part_sizes` counts the bytes).
        text_layers: so many of the language model's layers; default: all.
    """
    from transformers import AutoModelForImageTextToText
    from transformers.initialization import no_init_weights

    config = copy.deepcopy(config)
    text = config.get_text_config()
    if text_layers is not None:
        text.num_hidden_layers = text_layers
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[:text_layers]
    with torch.device("meta"), no_init_weights():
        model = AutoModelForImageTextToText.from_config(config, dtype=torch_dtype(dtype))
        backbone = Backbone(model, None, train)
        if adapters is not None and adapters.kind != "full":
            kind = "lora" if adapters.kind == "qlora" else adapters.kind
            apply(backbone, replace(adapters, kind=kind))
    # PEFT makes adapters in float32; what shards them casts them to the model's dtype
    backbone.model.to(torch_dtype(dtype))
    return backbone


def part_sizes(backbone: Backbone, *, four_bits: bool = False) -> list[PartSize]:
    """The parts of a model, each parameter counted once, tied ones with the first part that has them.

    Args:
        four_bits: the weights of linear layers are held in NF4, all but the output head's.
    """
    model = backbone.model
    head = model.get_output_embeddings()
    linear = {
        id(module.weight)
        for module in model.modules()
        if type(module).__name__ == "Linear" and module is not head
    }
    counted: set[int] = set()
    sizes: list[PartSize] = []
    parts: list[tuple[str, Any]] = [
        ("adapters", [p for name, p in model.named_parameters() if "lora_" in name]),
        # the connector first: it may stand inside the vision tower
        *((name, backbone.part(name).parameters()) for name in ("connector", "vision", "text")),
        ("head", head.parameters()),
        ("others", model.parameters()),
    ]
    for name, parameters in parts:
        own = {id(p): p for p in parameters if id(p) not in counted}
        counted |= own.keys()
        if own:
            held = sum(
                p.numel() * (FOUR_BITS if four_bits and key in linear and name != "adapters" else p.itemsize)
                for key, p in own.items()
            )
            trained = sum(p.numel() for p in own.values() if p.requires_grad)
            sizes.append(PartSize(name, sum(p.numel() for p in own.values()), trained, round(held)))
    return sizes
