"""What an ingest does to pictures before any is written: check each, decide which are kept.

Checking runs in tasks; deciding needs all of them at once and only their hashes, so it runs in one place.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from finedefics.data.readers import Entry, category_id
from finedefics.data.tree import Tree
from finedefics.records import SPLITS
from finedefics_platform.base.progress import Progress
from finedefics_platform.base.tasks import run_tasks
from finedefics_platform.data.checking import Checked, check_at

_CHECKED_AT_ONCE = 256
_WHERE = re.compile(r"^(?:line|row) \d+: ")


@dataclass(frozen=True)
class Rejected:
    """A picture that was not taken, and why."""

    source: str
    split: str | None
    reason: str


def kind_of(reason: str) -> str:
    """A reason without its particulars: the line that it is of, and the part in brackets."""
    return _WHERE.sub("", reason).split(" (")[0]


def check_pictures(tree: Tree, entries: Sequence[Entry], progress: Progress) -> list[Checked]:
    """Read and decode every picture in Ray tasks; one outcome an entry, in their order.

    Raises:
        FinedeficsError: the store that the source is in does not answer.
    """
    addresses = [entry.address or entry.source for entry in entries]
    work = partial(_check_all, tree=tree)
    return run_tasks(addresses, work, chunk=_CHECKED_AT_ONCE, label="checking pictures", progress=progress)


def _check_all(addresses: Sequence[str], tree: Tree) -> list[Checked]:
    return [check_at(tree, address) for address in addresses]


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
