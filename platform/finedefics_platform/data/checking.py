"""A picture as it is found, as it is stored, and how it looks: decoded once, as training will decode it.

JPEG and PNG are stored as they are. Any other picture is stored as the PNG of what is seen of it: of a GIF or
another animation the first frame.
"""

import hashlib
import io
import warnings
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from finedefics.data.cells import CELL
from finedefics.data.tree import Tree
from finedefics.errors import FinedeficsError
from finedefics.rgb import as_rgb

STORED_AS_IS = ("JPEG", "MPO", "PNG")  # MPO: a JPEG with a second picture behind it, as telephones write
LARGEST = 256 * 2**20  # bytes of a file; a picture within Pillow's limit of pixels has less
_PROGRAMS = ("EPS", "WMF")  # Pillow hands these to other programs, or to the system

UNREADABLE = "cannot be read"  # begins the reason of a file that did not open; it may another time


@dataclass(frozen=True)
class Checked:
    """A picture as found, or why it cannot be used.

    Attributes:
        content_hash: SHA-256 of what is stored (`as_stored`).
        width, height: in pixels, as the picture stands upright.
        look: difference hash (`difference_hash`).
        bytes: of what is stored.
        recoded: the format that the picture was in before it was re-encoded, None for one stored as it is.
        problem: why it cannot be used, None where it can.
    """

    content_hash: str = ""
    width: int = 0
    height: int = 0
    look: int = 0
    bytes: int = 0
    recoded: str | None = None
    problem: str | None = None


def check_at(tree: Tree, address: str) -> Checked:
    """Read a picture of a source and `check` it; one that cannot be read is a problem of that picture.

    Raises:
        FinedeficsError: the store that the source is in does not answer.
    """
    try:
        # before it is read, as an archive's member may unpack to anything
        if CELL not in address and (size := tree.stamp(address)[0]) > LARGEST:
            return Checked(problem=_too_large(size))
        return check(tree.read(address))
    except (OSError, ValueError) as error:
        if isinstance(error, FinedeficsError):
            raise
        return Checked(problem=f"{UNREADABLE} ({getattr(error, 'strerror', None) or error})")


def check(content: bytes) -> Checked:
    """Decode a picture as training will; never raises for what the bytes hold."""
    if not content:
        return Checked(problem="empty file")
    if len(content) > LARGEST:
        return Checked(problem=_too_large(len(content)))
    try:
        with warnings.catch_warnings():
            # A picture that is suspiciously large is an error here, not a warning in some worker's log.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            kind, seen = _decoded(content)
    except UnidentifiedImageError:
        return Checked(problem="not a picture")
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        return Checked(problem=f"too large a picture ({str(error).split(', could')[0]})")
    except FinedeficsError as error:
        return Checked(problem=error.thing)
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError and more
        return Checked(problem=f"damaged picture ({error})")
    recoded = None if kind in STORED_AS_IS else kind
    stored = content if recoded is None else _png(seen)
    digest = hashlib.sha256(stored).hexdigest()
    return Checked(digest, seen.width, seen.height, difference_hash(seen), len(stored), recoded)


def as_stored(content: bytes, recoded: str | None) -> bytes:
    """What is stored of a picture that was checked: its own bytes, or the PNG of what is seen.

    Raises:
        OSError: it cannot be decoded any more.
    """
    if recoded is None:
        return content
    try:
        return _png(_decoded(content)[1])
    except Exception as error:  # see `check`
        raise OSError(f"damaged picture ({error})") from error


def difference_hash(picture: Image.Image) -> int:
    """64 bits that say where a picture gets brighter from left to right; near duplicates differ in few."""
    grey = picture.convert("L").resize((9, 8), Image.Resampling.BILINEAR).tobytes()
    bits = 0
    for row in range(8):
        for column in range(8):
            bits = bits << 1 | (grey[9 * row + column] < grey[9 * row + column + 1])
    return bits


def _too_large(size: int) -> str:
    return f"a file of {size / 2**20:.0f} MiB, and {LARGEST >> 20} are the most"


def _decoded(content: bytes) -> tuple[str, Image.Image]:
    """The format, and what is seen."""
    Image.init()
    formats = [name for name in Image.ID if name not in _PROGRAMS]
    with Image.open(io.BytesIO(content), formats=formats) as picture:
        kind = picture.format or "unknown"
        picture.verify()
    with Image.open(io.BytesIO(content), formats=formats) as picture:
        picture.load()  # verify reads headers and checksums; only decoding finds a cut-off file
        return kind, as_rgb(picture)


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()
