"""Pictures on their way to a model: decoded, and made into what its processor and its prompt want."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from finedefics.backbones.family import family_of_processor
from finedefics.errors import FinedeficsError, reason_of
from finedefics.rgb import UNDECODABLE, as_rgb

__all__ = ["ImageEncoder", "as_rgb", "decode_image", "read_picture"]

_TEXT = bytes(range(32, 127)) + b"\t\n\r\f"


def decode_image(data: bytes, sample_id: str) -> Image.Image:
    """An RGB picture (see `as_rgb`) from its encoded bytes; FinedeficsError names the sample it refuses."""
    return read_picture(data, place=f"sample {sample_id}", cure="ingest the folder again")


def read_picture(data: bytes, *, place: str, cure: str | None = None) -> Image.Image:
    """An RGB picture (see `as_rgb`) from its encoded bytes.

    Args:
        data: a file of any format that Pillow reads.
        place: what an error calls the picture.
        cure: what an error advises; default: what to do about a file that somebody gave.

    Raises:
        FinedeficsError: the file is empty, no picture, or damaged.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return as_rgb(picture)
    except FinedeficsError as error:
        raise FinedeficsError(error.thing, place=place, cure=cure or error.cure) from error
    except UnidentifiedImageError:  # its own words are the address of an object
        reason, advice = _no_picture(data)
    except UNDECODABLE as error:
        reason, advice = reason_of(error), "copy it again, or save it as JPEG or PNG"
    raise FinedeficsError(f"the picture cannot be decoded ({reason})", place=place, cure=cure or advice)


def _no_picture(data: bytes) -> tuple[str, str]:
    """Why bytes of no known format are no picture, and what to do."""
    if not data:
        return "the file is empty", "copy it again, or leave it out"
    head = data[:512]
    few = len(head.translate(None, _TEXT)) < len(head) / 10
    return "the file is text" if few else "no known format", "give a JPEG, PNG or WebP file"


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
