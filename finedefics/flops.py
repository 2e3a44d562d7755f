"""What a step asks of a card: its model FLOPs, and how many the cards that are known can do."""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from finedefics.backbones import Backbone
from finedefics.backbones.family import linear_weights
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

    Every unique sequence counts once, useful tokens only, and nothing that is computed again, neither by
    divided batches nor by checkpointed layers: whoever recomputes has a lower utilisation, by what it paid
    for its memory. One number holds for every schedule of the same samples.

    A product of n rows with N weights takes 2·N·n forward; 2·N·n backward where a gradient passes through it
    (it, or what stands before it, is trained); and 2·T·n for the gradients of its T trained weights.

    - Language model: a token is a row of each linear layer; causal attention adds 2·L·h·s² for a sequence of
      s tokens, L layers and width h (the half of 4·L·h·s² below the diagonal), and twice that backward.
    - Output head: rows are answer tokens alone.
    - Vision tower: rows are patches; attention adds 4·h a pair of patches that see each other, all of a view
      or those of a window (`Family.attended`).
    - Connector: a weight counts for as many rows as go through it (`Family.connected`). The gradient towards
      a frozen tower is wanted by nobody.

    Weights in four bits count as the weights they stand for. Utilisation (MFU) is these FLOPs over the
    seconds that the steps took and the peak of the cards.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        vision, connector, text = (backbone.part(name) for name in ("vision", "connector", "text"))
        beside = set(map(id, connector.parameters()))  # inside the vision tower, in some families
        tower = [parameter for parameter in vision.parameters() if id(parameter) not in beside]
        self._tower_trained = _trained(tower)
        self._connector_trained = _trained(connector.parameters())
        self._passed = self._tower_trained or self._connector_trained  # to what stands before the text model
        reached = self._passed or _trained(text.parameters())
        config = backbone.model.config.get_text_config()
        width = config.num_attention_heads * (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        own = [weight for weight in linear_weights(vision) if id(weight) not in beside]
        self._patch = _per_row(own, self._tower_trained)
        self._token = _per_row(linear_weights(text), reached)
        self._pair = 2 * config.num_hidden_layers * width * (3 if reached else 1)
        self._answer = _per_row([backbone.model.get_output_embeddings().weight], reached)

    def of(self, batch: Batch) -> float:
        """Forward and backward of one rank's share of a step; the batch had better be on the CPU."""
        passes = (batch.sequences, batch.embedded)
        tokens = sum(each.useful for each in passes)
        # a sequence of s tokens has positions 0 to s - 1, and the sum of 2p + 1 over them is s²
        pairs = sum(int((2 * each.positions + 1)[each.segments > 0].sum()) for each in passes)
        answers = int((batch.targets != -100).sum())
        found = self._token * tokens + self._pair * pairs + self._answer * answers
        if batch.images:
            places = sum(int((each.ids == self._backbone.image_token_id).sum()) for each in passes)
            shown = sum(len(each.images) for each in passes)
            # a picture shown in both passes is made once
            made = round(places / max(shown, 1) * len(batch.images["pixel_values"]))
            found += self.of_pictures(batch.images, made)
        return float(found)

    def of_pictures(self, images: Mapping[str, Tensor], tokens: int) -> float:
        """What of it vision tower and connector take.

        Args:
            images: what `finedefics.pictures.ImageEncoder` gave.
            tokens: that become of them.
        """
        family, model = self._backbone.family, self._backbone.model
        views = family.views(model, images)
        hidden = model.config.vision_config.hidden_size
        seen = 4 * hidden * family.attended(model, views) * (3 if self._tower_trained else 1)
        seen += self._patch * sum(rows * columns for rows, columns in views)
        products, attention = family.connected(model, views, tokens)
        for each in products:
            passed = self._tower_trained or (self._connector_trained and each.inner)
            seen += _per_row(each.weights, passed) * each.rows
        return float(seen + attention * (3 if self._passed else 1))


def _trained(parameters: Iterable[Tensor]) -> bool:
    return any(parameter.requires_grad for parameter in parameters)


def _per_row(weights: Iterable[Tensor], passed: bool) -> int:
    """FLOPs of a row's products with weights, forward and backward."""
    weights = list(weights)
    trained = sum(elements(weight) for weight in weights if weight.requires_grad)
    return 2 * sum(map(elements, weights)) * (2 if passed else 1) + 2 * trained


def elements(parameter: Tensor) -> int:
    """Numbers of a weight, whole also where it is held in four bits or partitioned over ranks."""
    if (state := getattr(parameter, "quant_state", None)) is not None:
        return int(state.shape.numel())
    return int(getattr(parameter, "ds_numel", parameter.numel()))
