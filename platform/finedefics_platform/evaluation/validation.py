"""Accuracy on the validation split while a run trains: every picture once, whatever the number of ranks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from finedefics.errors import FinedeficsError
from finedefics.records import Sample
from finedefics_platform.config.experiment import Experiment
from finedefics_platform.data.store import Dataset, Place

if TYPE_CHECKING:
    from finedefics.backbones import Backbone

# One share a process, read once and not at every check: the key names dataset, limit, rank and world size.
_SHARES: dict[tuple[str, int | None, int, int], tuple[list[Sample], int]] = {}


def validate_alignment(
    backbone: "Backbone", dataset: Dataset, experiment: Experiment, rank: int, world: int
) -> dict[str, float]:
    """Accuracy of the alignment answer on the validation split, during training: a `worker.Validate`.

    Every rank answers equally many pictures, in as many batches (`Recogniser.recognise`), so that sharded
    weights are gathered by all together; each picture counts once, so that the figure does not depend on the
    number of ranks.

    Returns:
        ``val_alignment``, and ``val_alignment_new`` and ``val_alignment_labelled`` where there are such
        pictures: fractions.

    Raises:
        FinedeficsError: no picture of the split has a label.
    """
    import torch

    from finedefics.distributed import total
    from finedefics.scoring import Recogniser

    share, counted = _share(dataset, experiment.evaluation.limit, rank, world)
    trained_on_labels = any("labelled" in stage.feeds for stage in experiment.stages)
    labelled = dataset.labelled_category_ids() if trained_on_labels else set()
    recogniser = Recogniser(
        backbone,
        dataset.categories(),
        templates=experiment.data.templates.as_templates(),
        object_readout=experiment.model.object_readout,
        micro_tokens=experiment.evaluation.micro_tokens,
    )
    ranked = recogniser.recognise([sample.image for sample in share], "alignment", top=1)
    counts = torch.zeros(2, 2)
    for sample, best in list(zip(share, ranked, strict=True))[:counted]:
        counts[int(sample.category_id in labelled)] += torch.tensor(
            [float(best[0][0] == sample.category_id), 1.0]
        )
    (new_right, new), (old_right, old) = total(counts.to(backbone.device)).tolist()
    figures = {"val_alignment": (new_right + old_right) / (new + old)}
    figures |= {"val_alignment_new": new_right / new} if new else {}
    figures |= {"val_alignment_labelled": old_right / old} if old else {}
    return figures


def share_of(count: int, rank: int, world: int) -> tuple[list[int], int]:
    """Which of ``count`` pictures (at least 1) a rank answers: positions, and how many of them count.

    Every rank gets equally many; what is missing to that is repeated at the end and not counted.
    """
    each = -(-count // world)
    positions = [rank + world * turn for turn in range(each)]
    counted = sum(position < count for position in positions)
    return [position % count for position in positions], counted


def validation_places(dataset: Dataset, limit: int | None, cure: str) -> list[Place]:
    """Where labelled pictures of val lie, at most ``limit``; FinedeficsError with ``cure`` if none is."""
    return dataset.labelled_places("val", _positions(dataset, limit, cure))


def _positions(dataset: Dataset, limit: int | None, cure: str) -> Sequence[int]:
    """Which of the labelled pictures are asked, from counts alone; raises as `validation_places`."""
    count = sum(group.rows for group in dataset.row_groups("val") if group.labelled)
    if not count:
        raise FinedeficsError(
            "no labelled picture in the split val",
            place=dataset.reference,
            cure=f"{cure}, or add a val split",
        )
    # spread over the split: a limit must not leave whole categories out
    stride = max(1, count // limit) if limit else 1
    return range(0, count, stride)[:limit]


def _share(dataset: Dataset, limit: int | None, rank: int, world: int) -> tuple[Sequence[Sample], int]:
    key = (dataset.digest, limit, rank, world)
    if key not in _SHARES:
        chosen = validation_places(dataset, limit, cure="leave out evaluation.every")
        turns, counted = share_of(len(chosen), rank, world)
        _SHARES.clear()
        _SHARES[key] = (dataset.samples_at([chosen[turn] for turn in turns]), counted)
    return _SHARES[key]
