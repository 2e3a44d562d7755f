"""What an evaluation cannot do, found from a dataset's counts: before a model is read or a cluster starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finedefics.errors import FinedeficsError, reason_of, wrong_use
from finedefics.records import SPLITS
from finedefics_platform.config.experiment import Evaluation as Settings
from finedefics_platform.data.store import Dataset

if TYPE_CHECKING:
    from finedefics.records import Category

HELD_OUT = ("test", "val")  # what an evaluation may be asked on, the better one first
FITTED_ON, DECIDED_ON = "train", "val"  # the splits that a calibration is fitted and decided on
CALIBRATED = "alignment_calibrated"
CALIBRATABLE = frozenset((CALIBRATED, "alignment", "alignment_names", "alignment_descriptions", "ensemble"))


@dataclass(frozen=True)
class Planned:
    """What becomes of the calibration.

    Attributes:
        why: so, in words; empty where it is still to be decided.
        fits: whether one is fitted.
        decides: whether labelled pictures of val decide if it is used.
        on: whether it is used, where that is known.
    """

    why: str
    fits: bool = False
    decides: bool = False
    on: bool = False


def labelled_pictures(dataset: Dataset, split: str) -> int:
    """Labelled pictures of a split, from the manifest."""
    counts = dataset.manifest["counts"].get(split, {})
    return sum(number for category, number in counts.items() if category)


def evaluable_splits(dataset: Dataset) -> tuple[str, ...]:
    """Held-out splits with labelled pictures, the better one first; none where categories are too few."""
    if dataset.manifest["tables"]["categories"]["rows"] < 2:
        return ()
    return tuple(split for split in HELD_OUT if labelled_pictures(dataset, split))


def check_evaluable(dataset: Dataset, settings: Settings) -> "list[Category]":
    """The categories that compete.

    Raises:
        FinedeficsError: there is one category only, no labelled picture in the split, none to weigh the
            ensemble on, the ensemble or thresholds are asked for where they are chosen (exit code 2),
            options are to be turned and none are shown (exit code 2), or alignment is to be calibrated and
            cannot.
    """
    from finedefics.evaluation.items import check_answers

    check_answers(settings.answers)
    if "ensemble" in settings.answers and settings.split == "val":
        raise wrong_use(
            "the ensemble's weight is chosen on val, so its accuracy there would flatter it",
            place="answer `ensemble`",
            cure="evaluate on the split test, or leave the answer out",
        )
    categories = check_categories(dataset, settings.split)
    if "ensemble" in settings.answers and not labelled_pictures(dataset, "val"):
        raise FinedeficsError(
            "no labelled picture in the split val, on which the ensemble's weight is chosen",
            place=dataset.reference,
            cure="leave the answer `ensemble` out, or add a val split",
        )
    _check_calibration(dataset, settings)
    _check_unknown(dataset, settings)
    _check_rotations(settings)
    return categories


def planned(dataset: Dataset, settings: Settings) -> Planned | None:
    """How an evaluation calibrates alignment; None where no answer that is asked for could use it."""
    if not CALIBRATABLE & set(settings.answers):
        return None
    if settings.calibration == "off":
        return Planned("switched off")
    if not sum(dataset.manifest["counts"].get(FITTED_ON, {}).values()):
        return Planned(f"no picture in the split {FITTED_ON} to fit it on")
    if settings.calibration == "on":
        return Planned("switched on", fits=True, on=True)
    asked = CALIBRATED in settings.answers
    if settings.split == DECIDED_ON:
        return Planned(f"it is decided on {DECIDED_ON}, and would be flattered there", fits=asked)
    if not labelled_pictures(dataset, DECIDED_ON):
        return Planned(f"no labelled picture in the split {DECIDED_ON} to decide it on", fits=asked)
    return Planned("", fits=True, decides=True)


def _check_calibration(dataset: Dataset, settings: Settings) -> None:
    plan = planned(dataset, settings)
    asked = CALIBRATED in settings.answers
    if plan is None or plan.fits or not (asked or settings.calibration == "on"):
        return
    if settings.calibration == "off":
        raise wrong_use(
            "calibration is switched off, and this answer is calibrated",
            place=f"answer `{CALIBRATED}`",
            cure="set evaluation.calibration to auto, or leave the answer out",
        )
    raise FinedeficsError(
        f"alignment cannot be calibrated: {plan.why}",
        place=dataset.reference,
        cure=f"ingest training pictures, or set evaluation.calibration to off and leave `{CALIBRATED}` out",
    )


def _check_unknown(dataset: Dataset, settings: Settings) -> None:
    if settings.unknown != "on":
        return
    if settings.split == DECIDED_ON:
        raise wrong_use(
            f"the thresholds are chosen on {DECIDED_ON}, so what they do there would flatter them",
            place="evaluation.unknown",
            cure="evaluate on the split test, or leave --unknown out",
        )
    if not labelled_pictures(dataset, DECIDED_ON):
        raise FinedeficsError(
            f"no labelled picture in the split {DECIDED_ON}, on which thresholds are chosen",
            place=dataset.reference,
            cure="leave --unknown out, or add a val split",
        )


def _check_rotations(settings: Settings) -> None:
    from finedefics.scoring import ANSWERS

    if settings.rotations is not None and not any(ANSWERS[one].asks_options for one in settings.answers):
        raise wrong_use(
            f"none of the answers {', '.join(settings.answers)} shows its options, so none can be turned",
            place="evaluation.rotations",
            cure="ask for letters, letters_foci or letters_likelihood, or leave --rotations out",
        )


def check_weights(folder: Path) -> None:
    """FinedeficsError where a model folder's weights cannot be read; their headers alone are looked at."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(str(file), framework="pt") as weights:
                weights.keys()
        except (SafetensorError, OSError) as error:
            raise FinedeficsError(
                f"the weights cannot be read ({reason_of(error)})",
                place=str(file),
                cure="copy or download the model again",
            ) from error


def check_categories(dataset: Dataset, split: str) -> "list[Category]":
    """The categories; FinedeficsError where there is one only, or no labelled picture in the split."""
    categories = dataset.categories()
    if len(categories) < 2:
        raise FinedeficsError(
            f"{len(categories)} category, and an evaluation asks which of several it is",
            place=dataset.reference,
            cure="ingest pictures of at least two categories, or name more in categories.jsonl",
        )
    if not labelled_pictures(dataset, split):
        raise FinedeficsError(
            f"no labelled picture in the split {split}",
            place=dataset.reference,
            cure=_instead(evaluable_splits(dataset), split),
        )
    return categories


def _instead(splits: Sequence[str], asked: str) -> str:
    """What can be done where the split that was asked for has nothing."""
    if splits:
        return f"evaluate on another split: --split {splits[0]}"
    folders = " or ".join(f"{split}/<category>/" for split in SPLITS if split in HELD_OUT)
    return f"nothing is held out: put labelled pictures into {folders} and ingest again"
