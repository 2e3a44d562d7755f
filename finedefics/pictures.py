"""Pictures on their way to a model: decoded, and made into what its processor and its prompt want."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from finedefics.backbones.family import family_of_processor
from finedefics.errors import FinedeficsError
from finedefics.rgb import UNDECODABLE, as_rgb

__all__ = ["ImageEncoder", "as_rgb", "decode_image"]


def decode_image(data: bytes, sample_id: str) -> Image.Image:
    """An RGB picture (see `as_rgb`) from its encoded bytes; FinedeficsError names the sample it refuses."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return as_rgb(picture)
    except FinedeficsError as error:
        raise FinedeficsError(error.thing, place=f"sample {sample_id}", cure=error.cure) from error
    except UNDECODABLE as error:
        raise FinedeficsError(
            f"the picture cannot be decoded ({error})",
            place=f"sample {sample_id}",
            cure="ingest the folder again",
        ) from error


class ImageEncoder:
    """Pictures as the model's processor wants them, and the token ids that stand for a picture."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.family = family_of_processor(processor)
        self.image_token_id = processor.tokenizer.convert_tokens_to_ids(processor.image_token)

    def __call__(
        self, pictures: Sequence[Image.Image], names: Sequence[str] | None = None
    ) -> tuple[dict[str, Tensor], list[tuple[int, ...]]]:
        """Tensors of the pictures and, for each, its block of token ids (boundary tokens included).

        Args:
            pictures: of any size the processor takes.
            names: what an error calls each picture; its number by default.

        Raises:
            FinedeficsError: the processor refuses a picture.
        """
        try:
            encoded = self._process(pictures)
        except (ValueError, TypeError, ZeroDivisionError) as error:
            raise self._refused(pictures, names, error) from error
        blocks = [self.family.block(ids, self.image_token_id) for ids in encoded["input_ids"]]
        names = self.processor.image_processor.model_input_names
        images = {key: torch.as_tensor(np.asarray(encoded[key])) for key in names if key in encoded}
        return self.family.one_row_a_picture(images), blocks

    def _process(self, pictures: Sequence[Image.Image]) -> Any:
        return self.processor(
            images=[[picture] for picture in pictures],
            text=[self.processor.image_token] * len(pictures),
            add_special_tokens=False,
        )

    def _refused(
        self, pictures: Sequence[Image.Image], names: Sequence[str] | None, error: Exception
    ) -> FinedeficsError:
        """The error of the first picture that is refused on its own too; else of all of them."""
        place = f"{len(pictures)} pictures together"
        for number, picture in enumerate(pictures):
            try:
                self._process([picture])
            except (ValueError, TypeError, ZeroDivisionError) as own:
                error, place = own, names[number] if names else f"picture {number}"
                place += f" ({picture.width} x {picture.height})"
                break
        return FinedeficsError(
            f"the model's processor refuses the picture ({str(error).splitlines()[0][:160]})",
            place=place,
            cure="crop it or leave it out",
        )

    def object_block(self, block: Sequence[int]) -> tuple[int, ...]:
        """The picture's own tokens, boundary tokens left out: what an object embedding is read from."""
        return tuple(token for token in block if token == self.image_token_id)
