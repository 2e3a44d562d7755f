"""Readers list what a source holds, without decoding a picture; ingesting does the rest.

A reader is one registered function in one file of this package, of an installed package (entry points in the
group ``finedefics.readers``), or of the user's own.
"""

from finedefics.data.readers._listing import (
    READERS,
    Entry,
    Listing,
    Reader,
    Source,
    category_id,
    open_source,
    read_source,
    reader,
    spoken,
)

__all__ = [
    "READERS",
    "Entry",
    "Listing",
    "Reader",
    "Source",
    "category_id",
    "open_source",
    "read_source",
    "reader",
    "spoken",
]
