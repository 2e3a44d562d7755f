"""Idefics2, Idefics3 and SmolVLM: a picture, or every tile of it, becomes a fixed number of tokens.

Idefics2 resamples with a perceiver, the others shuffle pixels into channels. With image splitting on, a
picture is several tiles, and its block of token ids holds the tokens that separate them. SmolVLM's own
processor demands torchvision and num2words for films; pictures go through `Idefics3Processor`, from which it
was derived (see `finedefics.backbones.loading`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finedefics.backbones.family import FAMILIES, Family, Grid, Products, linear_weights


@dataclass(frozen=True)
class Resampled(Family):
    """Idefics2: a perceiver's latents look at the projected patches of each view."""

    def connected(self, model: Any, views: Sequence[Grid], tokens: int) -> tuple[list[Products], int]:
        """The projection sees patches, the resampler's keys and values latents as well, the rest latents."""
        part, sizes = model.get_submodule(self.connector), model.config.perceiver_config
        resampler, patches = part.perceiver_resampler, sum(rows * columns for rows, columns in views)
        latents, projection = sizes.resampler_n_latents * len(views), part.modality_projection
        keys = linear_weights(resampler, "k_proj", "v_proj")
        held = set(map(id, keys))
        width = sizes.resampler_depth * sizes.resampler_n_heads * sizes.resampler_head_dim
        return [
            Products(linear_weights(projection, "gate_proj", "up_proj"), patches, inner=False),
            Products(linear_weights(projection, "down_proj"), patches),
            Products(keys, patches + latents),
            Products([w for w in linear_weights(resampler) if id(w) not in held], latents),
        ], 4 * width * sizes.resampler_n_latents * (patches + latents)


_PARTS = ("model.vision_model", "model.connector", "model.text_model")

_SPLITTING = "do_image_splitting", "false"
_FIVE = ((*_SPLITTING, "64 tokens a picture; cut into four beside the whole, it would be 320"),)
_TILES = ((*_SPLITTING, "one view a picture; as a grid of tiles it would be many times the tokens"),)

FAMILIES.register("idefics2")(Resampled("Idefics2Processor", *_PARTS, advice=_FIVE))
FAMILIES.register("idefics3")(Family("Idefics3Processor", *_PARTS, advice=_TILES))
FAMILIES.register("smolvlm")(Family("Idefics3Processor", *_PARTS, films=True, advice=_TILES))
