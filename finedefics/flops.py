"""What a step asks of a card: its model FLOPs, and how many the cards that are known can do."""

import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from finedefics.backbones import Backbone
from finedefics.batch import Batch

# dense bfloat16 peaks of the vendors' data sheets, TFLOP/s
PEAKS = {
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H200 NVL": 835,
    "H100": 989,
    "H200": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "A10": 125,
}


def peak_tflops(card: str) -> float | None:
    """Dense bfloat16 peak of a card by its name as CUDA gives it; None where it is not known.

    Whole words count: an A10G is no A10.
    """
    return next((peak for name, peak in PEAKS.items() if re.search(rf"\b{name}\b", card)), None)


def peak_of(device: torch.device) -> float | None:
    """`peak_tflops` of a device; None for one that is no CUDA card."""
    return peak_tflops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


class StepFlops:
    """Counts the model FLOPs of a backbone's steps: those needed however a step is scheduled.

    Every unique sequence counts once, useful tokens only, and nothing that is computed again. A part with N
    weights takes 2·N a token forward; 2·N backward where a gradient passes through it (it, or a part below
    it, is trained); and 2·T for the gradients of its T trained weights. To that the text model's causal
    attention adds 2·L·h·s² for a sequence of s tokens, L layers and width h, and twice that backward. Tokens
    of the vision tower are its patches (its own attention is left out), of the connector the tokens that it
    makes; the head counts at answer tokens.

    Utilisation (MFU) is these FLOPs over the seconds that the steps took and the peak of the cards.
    """

    def __init__(self, backbone: Backbone) -> None:
        vision, connector, text = (backbone.part(name) for name in ("vision", "connector", "text"))
        beside = list(connector.parameters())
        inside = set(map(id, beside))  # of the vision tower, in some families
        own = [parameter for parameter in vision.parameters() if id(parameter) not in inside]
        layers = list(getattr(text, "layers", text).parameters())
        config = backbone.model.config.get_text_config()
        width = config.num_attention_heads * (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        reached = [any(p.requires_grad for p in part) for part in (own, beside, layers)]
        self._patch = _per_token(own, reached[0])
        self._picture_token = _per_token(beside, any(reached[:2]))
        self._token = _per_token(layers, any(reached))
        self._pair = 2 * config.num_hidden_layers * width * (3 if any(reached) else 1)
        head = backbone.model.get_output_embeddings().parameters()
        self._answer = _per_token(list(head), any(reached))
        vision_config = backbone.model.config.vision_config
        self._pixels = vision_config.patch_size**2 * getattr(vision_config, "temporal_patch_size", 1) * 3
        self._image_token = backbone.image_token_id

    def of(self, batch: Batch) -> float:
        """Forward and backward of one rank's share of a step; the batch is on the CPU."""
        passes = (batch.sequences, batch.embedded)
        tokens = sum(each.useful for each in passes)
        # a sequence of s tokens has positions 0 to s - 1, and the sum of 2p + 1 over them is s²
        pairs = sum(int((2 * each.positions + 1)[each.segments > 0].sum()) for each in passes)
        answers = int((batch.targets != -100).sum())
        found = self._token * tokens + self._pair * pairs + self._answer * answers
        if batch.images:
            pixels = batch.images["pixel_values"]
            places = sum(int((each.ids == self._image_token).sum()) for each in passes)
            shown = sum(len(each.images) for each in passes)
            seen = places / max(shown, 1) * len(pixels)  # a picture shown in both passes is made once
            found += self._patch * (pixels.numel() / self._pixels) + self._picture_token * seen
        return float(found)


def _per_token(parameters: Iterable[nn.Parameter], reached: bool) -> int:
    """FLOPs of a part for one token, forward and backward."""
    parameters = list(parameters)
    weights = sum(map(elements, parameters))
    trained = sum(elements(parameter) for parameter in parameters if parameter.requires_grad)
    return 2 * weights * (2 if reached else 1) + 2 * trained


def elements(parameter: Tensor) -> int:
    """Numbers of a weight, whole also where it is held in four bits or partitioned over ranks."""
    if (state := getattr(parameter, "quant_state", None)) is not None:
        return int(state.shape.numel())
    return int(getattr(parameter, "ds_numel", parameter.numel()))
