"""Qwen2.5-VL: pictures of any size as runs of patches, and positions on three axes.

An image token stands at (time, row, column); the text after a picture goes on behind its larger side, not
behind its number of tokens (M-RoPE). The processor gives all pictures' patches in one run; they are padded to
one row a picture here, so that a batch can be divided like any other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from finedefics.backbones.family import FAMILIES, Family, Grid, ImageTokens


@dataclass(frozen=True)
class Qwen25VL(Family):
    """Patches in rows, three axes of positions."""

    def one_row_a_picture(self, images: dict[str, Tensor]) -> dict[str, Tensor]:
        """``pixel_values`` as [pictures, patches, patch values], padded; ``image_grid_thw`` [pictures, 3]."""
        counts = images["image_grid_thw"].prod(1).tolist()
        patches = images["pixel_values"].split(counts)
        return {**images, "pixel_values": pad_sequence(patches, batch_first=True)}

    def encode(self, model: Any, images: Mapping[str, Tensor]) -> list[Tensor]:
        """As many tokens a picture as it has patches, over the square of the merge size."""
        grid = images["image_grid_thw"]
        patches = torch.cat(
            [row[:count] for row, count in zip(images["pixel_values"], grid.prod(1).tolist(), strict=True)]
        )
        return list(model.get_image_features(patches, grid, return_dict=True).pooler_output)

    def patches(self, model: Any, images: Mapping[str, Tensor]) -> int:
        """Those of the largest picture."""
        return images["pixel_values"].shape[1]

    def views(self, model: Any, images: Mapping[str, Tensor]) -> list[Grid]:
        """Without padding: the tower gets the patches that there are."""
        return [(rows, columns) for _, rows, columns in images["image_grid_thw"].tolist()]

    def attended(self, model: Any, views: Sequence[Grid]) -> int:
        """Whole pictures in a few layers, windows in the others."""
        vision = model.config.vision_config
        whole, edge = len(vision.fullatt_block_indexes), vision.window_size // vision.patch_size
        windowed = sum(_squares(rows, edge) * _squares(columns, edge) for rows, columns in views)
        return int(whole * sum((r * c) ** 2 for r, c in views) + (vision.depth - whole) * windowed)

    def grids(self, model: Any, images: Mapping[str, Tensor]) -> list[Grid]:
        """Rows and columns of tokens, in merged patches."""
        merge = model.config.vision_config.spatial_merge_size
        return [(rows // merge, columns // merge) for _, rows, columns in images["image_grid_thw"].tolist()]

    def positions(
        self, positions: Tensor, places: Tensor, image_tokens: Sequence[Tensor] | None = None
    ) -> Tensor:
        """[3, rows, width]: time, row and column.

        Raises:
            ValueError: pictures without their grids.
        """
        axes = positions.flatten().expand(3, -1).clone()
        if not image_tokens:
            return axes.unflatten(1, positions.shape)
        grids = image_tokens.grids if isinstance(image_tokens, ImageTokens) else None
        if grids is None:
            raise ValueError("picture tokens without their grids, which encode_images gives")
        sequence = (positions.flatten() == 0).cumsum(0)
        order = torch.arange(len(sequence), device=positions.device)
        blocks = places.flatten().nonzero()[:, 0].split([rows * columns for rows, columns in grids])
        for block, (rows, columns) in zip(blocks, grids, strict=True):
            start, last = axes[0, block[0]].clone(), block[-1]
            along = torch.arange(rows * columns, device=positions.device)
            axes[:, block] = start + torch.stack([along * 0, along // columns, along % columns])
            after = (sequence == sequence[last]) & (order > last)
            axes += after * (max(rows, columns) - rows * columns)
        return axes.unflatten(1, positions.shape)


def _squares(side: int, window: int) -> int:
    """Sum of the squares of a side's windows, the last of which may be narrower."""
    whole, rest = divmod(side, window)
    return whole * window**2 + rest**2


_PIXELS = (("max_pixels", "401408", "at most 512 tokens a picture, each of 28 x 28 pixels"),)

FAMILIES.register("qwen2_5_vl")(
    Qwen25VL(
        "Qwen2_5_VLProcessor",
        "model.visual",
        "model.visual.merger",
        "model.language_model",
        films=True,
        advice=_PIXELS,
    )
)
