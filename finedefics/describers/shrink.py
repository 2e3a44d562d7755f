"""Pictures as they are sent to an endpoint: as they lie there, or smaller where they are too large."""

import io

from PIL import Image

from finedefics.rgb import as_rgb

_KINDS = {"JPEG": "jpeg", "PNG": "png", "WEBP": "webp"}
_PATCH = 28  # pixels a token in the common vision towers with 14-pixel patches, merged two by two


def shrunk(data: bytes, edge: int) -> tuple[str, bytes]:
    """Media subtype and bytes of a picture whose longest edge is at most ``edge`` pixels."""
    with Image.open(io.BytesIO(data)) as picture:
        kind = _KINDS.get(picture.format or "")
        if kind and max(picture.size) <= edge and not picture.getexif().get(274, 1) > 1:
            return kind, data
        rgb = as_rgb(picture)
    rgb.thumbnail((edge, edge))
    buffer = io.BytesIO()
    rgb.save(buffer, format="JPEG", quality=90)
    return "jpeg", buffer.getvalue()


def image_tokens(width: int, height: int, edge: int) -> int:
    """About how many tokens a picture is: one for 28 x 28 pixels of what is sent.

    Endpoints count in their own ways; the usage after a run is theirs.
    """
    scale = min(1.0, edge / max(width, height, 1))
    return -(-round(width * scale) // _PATCH) * -(-round(height * scale) // _PATCH)
