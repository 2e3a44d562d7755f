"""The contact sheet of a dataset: one HTML file with small pictures that can be filtered, and no network."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finedefics_platform.base.storage import Location
from finedefics_platform.reporting.page import page_environment

_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Picture:
    """A picture and what is known of it.

    Attributes:
        image: JPEG or PNG bytes, already small.
        size: width and height of the original in pixels.
        category: its name; None where it has no label.
        negatives: names of the hard negatives with their similarity, most similar first.
    """

    image: bytes
    size: tuple[int, int]
    source: str
    split: str
    category: str | None
    description: str | None
    attributes: Mapping[str, str]
    negatives: Sequence[tuple[str, float]] = ()

    @property
    def words(self) -> str:
        """What a search looks through, in lower case."""
        said = [self.category, self.description, self.source, *self.attributes, *self.attributes.values()]
        return " ".join(one for one in said if one).lower()


@dataclass(frozen=True)
class Pair:
    """Two pictures that look alike; ``says``: how much."""

    first: Picture
    second: Picture
    says: str


@dataclass(frozen=True)
class ContactSheet:
    """What a sheet shows.

    Attributes:
        title: name of the dataset; ``reference``: of the very version.
        lead: sentences under the title.
        figures: ``(figure, what it is)``, the few that matter most.
        pictures: those that are shown, of ``total``.
        pairs: pictures that look alike; ``pairs_note`` says how many more there are.
        attributes: ``{"name", "coverage", "distinct", "values": [(value, pictures)]}``.
        nearest: ``(category, its most similar ones)``.
        quarantine: ``(reason, pictures, some of them)``.
        provenance: where each table comes from: ``(table, rows, text)``.
    """

    title: str
    reference: str
    lead: Sequence[str]
    figures: Sequence[tuple[str, str]]
    pictures: Sequence[Picture]
    total: int
    pairs: Sequence[Pair] = ()
    pairs_note: str = ""
    attributes: Sequence[Mapping[str, Any]] = ()
    nearest: Sequence[tuple[str, Sequence[str]]] = ()
    quarantine: Sequence[tuple[str, int, Sequence[str]]] = ()
    provenance: Sequence[tuple[str, int, str]] = ()


def write_contact_sheet(sheet: ContactSheet, place: Location) -> None:
    """Render a sheet, written whole.

    Raises:
        FinedeficsError: the place cannot be written to.
    """
    categories = Counter(picture.category for picture in sheet.pictures if picture.category is not None)
    there = {picture.split for picture in sheet.pictures}
    page = page_environment().get_template("contact_sheet.html.j2")
    place.write_text(
        page.render(
            sheet=sheet,
            categories=sorted(categories.items(), key=lambda pair: pair[0].casefold()),
            splits=[split for split in _SPLITS if split in there],
            unlabelled=sum(picture.category is None for picture in sheet.pictures),
            undescribed=sum(not picture.description for picture in sheet.pictures),
        )
    )
