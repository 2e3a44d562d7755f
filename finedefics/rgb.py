"""Any picture as eight-bit RGB, or the reason why it cannot be one. Light to import: ingesting uses it."""

import struct
import zlib

import numpy as np
from PIL import ExifTags, Image, ImageOps

from finedefics.errors import FinedeficsError

# What Pillow's decoders let through of a file that is damaged or made to harm.
UNDECODABLE = (
    OSError,
    ValueError,
    SyntaxError,  # a broken chunk of a PNG
    EOFError,
    struct.error,
    zlib.error,
    LookupError,
    TypeError,
    ArithmeticError,
    Image.DecompressionBombError,
)
WHITE = (255, 255, 255, 255)


def as_rgb(picture: Image.Image) -> Image.Image:
    """The picture in RGB as a viewer shows it; it is the same one where nothing has to be changed.

    It stands as the camera was held (EXIF), sixteen bits are scaled to eight, what is transparent becomes
    white, floats from 0 to 1 become 0 to 255.

    Raises:
        FinedeficsError: the picture is damaged, or its numbers do not say what is black and what is white.
    """
    try:
        picture.load()
        if picture.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            picture = ImageOps.exif_transpose(picture)
        if picture.mode == "F" or picture.mode.startswith("I"):
            picture = _grey(picture)
        if picture.mode == "La":  # Pillow converts it to nothing else
            picture = picture.convert("LA")
        if picture.has_transparency_data:
            seen = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", seen.size, WHITE), seen)
        # copies of what needs no change would take a quarter of the time that decoding takes
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    except FinedeficsError:
        raise
    except UNDECODABLE as error:
        raise _refused(f"the picture cannot be decoded ({error})") from error


def _grey(picture: Image.Image) -> Image.Image:
    """Eight bits of a picture of wider numbers: convert("RGB") would clip them, to white or to black."""
    values = np.asarray(picture)
    if not values.size:
        raise _refused("the picture is empty")
    low, high = values.min(), values.max()
    if picture.mode == "F":
        # A float has no white of its own. From 0 to 1 is the convention; in any other range (0 to 255, a
        # height, a temperature, light above white) a guess would be a wrong picture that nobody notices.
        if not (low >= 0 and high <= 1):  # false for NaN too
            raise _refused(f"the picture's numbers run from {low:g} to {high:g}, and floats may from 0 to 1")
        return Image.fromarray(np.rint(values * 255).astype(np.uint8))
    if low < 0 or high > 65535:
        raise _refused(f"the picture's numbers run from {low} to {high}, beyond 16 bits")
    # Mode I is 32 bits wide and holds what was read: eight bits from some files, sixteen from others.
    eight = values if picture.mode == "I" and high <= 255 else values >> 8
    grey = Image.fromarray(eight.astype(np.uint8))
    key = picture.info.get("transparency")
    if isinstance(key, int):  # the one shade of a PNG that is transparent, in sixteen bits
        grey.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return grey


def _refused(thing: str) -> FinedeficsError:
    return FinedeficsError(thing, place="a picture", cure="save it as JPEG or PNG with eight bits a channel")
