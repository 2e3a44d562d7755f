"""How much of a source may be refused: what is too much is no accident of some files."""

from collections import Counter
from collections.abc import Sequence

from finedefics.errors import FinedeficsError
from finedefics_platform.data.ingestion import Rejected

_TOLD = 3  # reasons in the error's one line


def kind_of(reason: str) -> str:
    """A reason without its particulars, the part in brackets."""
    return reason.split(" (")[0]


def check_rejected(kept: int, rejected: Sequence[Rejected], allowed: float, place: str) -> None:
    """Stop where a larger share of the pictures is refused than is allowed.

    Args:
        kept: how many pictures can be used.
        allowed: a share from 0 to 1.
        place: the source, for the message.

    Raises:
        FinedeficsError: too many are; it names the most frequent reasons, each with a picture.
    """
    total = kept + len(rejected)
    if len(rejected) <= allowed * total:
        return
    kinds = Counter(kind_of(one.reason) for one in rejected)
    examples = {kind_of(one.reason): one.source for one in reversed(rejected)}
    told = [f"{number} {kind}, such as {examples[kind]}" for kind, number in kinds.most_common(_TOLD)]
    more = f"; and {len(kinds) - _TOLD} more reasons" if len(kinds) > _TOLD else ""
    raise FinedeficsError(
        f"{len(rejected)} of {total} pictures cannot be used, {100 * len(rejected) / total:.1f} % where "
        f"{100 * allowed:g} % are allowed ({'; '.join(told)}{more})",
        place=place,
        cure="mend the source, choose another --reader, or allow more with --allow-rejected",
    )
