"""Calibration of a model's index: on which pictures it is fitted, and whether alignment then uses it.

It is fitted on pictures of the split train, whoever labelled or captioned them: their ids and encoded bytes
are all that is read. Labelled pictures of val decide, so never where val itself is judged
(`finedefics_platform.evaluation.checks.planned`).
"""

import hashlib
import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from finedefics.records import Sample
from finedefics_platform.config.experiment import Evaluation as Settings
from finedefics_platform.data.store import Dataset, RowGroup
from finedefics_platform.evaluation.checks import DECIDED_ON, FITTED_ON, Planned
from finedefics_platform.evaluation.validation import validation_samples

if TYPE_CHECKING:
    from torch import Tensor

    from finedefics.scoring import Calibration, CategoryIndex, Trial

# object embeddings [pictures, dim] of those to fit on and of those to decide on, and the model's index
Embed = Callable[[Sequence[Sample], Sequence[Sample]], "tuple[Tensor, Tensor, CategoryIndex]"]


def calibrate(plan: Planned, dataset: Dataset, settings: Settings, embed: Embed) -> "Calibration | None":
    """Fit a calibration and decide whether it is used; None where the plan is to fit none."""
    if not plan.fits:
        return None
    fitting = fitting_pictures(dataset, settings.seed)
    deciding: list[Sample] = []
    if plan.decides:
        deciding = validation_samples(dataset, settings.limit, cure="set evaluation.calibration to on or off")
    fitted, decided, plain = embed(fitting, deciding)
    index = plain.calibrated_by(fitted, on=plan.on, why=plan.why, dataset=dataset.digest, split=FITTED_ON)
    if not plan.decides or index.calibration is None:
        return index.calibration
    trial = _tried(index, decided, deciding, dataset.digest)
    better = trial.calibrated > trial.plain
    why = f"alignment is {'' if better else 'not '}righter with it on {DECIDED_ON}"
    return replace(index.calibration, on=better, why=why, trial=trial)


def told(plan: Planned | None, calibration: "Calibration | None") -> dict[str, Any] | None:
    """For a summary; None where no answer that was asked for could use one."""
    if plan is None:
        return None
    if calibration is None:
        return {"on": False, "why": plan.why, "fitted": 0, "trial": None}
    return {**calibration.told(), "fitted": len(calibration.objects)}


def fitting_pictures(dataset: Dataset, seed: int) -> list[Sample]:
    """At most `MOST` training pictures, chosen and ordered by the seed and their ids; nothing else is known.

    Reads the row groups that hold one, one at a time.
    """
    from finedefics.scoring.calibration import MOST

    drawn = heapq.nsmallest(MOST, _drawn(dataset, seed))
    rows: dict[int, list[int]] = {}
    for _, group, row in drawn:
        rows.setdefault(group, []).append(row)
    groups = {group.number: group for group in dataset.row_groups(FITTED_ON)}
    read = {number: _pictures(dataset, groups[number], own) for number, own in rows.items()}
    return [read[group][row] for _, group, row in drawn]


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


def _pictures(dataset: Dataset, group: RowGroup, rows: Sequence[int]) -> dict[int, Sample]:
    read = dataset.read(group, {"samples": ("sample_id", "image")}).take(rows).to_pylist()
    return {row: Sample(one["sample_id"], one["image"]) for row, one in zip(rows, read, strict=True)}


def _tried(index: "CategoryIndex", objects: "Tensor", samples: Sequence[Sample], dataset: str) -> "Trial":
    """Accuracy of alignment with and without the index's calibration on labelled pictures, at least one."""
    import torch

    from finedefics.scoring import Trial

    place = {category.category_id: i for i, category in enumerate(index.categories)}
    truth = torch.tensor([place[sample.category_id or ""] for sample in samples])
    plain, calibrated = (
        float((index.scores(objects, calibrated=used).argmax(1) == truth).double().mean())
        for used in (False, True)
    )
    return Trial(dataset, DECIDED_ON, len(samples), plain, calibrated)
