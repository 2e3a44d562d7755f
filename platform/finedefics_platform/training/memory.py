"""What a step that ran out of memory says: which one, what it held, and what to lower."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from finedefics.batch import Batch
from finedefics.errors import FinedeficsError
from finedefics_platform.config.compute import Compute


@contextmanager
def named_when_exhausted(batch: Batch, place: str, compute: Compute, image_token_id: int) -> Iterator[None]:
    """Within it, the accelerator's running out of memory is an error that a user can act on.

    Args:
        batch: the step's rows on this rank.
        place: stage and rank.
        compute: the experiment's settings, whose cure is named.
        image_token_id: of the model.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        passes = (batch.sequences, batch.embedded)
        pictures = sum(int((each.ids == image_token_id).sum()) for each in passes)
        text = sum(each.useful for each in passes) - pictures
        raise FinedeficsError(
            f"out of memory at step {batch.step + 1}: {batch.size} rows, "
            f"{pictures} image and {text} text tokens",
            place=place,
            cure=f"{_cure(compute, batch)} and start the run again: it goes on from its last checkpoint",
        ) from error


def _cure(compute: Compute, batch: Batch) -> str:
    widest = max(each.ids.shape[1] for each in (batch.sequences, batch.embedded))
    budget = compute.micro_tokens
    if budget is None:
        return f"set compute.micro_tokens (its widest row has {widest})"
    if not compute.checkpointing:
        return f"set compute.checkpointing=true or lower compute.micro_tokens={budget}"
    if budget > widest:
        return f"lower compute.micro_tokens={budget} (its widest row has {widest})"
    return "show smaller pictures, shorten the descriptions, or raise deepspeed.zero_stage"
