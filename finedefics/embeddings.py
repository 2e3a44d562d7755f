"""What the contrastive terms demand of their input: shapes that fit, embeddings with a direction, ids."""

from collections.abc import Hashable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from finedefics.errors import FinedeficsError

Ids = Tensor | Sequence[Hashable]


def check_shapes(single: Mapping[str, Tensor], hard: Mapping[str, Tensor | None]) -> None:
    """ValueError where embeddings [batch, dim] or hard negatives [batch * k, dim] do not fit each other."""
    for name, value in single.items():
        if not isinstance(value, Tensor) or value.dim() != 2:
            raise ValueError(f"{name} must be a tensor [batch, dim], not {_shape(value)}")
    if len({value.shape for value in single.values()}) > 1:
        shapes = ", ".join(f"{name} {_shape(value)}" for name, value in single.items())
        raise ValueError(f"objects, attributes and categories must have one shape: {shapes}")
    batch, dim = single["objects"].shape
    if batch < 2 or dim == 0:
        raise ValueError(
            f"objects are [{batch}, {dim}]: a batch of fewer than two rows, or of empty ones, has nothing to "
            "contrast (an attribute would meet no other object)"
        )
    for name, extra in hard.items():
        if extra is None:
            continue
        fits = isinstance(extra, Tensor) and extra.dim() == 2 and extra.shape[1] == dim
        if not fits or len(extra) % batch:
            wanted = f"[batch * k, dim] with batch {batch} and dim {dim}"
            raise ValueError(f"{name} must be {wanted}, not {_shape(extra)}")
    counts = {name: len(extra) for name, extra in hard.items() if extra is not None}
    if len(set(counts.values())) > 1:
        raise ValueError(f"the hard negatives must be as many attributes as categories: {counts}")


def _shape(value: object) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def normalised(name: str, embeddings: Tensor) -> Tensor:
    """Embeddings [rows, dim] at length 1, in float32 at least.

    Raises:
        FinedeficsError: a row is zero, so that it has no direction, or holds NaN or infinity.
    """
    wide = embeddings.float() if embeddings.dtype in (torch.float16, torch.bfloat16) else embeddings
    finite = wide.detach().isfinite().all(1)
    scale = wide.detach().abs().amax(1, keepdim=True)
    bad = (~finite | (scale[:, 0] == 0)).nonzero()
    if len(bad):
        row = int(bad[0])
        raise FinedeficsError(
            "the embedding is zero" if finite[row] else "the embedding holds NaN or infinity",
            place=f"{name}, row {row}",
            cure="look at what this row was made from, or lower the learning rate if training has diverged",
        )
    # a direction does not depend on the scale, but its squares overflow or vanish without it
    return F.normalize(wide / scale, dim=1)


def codes(ids: Ids | None, extra_ids: Ids | None, batch: int, extras: int) -> tuple[Tensor | None, Tensor]:
    """Category ids of rows and of hard negatives as integers that are equal where the ids are.

    Raises:
        FinedeficsError: a row without a category (None or -1).
        ValueError: ids are missing, or their number is not that of the rows.
    """
    none = torch.zeros(0, dtype=torch.long)
    if ids is None:
        if extra_ids is not None:
            raise ValueError("negative_category_ids are given without category_ids")
        return None, none
    if extras and extra_ids is None:
        raise ValueError("category_ids are given, but the hard negatives' negative_category_ids are missing")
    seen: dict[Hashable, int] = {}
    found = []
    for name, given, count in (("category_ids", ids, batch), ("negative_category_ids", extra_ids, extras)):
        values = (
            [] if given is None else given.flatten().tolist() if isinstance(given, Tensor) else list(given)
        )
        if len(values) != count:
            raise ValueError(f"{name}: {len(values)} ids for {count} rows")
        if None in values or -1 in values:
            row = next(i for i, value in enumerate(values) if value in (None, -1))
            raise FinedeficsError(
                "the row has no category",
                place=f"{name}, row {row}",
                cure="leave rows without a label out, or call the terms with masks of your own",
            )
        found.append(torch.tensor([seen.setdefault(v, len(seen)) for v in values], dtype=torch.long))
    return found[0], found[1]
