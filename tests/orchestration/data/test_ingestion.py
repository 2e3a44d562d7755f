"""What the check of a picture lets in is what training can decode; nothing else is let in."""

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from bird_folder import encoded, put
from PIL import Image

from finedefics.data.opening import open_tree
from finedefics.pictures import decode_image
from finedefics_platform.data import checking
from finedefics_platform.data.checking import as_stored, check, check_at, difference_hash


def drawn(kind: str, picture: Image.Image | None = None, **options: object) -> bytes:
    picture = picture or Image.open(io.BytesIO(encoded(1)))
    file = io.BytesIO()
    picture.save(file, format=kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


def blocks(*colours: str) -> Image.Image:
    """Stripes of colours, 8 pixels each."""
    picture = Image.new("RGB", (8 * len(colours), 16))
    for number, colour in enumerate(colours):
        picture.paste(Image.new("RGB", (8, 16), colour), (8 * number, 0))
    return picture


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_any_other_picture_is_stored_as_what_is_seen_of_it(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    content = drawn(kind, blocks("red", "lime", "blue"), **options)
    found = check(content)
    assert (found.problem, found.recoded, found.width, found.height) == (None, kind, 24, 16)
    stored = as_stored(content, found.recoded)
    assert stored.startswith(b"\x89PNG")
    assert (len(stored), check(stored).content_hash) == (found.bytes, found.content_hash)
    seen = decode_image(stored, "x")
    assert [seen.getpixel((x, 8)) for x in (4, 12, 20)] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def test_an_animation_is_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        content = drawn(kind, frames[0], save_all=True, append_images=frames[1:], lossless=True)
        found = check(content)
        assert found.problem is None
        red, green, blue = decode_image(as_stored(content, found.recoded), kind).getpixel((4, 4))  # type: ignore[misc]
        assert red > 250
        assert max(green, blue) < 5


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "MPO"])
def test_jpeg_and_png_are_stored_as_they_are_whatever_they_are_called(kind: str, tmp_path: Path) -> None:
    content = drawn(kind)
    put(tmp_path, "wren/a.bmp", content)
    found = check_at(open_tree(tmp_path), "wren/a.bmp")
    assert (found.problem, found.recoded, found.bytes) == (None, None, len(content))


def test_odd_modes_are_what_training_decodes() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (24, 16, 4), dtype=np.uint8)
    deep = Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) << 10)
    for content in (
        drawn("JPEG", Image.fromarray(noise, "CMYK")),
        drawn("TIFF", Image.fromarray(noise, "CMYK")),
        drawn("PNG", deep),
        drawn("PNG", Image.fromarray(noise, "RGBA")),
        drawn("GIF", Image.fromarray(noise[..., 0]).convert("P"), transparency=0),
        drawn("PNG", Image.fromarray(noise[..., 0]).convert("1")),
    ):
        found = check(content)
        assert found.problem is None
        seen = decode_image(as_stored(content, found.recoded), "x")
        assert (seen.mode, seen.size) == ("RGB", (found.width, found.height))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF"])
def test_a_rotated_picture_stands_upright(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees
    content = drawn(kind, blocks("red", "lime", "blue"), exif=exif)
    found = check(content)
    assert (found.width, found.height) == (16, 24)
    assert decode_image(as_stored(content, found.recoded), "x").size == (16, 24)


def test_a_picture_that_decoding_refuses_is_refused_with_the_same_reason() -> None:
    values = np.arange(64, dtype=np.float32).reshape(8, 8)
    assert check(drawn("TIFF", Image.fromarray(values / np.float32(63)))).problem is None
    refused = check(drawn("TIFF", Image.fromarray(values))).problem
    assert refused == "the picture's numbers run from 0 to 63, and floats may from 0 to 1"


def _bomb(side: int) -> bytes:
    """A PNG of a few kilobytes that says it has ``side`` x ``side`` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100_000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty file"),
        (b"words and no picture", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "not a picture"),
        (_bomb(10_000), "too large a picture (Image size (100000000 pixels) exceeds limit"),
        (_bomb(40_000), "too large a picture (Image size (1600000000 pixels) exceeds limit"),
        (drawn("PNG")[:-40], "damaged picture ("),
        (drawn("JPEG")[:400], "damaged picture ("),
        (drawn("GIF")[:-200], "damaged picture ("),
        (drawn("BMP")[:200], "damaged picture ("),
        (drawn("TIFF")[:300], "damaged picture ("),
        (drawn("WEBP", lossless=True)[:-100], "damaged picture ("),
    ],
)
def test_what_is_no_whole_picture_is_refused(content: bytes, problem: str) -> None:
    assert (check(content).problem or "").startswith(problem)


def test_a_path_that_no_file_can_have_is_a_problem_of_that_picture(tmp_path: Path) -> None:
    for path in ("a\0.jpg", "a" * 5000, "missing.jpg", "../a.jpg"):
        assert (check_at(open_tree(tmp_path), path).problem or "").startswith("cannot be read (")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "LARGEST", 2**20)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("wren/a.jpg", b"\0" * 2**21)
        archive.writestr("lark/b.jpg", encoded(1))
    tree = open_tree(tmp_path / "a.zip")
    monkeypatch.setattr(tree, "_content", None)  # reading would fail
    assert check_at(tree, "wren/a.jpg").problem == "a file of 2 MiB, and 1 are the most"


def test_a_damaged_member_of_an_archive_is_a_problem_of_that_picture(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("wren/a.jpg", b"first" * 100)
        archive.writestr("lark/b.jpg", encoded(1))
    content = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(content.replace(b"first", b"fIrst", 1))
    tree = open_tree(tmp_path / "a.zip")
    assert (check_at(tree, "wren/a.jpg").problem or "").startswith("cannot be read (a damaged member of the")
    assert check_at(tree, "lark/b.jpg").problem is None


def test_pictures_that_look_alike_have_looks_that_differ_little() -> None:
    noise = np.random.default_rng(3).integers(0, 255, (9, 9, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((90, 90), Image.Resampling.BICUBIC)
    smaller = Image.open(io.BytesIO(drawn("JPEG", picture.resize((60, 60)), quality=70)))
    other = Image.fromarray(255 - noise).resize((90, 90), Image.Resampling.BICUBIC)

    def differ(one: Image.Image, two: Image.Image) -> int:
        return (difference_hash(one) ^ difference_hash(two)).bit_count()

    assert differ(picture, smaller) <= 4
    assert differ(picture, other) >= 50
