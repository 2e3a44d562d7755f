"""The evaluations that a workspace has: found by what they are of."""

from collections.abc import Iterator
from typing import Any

from finedefics_platform.base.storage import Location, committed
from finedefics_platform.base.workspace import Workspace


def finished_evaluations(
    workspace: Workspace, model_digest: str | None = None
) -> Iterator[tuple[Location, dict[str, Any]]]:
    """Place and summary of each finished evaluation, of one model or of all; asking makes nothing."""
    for place in workspace.evaluations.children():
        files = committed(place)
        try:
            summary = None if files is None else (files / "summary.json").read_json()
        except FileNotFoundError:  # removed meanwhile
            continue
        if summary is not None and model_digest in (None, summary.get("model_digest")):
            yield place, summary
