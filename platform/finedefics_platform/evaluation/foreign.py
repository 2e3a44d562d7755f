"""Below which score a picture shows something unknown: chosen on labelled pictures of val, for each answer.

Only answers among all categories have such a threshold, and only those whose score says how sure they are.
That of the alignment answers comes from the embeddings of val, those of the others from asking them there.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from finedefics_platform.config.experiment import Evaluation as Settings
from finedefics_platform.data.store import Dataset
from finedefics_platform.evaluation.checks import DECIDED_ON, labelled_pictures

if TYPE_CHECKING:
    from torch import Tensor

    from finedefics.scoring import CategoryIndex, Unknown

_ENSEMBLE = "ensemble"


def with_thresholds(dataset: Dataset, settings: Settings) -> list[str]:
    """The answers for which a threshold is chosen; empty where there is nothing to choose it on.

    A threshold that is chosen where it is judged would flatter, so there is none on val.
    """
    if (
        settings.unknown == "off"
        or settings.split == DECIDED_ON
        or not labelled_pictures(dataset, DECIDED_ON)
    ):
        return []
    return [*_derived(settings), *asked_for_thresholds(settings)]


def asked_for_thresholds(settings: Settings) -> list[str]:
    """Those of them that have to be asked on val."""
    from finedefics.scoring import ANSWERS, is_graded

    if settings.unknown != "on":
        return []
    derived = _derived(settings)
    able = [one for one in settings.answers if is_graded(one) and not ANSWERS[one].asks_options]
    return [one for one in able if one not in derived]


def _derived(settings: Settings) -> list[str]:
    """Those that follow from the embeddings of val and what the ensemble's weight is chosen by."""
    from finedefics.scoring import ANSWERS
    from finedefics.scoring.alignment import Alignment

    return [one for one in settings.answers if one == _ENSEMBLE or isinstance(ANSWERS[one], Alignment)]


def thresholds(
    answers: Sequence[str],
    index: "CategoryIndex",
    objects: "Tensor",
    names: "Tensor",
    best: "Callable[[str], Tensor]",
    dataset: str,
) -> "Unknown":
    """Choose the thresholds of answers.

    Args:
        answers: of `with_thresholds`.
        index: with the calibration and the weight that its answers are given with.
        objects: embeddings [pictures, dim] of labelled pictures of val.
        names: their scores [pictures, categories] by the answer `names`, where the ensemble is asked for.
        best: gives the best scores [pictures] of an answer that was asked.
        dataset: its digest, recorded.
    """
    from finedefics.scoring import ANSWERS, Unknown
    from finedefics.scoring.alignment import Alignment
    from finedefics.scoring.weighing import combine

    found = {}
    for answer in answers:
        strategy = ANSWERS[answer]
        if isinstance(strategy, Alignment):
            scores = index.scores(objects, strategy.variant, strategy.calibrated).amax(1)
        elif answer == _ENSEMBLE:
            assert index.ensemble is not None, "its weight is chosen first"
            scores = combine(names, index.scores(objects), index.ensemble.weight, index.slope).amax(1)
        else:
            scores = best(answer)
        found[answer] = scores.numpy()
    return Unknown.choose(found, dataset=dataset, split=DECIDED_ON)
