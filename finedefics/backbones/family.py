"""What differs between model families: where the parts stand, how pictures and positions are handed over."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from finedefics.errors import wrong_use
from finedefics.registry import Registry

Grid = tuple[int, int]


class ImageTokens(list[Tensor]):
    """Pictures as the language model takes them: a list of [tokens, hidden], one a picture.

    Attributes:
        grids: rows and columns in which each picture's tokens stand, for families that place them in two
            dimensions; None for the others.
    """

    def __init__(self, tokens: Iterable[Tensor], grids: Sequence[Grid] | None = None) -> None:
        super().__init__(tokens)
        self.grids = None if grids is None else list(grids)

    def chosen(self, indices: Sequence[int]) -> "ImageTokens":
        """The pictures at these positions, in this order."""
        grids = None if self.grids is None else [self.grids[i] for i in indices]
        return ImageTokens((self[i] for i in indices), grids)


@dataclass(frozen=True)
class Products:
    """Weights that multiply equally many rows.

    Attributes:
        weights: of linear layers.
        rows: of all pictures together.
        inner: their input comes from other weights of the same part, and not straight from the part before.
    """

    weights: list[Tensor]
    rows: int
    inner: bool = True


@dataclass(frozen=True)
class Family:
    """A family of Hugging Face image-text-to-text models; the methods are what most of them need.

    Attributes:
        processor: name of the processor's class.
        vision, connector, text: dotted paths of the parts. The connector may stand inside the vision tower.
        beside_connector: parameters outside the three parts that are trained with the connector.
        films: the processor takes films as well, and would need torchvision for them.
        chat_template: how a conversation is written where the checkpoint does not say.
        advice: settings of the image processor that a first experiment should have, as pictures show one
            thing each: name, value as YAML, and why.
    """

    processor: str
    vision: str
    connector: str
    text: str
    beside_connector: tuple[str, ...] = ()
    films: bool = False
    chat_template: str | None = None
    advice: tuple[tuple[str, str, str], ...] = ()

    def prepare(self, model: Any) -> None:
        """Change a loaded model in memory, where its language model would not be causal otherwise."""

    def one_row_a_picture(self, images: dict[str, Tensor]) -> dict[str, Tensor]:
        """The processor's tensors with the pictures in dimension 0, so that a batch can be divided."""
        return images

    def block(self, ids: Sequence[int], image_token_id: int) -> tuple[int, ...]:
        """A picture's token ids, boundary tokens included, of what the processor made of the image token."""
        return tuple(int(token) for token in ids)

    def encode(self, model: Any, images: Mapping[str, Tensor]) -> list[Tensor]:
        """Tokens [tokens, hidden] of each picture; their number may differ between pictures."""
        return list(model.get_image_features(**images, return_dict=True).pooler_output)

    def patches(self, model: Any, images: Mapping[str, Tensor]) -> int:
        """Patches that the vision tower sees of a picture, all its tiles together, padding included."""
        *tiles, _, height, width = images["pixel_values"].shape[1:]
        return math.prod(tiles) * math.ceil(height * width / model.config.vision_config.patch_size**2)

    def views(self, model: Any, images: Mapping[str, Tensor]) -> list[Grid]:
        """Rows and columns of patches of every view that the vision tower sees, padding included."""
        pixels = images["pixel_values"]
        height, width = (edge // model.config.vision_config.patch_size for edge in pixels.shape[-2:])
        return [(height, width)] * math.prod(pixels.shape[:-3])

    def attended(self, model: Any, views: Sequence[Grid]) -> int:
        """Pairs of patches of which one attends to the other, over all layers of the vision tower."""
        return int(model.config.vision_config.num_hidden_layers) * sum((r * c) ** 2 for r, c in views)

    def connected(self, model: Any, views: Sequence[Grid], tokens: int) -> tuple[list[Products], int]:
        """What the connector multiplies, and the FLOPs of its attention, forward.

        Args:
            views: as `views` gave them.
            tokens: that it makes of them.
        """
        return [Products(linear_weights(model.get_submodule(self.connector)), tokens)], 0

    def grids(self, model: Any, images: Mapping[str, Tensor]) -> list[Grid] | None:
        """Rows and columns of each picture's tokens where `positions` needs them."""
        return None

    def positions(
        self, positions: Tensor, places: Tensor, image_tokens: Sequence[Tensor] | None = None
    ) -> Tensor:
        """What the language model takes as ``position_ids``.

        Args:
            positions: [rows, width], counted from 0 within each sequence; several may share a row.
            places: [rows, width], where image tokens stand.
            image_tokens: the pictures that fill the places, in row-major order.

        Returns:
            [rows, width], or [axes, rows, width].
        """
        return positions


def linear_weights(part: nn.Module, *within: str) -> list[Tensor]:
    """Weights of linear and convolutional layers, of those whose dotted name has one of the words in it."""
    return [
        layer.weight
        for name, layer in part.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d)
        if not within or any(word in name for word in within)
    ]


FAMILIES: Registry[Family] = Registry("model family")


def family_of_name(name: str) -> str | None:
    """The ``model_type`` that a hub name speaks of (``Qwen/Qwen2.5-VL-7B-Instruct``), None if of none."""

    def plain(text: str) -> str:
        return "".join(filter(str.isalnum, text.lower()))

    spoken = [kind for kind in FAMILIES if plain(kind) in plain(name)]
    return max(spoken, key=len, default=None)


def family_of_processor(processor: Any) -> Family:
    """The family whose processor this is; FinedeficsError (exit code 2) where none is registered."""
    name = type(processor).__name__
    for key in FAMILIES:
        if FAMILIES[key].processor == name:
            return FAMILIES[key]
    raise wrong_use(
        "no model family has this processor", place=name, cure=f"use one of {', '.join(FAMILIES)}"
    )
