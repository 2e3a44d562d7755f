"""The leak check: test pictures whose very content is among the training pictures.

Content hashes are compared (SHA-256 of the encoded picture), never file names: benchmarks give different
pictures one name, and one picture several.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

Hashes: TypeAlias = pa.Array | pa.ChunkedArray


def leaks(tested: Hashes, trained: Iterable[Hashes]) -> dict[str, int]:
    """How many test pictures were trained on.

    Args:
        tested: [pictures] content hash of each picture that is asked.
        trained: content hashes of training pictures, in parts of any size; held one part at a time.

    Returns:
        ``{"pictures": n, "of": all}``; a picture that stands in several parts counts once.
    """
    seen = pc.is_in(tested, value_set=pa.array([], pa.string()))
    for part in trained:
        hashes = part.combine_chunks() if isinstance(part, pa.ChunkedArray) else part
        seen = pc.or_(seen, pc.is_in(tested, value_set=hashes))
    return {"pictures": int(pc.sum(seen).as_py() or 0), "of": len(tested)}


def warning(found: Mapping[str, Any]) -> str | None:
    """A sentence that names the numbers of a summary's ``leaks``; None where there is nothing to warn of."""
    said = []
    if found.get("pictures"):
        share = f"{100 * found['pictures'] / found['of']:.1f} %"
        where = " and ".join(found.get("against", ())) or "the training split"
        said.append(
            f"{found['pictures']} of {found['of']} evaluated pictures ({share}) are training pictures too "
            f"(content hash; {where}): the figures flatter, so take those pictures out of one of the splits"
        )
    if missing := found.get("unchecked"):
        said.append(
            f"not compared with the training pictures of {', '.join(missing)}, which are not to be had here"
        )
    return "; ".join(said) or None
