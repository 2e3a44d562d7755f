"""Decoding: wide numbers, transparency and damage, alike for bytes and for pictures that a caller opened."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finedefics.backbones import Backbone
from finedefics.errors import FinedeficsError
from finedefics.pictures import as_rgb, decode_image
from finedefics.records import Category
from finedefics.scoring import Recogniser

RAMP = np.arange(256, dtype=np.uint16).reshape(16, 16)


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def pixels(data: bytes) -> np.ndarray:
    """A decoded picture, checked to be the same whether it comes as bytes or opened."""
    picture = decode_image(data, "x")
    opened = as_rgb(Image.open(io.BytesIO(data)))
    assert (picture.mode, picture.tobytes()) == ("RGB", opened.tobytes())
    return np.asarray(picture)


@pytest.mark.parametrize(
    ("kind", "values", "mode"),
    [
        ("PNG", RAMP * 257, "I;16"),
        ("TIFF", (RAMP * 257).astype(">u2"), "I;16B"),
        ("TIFF", (RAMP * 257).astype(np.int32), "I"),
        ("TIFF", RAMP.astype(np.int32), "I"),
        ("TIFF", RAMP.astype(np.float32) / 255, "F"),
    ],
)
def test_wide_greys_are_scaled_to_eight_bits(kind: str, values: np.ndarray, mode: str) -> None:
    data = encoded(Image.fromarray(values), kind)
    assert Image.open(io.BytesIO(data)).mode == mode
    np.testing.assert_array_equal(pixels(data), np.repeat(RAMP[..., None], 3, axis=2))


@pytest.mark.parametrize(
    ("values", "thing"),
    [
        (np.array([[0, 255]], np.float32), "run from 0 to 255, and floats may from 0 to 1"),
        (np.array([[-0.5, 1]], np.float32), "run from -0.5 to 1"),
        (np.array([[0, np.nan]], np.float32), "run from nan to nan"),
        (np.array([[0, 70000]], np.int32), "run from 0 to 70000, beyond 16 bits"),
        (np.array([[-1, 9]], np.int32), "run from -1 to 9, beyond 16 bits"),
    ],
)
def test_numbers_without_a_plain_white_are_refused(values: np.ndarray, thing: str) -> None:
    with pytest.raises(FinedeficsError, match=f"^sample 7: the picture's numbers {thing}[,;]"):
        decode_image(encoded(Image.fromarray(values), "TIFF"), "7")


def test_what_is_transparent_is_white() -> None:
    clear, solid = (200, 0, 0, 0), (0, 100, 0, 255)
    picture = Image.new("RGBA", (2, 1))
    picture.putdata([clear, solid])
    assert pixels(encoded(picture)).tolist() == [[[255, 255, 255], [0, 100, 0]]]
    half = encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 128)))
    assert pixels(half).tolist() == [[[127, 127, 127]]]
    assert pixels(encoded(Image.new("LA", (1, 1), (9, 0)))).tolist() == [[[255, 255, 255]]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([200, 0, 0, 0, 100, 0])
    palette.putdata([0, 1])
    assert pixels(encoded(palette, transparency=0)).tolist() == [[[255, 255, 255], [0, 100, 0]]]
    for mode, colours, shown in (("L", (9, 8), 8), ("I;16", (9 << 8, 8 << 8), 8)):
        keyed = Image.new(mode, (2, 1))
        keyed.putpixel((0, 0), colours[0])
        keyed.putpixel((1, 0), colours[1])
        data = encoded(keyed, transparency=colours[0])
        assert pixels(data).tolist() == [[[255] * 3, [shown] * 3]]
    for mode in ("PA", "La", "RGBa"):  # no file holds these; callers may
        assert as_rgb(Image.new(mode, (1, 1), 0)).getpixel((0, 0)) == (255, 255, 255)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_damage_of_any_kind_names_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    good = encoded(Image.new("RGB", (64, 64), (1, 2, 3)))
    broken = {
        "chunk": good[:33] + b"\0\0\0\1\xff\xff\xff\xff" + good[33:],
        "cut": good[: len(good) // 2],
        "empty": b"",
        "header": good[:8] + chunk(b"IHDR", b"\0\0"),
    }
    for name, data in broken.items():
        with pytest.raises(FinedeficsError, match=f"^sample {name}: the picture cannot be decoded"):
            decode_image(data, name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(FinedeficsError, match=r"^sample bomb: the picture cannot be decoded"):
        decode_image(good, "bomb")


@pytest.mark.parametrize(
    "error", [SyntaxError, EOFError, struct.error, zlib.error, IndexError, OverflowError]
)
def test_what_a_decoder_lets_through_becomes_our_error(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(*_: Any) -> None:
        raise error("odd")

    monkeypatch.setattr(Image.Image, "load", fail)
    with pytest.raises(FinedeficsError, match=r"^a picture: the picture cannot be decoded \(odd\)"):
        as_rgb(Image.new("RGB", (1, 1)))
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(FinedeficsError, match=r"^sample 3: the picture cannot be decoded \(odd\)"):
        decode_image(b"bytes", "3")


def test_a_picture_is_answered_alike_as_bytes_and_opened(lettered: Backbone) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 4), dtype=np.uint8)
    model = Recogniser(lettered, [Category("a", "wren"), Category("b", "crow")])
    for number in range(8):  # the order of the options follows from the picture's content
        noise[0, 0] = number
        clear = encoded(Image.fromarray(noise))
        scores = model.answer([clear, Image.open(io.BytesIO(clear))], "letters_likelihood").scores
        assert scores[0].tolist() == pytest.approx(scores[1].tolist(), abs=1e-5)


def test_a_picture_stands_as_the_camera_was_held() -> None:
    wide = Image.new("RGB", (64, 32), "blue")
    wide.paste("red", (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter: what was left is on top
    buffer = io.BytesIO()
    wide.save(buffer, format="JPEG", exif=exif, quality=95)
    seen = decode_image(buffer.getvalue(), "phone")
    assert seen.size == (32, 64)
    top, bottom = seen.getpixel((16, 10)), seen.getpixel((16, 54))
    assert isinstance(top, tuple)
    assert isinstance(bottom, tuple)
    assert top[0] > 200 > top[2]
    assert bottom[2] > 200 > bottom[0]
