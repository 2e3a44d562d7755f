"""What every page is made with: templates that escape what they are given, and pictures inside the page."""

import base64

from jinja2 import Environment, PackageLoader, StrictUndefined


def page_environment() -> Environment:
    """Templates of this room; whatever a value holds is text and never markup."""
    environment = Environment(
        loader=PackageLoader("finedefics_platform.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = data_uri
    return environment


def data_uri(image: bytes) -> str:
    """An encoded JPEG or PNG as the address of a picture that needs no file."""
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"
