"""From a dataset and its inspection to what a contact sheet shows."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from finedefics_platform.data.inspection import Inspection, Shown, agreement, choose_rows
from finedefics_platform.data.inspection import show as show_pictures
from finedefics_platform.data.inspection.counts import NearPair
from finedefics_platform.data.store import Dataset
from finedefics_platform.reporting.contact_sheet import ContactSheet, Pair, Picture

from .provenance import told

if TYPE_CHECKING:
    from finedefics_platform.base.progress import Progress

_PAIRS = 12  # of pictures that look alike
_ATTRIBUTES, _VALUES, _NEAREST = 40, 8, 200


def contact_sheet(
    dataset: Dataset, found: Inspection, pictures: int, *, seed: int = 0, progress: "Progress"
) -> ContactSheet:
    """What there is to see of a version, with at most ``pictures`` of its pictures.

    Raises:
        FinedeficsError: a file of the dataset is damaged.
    """
    names = {category.category_id: category.name for category in dataset.categories()}
    rows = choose_rows(dataset, pictures, seed=seed)
    alike = found.near_duplicates.pairs[:_PAIRS]
    wanted = sorted({*rows, *(looked.row for pair in alike for looked in (pair.first, pair.second))})
    shown = {one.row: _picture(one, names) for one in show_pictures(dataset, wanted, progress)}
    ordered = sorted(
        (shown[row] for row in rows), key=lambda one: ((one.category or "\uffff").casefold(), one.source)
    )
    return ContactSheet(
        title=dataset.name,
        reference=found.dataset,
        lead=_lead(found),
        figures=_figures(found),
        pictures=ordered,
        total=found.pictures,
        pairs=_pairs(alike, shown),
        pairs_note=_pairs_note(found, len(alike)),
        attributes=[{**vars(one), "values": one.values[:_VALUES]} for one in found.attributes[:_ATTRIBUTES]],
        nearest=[
            (names.get(category, category), [names.get(other, other) for other in others])
            for category, others in list(found.nearest.items())[:_NEAREST]
        ],
        quarantine=[
            (reason, number, found.quarantined_examples.get(reason, ()))
            for reason, number in found.quarantined.items()
        ],
        provenance=[
            (table, rows, ": ".join(filter(None, told(found.provenance.get(table, {})))))
            for table, rows in found.tables.items()
        ],
    )


def _picture(one: Shown, names: Mapping[str, str]) -> Picture:
    return Picture(
        one.image,
        one.size,
        one.source,
        one.split,
        None if one.category_id is None else names.get(one.category_id, one.category_id),
        one.description,
        one.attributes,
        [(names.get(category, category), similarity) for category, similarity in one.negatives],
    )


def _lead(found: Inspection) -> list[str]:
    parts = ", ".join(f"{s.labelled + s.unlabelled} in {s.split}" for s in found.splits)
    lead = [f"{found.pictures} pictures of {found.categories} categories: {parts}."]
    if found.described:
        of_class = found.provenance.get("descriptions", {}).get("of") == "category"
        lead.append(f"{found.described} are described{', by what is known of their category' * of_class}.")
    else:
        lead.append("None is described yet.")
    if not found.nearest:
        lead.append("No similar categories are mined yet.")
    return lead


def _figures(found: Inspection) -> list[tuple[str, str]]:
    unlabelled = sum(split.unlabelled for split in found.splits)
    sizes, near = found.sizes, found.near_duplicates
    share = 100 * found.described / max(found.pictures, 1)
    return [
        (f"{found.pictures:,}", "pictures"),
        (f"{found.categories:,}", "categories"),
        (f"{unlabelled:,}", "without a label"),
        (f"{share:.0f} %", "described"),
        (f"{len(found.attributes):,}", "attributes"),
        (f"{sizes.width['median']} × {sizes.height['median']}", "pixels, median"),
        (f"{near.held_out_like_train:,}", "held out, like a training picture"),
        (f"{sum(found.quarantined.values()):,}", "in quarantine"),
    ]


def _pairs(pairs: Sequence[NearPair], shown: Mapping[int, Picture]) -> list[Pair]:
    """Pairs of different splits first, among them those that agree most when they are looked at."""
    made = []
    for pair in pairs:
        first, second = shown[pair.first.row], shown[pair.second.row]
        agree = agreement(first.image, second.image)
        says = f"Brightness agrees to {agree:.2f}; difference hashes differ in {pair.distance} of 64 bits."
        says = "Byte for byte the same picture." if pair.equal else says
        if first.category != second.category and None not in (first.category, second.category):
            says += " Their labels differ."
        made.append((first.split == second.split, -agree, Pair(first, second, says)))
    return [pair for *_, pair in sorted(made, key=lambda one: one[:2])]


def _pairs_note(found: Inspection, shown: int) -> str:
    near = found.near_duplicates
    parts: Sequence[str] = [
        f"{near.held_out_like_train} held-out pictures look like a training picture",
        f"{near.within_a_split} pictures like another one of their own split",
    ]
    note = f"{'; '.join(parts)}. The {shown} pairs shown are candidates, those of different splits first."
    return note if near.complete else note + " Not all were compared: too many look alike."
