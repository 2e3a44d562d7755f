"""Where pictures come from: readers of sources, and generated worlds."""

from finedefics.data import readers, released  # a reader is registered when its module is imported

__all__ = ["readers", "released"]
