"""What an ingest does to pictures before any is written: check each, decide which are kept.

Checking runs in tasks; deciding needs all of them at once and only their hashes, so it runs in one place.
"""

import hashlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from finedefics.data.readers import Entry, category_id
from finedefics.errors import FinedeficsError
from finedefics.records import SPLITS
from finedefics_platform.base.progress import Progress
from finedefics_platform.base.tasks import run_tasks

FORMATS = ("JPEG", "PNG")
_CHECKED_AT_ONCE = 256


@dataclass(frozen=True)
class Checked:
    """A picture as found, or why it cannot be used.

    Attributes:
        look: difference hash (`difference_hash`).
        bytes: of the encoded picture.
    """

    content_hash: str = ""
    width: int = 0
    height: int = 0
    look: int = 0
    bytes: int = 0
    problem: str | None = None


@dataclass(frozen=True)
class Rejected:
    """A picture that was not taken, and why."""

    source: str
    split: str | None
    reason: str


def check_pictures(entries: Sequence[Entry], progress: Progress) -> list[Checked]:
    """Read and decode every picture in Ray tasks; one outcome an entry, in their order."""
    paths = [entry.path for entry in entries]
    return run_tasks(paths, _check_all, chunk=_CHECKED_AT_ONCE, label="checking pictures", progress=progress)


def check_picture(path: str) -> Checked:
    """Read one picture and decode it as training will; never raises for what is in the file."""
    from PIL import UnidentifiedImageError

    from finedefics.rgb import as_rgb

    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        return Checked(problem=f"cannot be read ({getattr(error, 'strerror', None) or error})")
    if not content:
        return Checked(problem="empty file")
    try:
        with warnings.catch_warnings():
            # A picture that is suspiciously large is an error here, not a warning in some worker's log.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as picture:
                kind = picture.format
                picture.verify()
            if kind not in FORMATS:
                return Checked(problem=f"unsupported format {kind} (JPEG and PNG are)")
            with Image.open(io.BytesIO(content)) as picture:
                picture.load()  # verify reads headers and checksums; only decoding finds a cut-off file
                seen = as_rgb(picture)
    except UnidentifiedImageError:
        return Checked(problem="not a picture")
    except FinedeficsError as error:
        return Checked(problem=error.thing)
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError and more
        return Checked(problem=f"damaged picture ({error})")
    digest = hashlib.sha256(content).hexdigest()
    return Checked(digest, seen.width, seen.height, difference_hash(seen), len(content))


def difference_hash(picture: Image.Image) -> int:
    """64 bits that say where a picture gets brighter from left to right; near duplicates differ in few."""
    grey = picture.convert("L").resize((9, 8), Image.Resampling.BILINEAR).tobytes()
    bits = 0
    for row in range(8):
        for column in range(8):
            bits = bits << 1 | (grey[9 * row + column] < grey[9 * row + column + 1])
    return bits


def _check_all(paths: Sequence[str]) -> list[Checked]:
    return [check_picture(path) for path in paths]


def admit(
    entries: Sequence[Entry], checked: Sequence[Checked]
) -> tuple[list[tuple[Entry, Checked]], list[Rejected]]:
    """Decide which pictures are kept; order of the input is kept in both results.

    Of one content in several splits only the most held-out split keeps it (test, then val), so that nothing
    is judged on what it was trained on. Within a split the first copy stays; copies with different labels
    all go, as one of the labels is wrong.
    """
    copies: dict[str, list[Entry]] = {}
    for entry, outcome in zip(entries, checked, strict=True):
        if outcome.problem is None:
            copies.setdefault(outcome.content_hash, []).append(entry)
    reasons = {
        source: reason
        for same in copies.values()
        if len(same) > 1
        for source, reason in _judge_copies(same).items()
    }
    kept, rejected = [], []
    for entry, outcome in zip(entries, checked, strict=True):
        if reason := outcome.problem or reasons.get(entry.source):
            rejected.append(Rejected(entry.source, entry.split, reason))
        else:
            kept.append((entry, outcome))
    return kept, rejected


def _judge_copies(same: Sequence[Entry]) -> dict[str, str]:
    """Reasons, by source, of the copies that go."""
    split = max((entry.split for entry in same), key=SPLITS.index)  # SPLITS runs from train to test
    inside = [entry for entry in same if entry.split == split]
    labels = sorted({entry.category for entry in inside if entry.category is not None})
    first = next((entry for entry in inside if entry.category is not None), inside[0])
    reasons = {
        entry.source: f"the same picture is in {split} ({first.source})"
        for entry in same
        if entry.split != split
    }
    for entry in inside:
        if len({category_id(label) for label in labels}) > 1:
            reasons[entry.source] = f"the same picture is labelled {' and '.join(labels)}"
        elif entry is not first:
            reasons[entry.source] = f"a copy of {first.source}"
    return reasons
