"""What is decided before a model is asked: alignment's calibration, and the ensemble's weight.

A calibration is fitted on pictures of the split train, whoever labelled or captioned them: their ids and
encoded bytes are all that is read. Labelled pictures of val decide, so never where val itself is judged
(`finedefics_platform.evaluation.checks.planned`).
"""

import hashlib
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from finedefics_platform.data.store import Dataset, Place
from finedefics_platform.evaluation.checks import DECIDED_ON, FITTED_ON, Planned

if TYPE_CHECKING:
    from torch import Tensor

    from finedefics.scoring import Calibration, CategoryIndex, EnsembleWeight, Trial


def calibrate(
    plan: Planned | None,
    index: "CategoryIndex",
    fitted: "Tensor",
    decided: "Tensor",
    truth: Sequence[int],
    dataset: str,
) -> "Calibration | None":
    """Fit a calibration and decide whether it is used; None where the plan is to fit none.

    Args:
        index: the model's, plain.
        fitted, decided: object embeddings [pictures, dim] of `fitting_places` in their order, and of pictures
            of val.
        truth: of the latter the positions of their categories.
        dataset: its digest, recorded.
    """
    if plan is None or not plan.fits:
        return None
    index = index.calibrated_by(fitted, on=plan.on, why=plan.why, dataset=dataset, split=FITTED_ON)
    if not plan.decides or index.calibration is None:
        return index.calibration
    trial = _tried(index, decided, truth, dataset)
    better = trial.calibrated > trial.plain
    why = f"alignment is {'' if better else 'not '}righter with it on {DECIDED_ON}"
    return replace(index.calibration, on=better, why=why, trial=trial)


def ensemble_weight(
    index: "CategoryIndex", names: "Tensor", decided: "Tensor", truth: Sequence[int], dataset: str
) -> "EnsembleWeight":
    """Choose the ensemble's weight on pictures of val, with the alignment that the ensemble will use.

    Args:
        index: with its calibration, where it has one.
        names: scores [pictures, categories] of the answer `names`.
        decided, truth, dataset: as `calibrate` takes them.
    """
    from finedefics.scoring import choose_weight

    alignment = index.scores(decided)
    return choose_weight(names, alignment, truth, dataset=dataset, split=DECIDED_ON, slope=index.slope)


def told(plan: Planned | None, calibration: "Calibration | None") -> dict[str, Any] | None:
    """For a summary; None where no answer that was asked for could use one."""
    if plan is None:
        return None
    if calibration is None:
        return {"on": False, "why": plan.why, "fitted": 0, "trial": None}
    return {**calibration.told(), "fitted": len(calibration.objects)}


def fitting_places(dataset: Dataset, seed: int) -> list[Place]:
    """Where at most `MOST` training pictures lie, chosen and ordered by the seed and their ids.

    Nothing else of them is known, and none is read.
    """
    from finedefics.scoring.calibration import MOST

    drawn = heapq.nsmallest(MOST, _drawn(dataset, seed))
    groups = {group.number: group for group in dataset.row_groups(FITTED_ON)}
    return [Place(groups[group], row) for _, group, row in drawn]


def _drawn(dataset: Dataset, seed: int) -> Iterator[tuple[bytes, int, int]]:
    """Every training picture as (place in the draw, row group, row); the first depends on its id alone."""
    tables = dataset.tables("samples", ["sample_id"])
    for table, groups in zip(tables, dataset.groups_of_file(), strict=True):
        start = 0
        for group in groups:
            if group.split == FITTED_ON:
                ids = table["sample_id"].slice(start, group.rows).to_pylist()
                for row, sample_id in enumerate(ids):
                    yield hashlib.sha256(f"{seed} {sample_id}".encode()).digest(), group.number, row
            start += group.rows


def _tried(index: "CategoryIndex", objects: "Tensor", truth: Sequence[int], dataset: str) -> "Trial":
    """Accuracy of alignment with and without the index's calibration on labelled pictures, at least one."""
    import torch

    from finedefics.scoring import Trial

    own = torch.tensor(truth)
    plain, calibrated = (
        float((index.scores(objects, calibrated=used).argmax(1) == own).double().mean())
        for used in (False, True)
    )
    return Trial(dataset, DECIDED_ON, len(own), plain, calibrated)
