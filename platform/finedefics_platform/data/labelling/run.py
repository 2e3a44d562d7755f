"""The step "label": infer, score on what is known, choose a threshold, write."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from finedefics.errors import FinedeficsError, wrong_use
from finedefics.evaluation.confidence import FEWEST, Confidence, judge
from finedefics.labellers import Labeller
from finedefics.labellers.file import FileLabeller
from finedefics_platform.base.digest import digest_of
from finedefics_platform.base.progress import SILENT, Progress
from finedefics_platform.base.tasks import run_tasks
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.labelling.inferring import (
    NOT_ASKED,
    Inferences,
    Sought,
    infer,
    named_labeller,
    to_score,
    unlabelled,
)
from finedefics_platform.data.labelling.writing import LabelledFile, told, with_inferred, write_labels
from finedefics_platform.data.steps import step_digest, step_of
from finedefics_platform.data.store import Dataset, open_dataset
from finedefics_platform.data.versions import new_version

if TYPE_CHECKING:
    from finedefics.embedders import Settings

# negatives and neighbours are not read, but carried over: mined anew, they make another version
_READ = ("samples", "categories", "descriptions", "negatives", "neighbours")
_SHOWN = 6  # points of a curve, and names, in an error's one line


class NotPreciseEnough(FinedeficsError):
    """No threshold makes the labeller as precise as wanted on pictures whose label is known."""


def label(
    workspace: Workspace,
    reference: str,
    *,
    labeller: str,
    precision: float = 0.9,
    settings: "Settings | None" = None,
    gpus_per_worker: float | None = None,
    progress: Progress = SILENT,
) -> Dataset:
    """Add the table of labels: what the training pictures without a label are taken for.

    The labeller is scored first on pictures whose label is known (`to_score`), all categories competing; the
    threshold is the lowest probability from which on it has the wanted precision there, on twenty pictures or
    more. Labels below it are written as well: an experiment may ask for another threshold.

    Args:
        labeller: ``reading:MODEL``, ``alignment:MODEL``, ``agreement:TUNED,BASE``, ``file:PATH`` or a ``.py``
            file; models by folder, URI, place in the workspace or hub name.
        precision: that the threshold must reach.
        settings, gpus_per_worker: how models run.

    Raises:
        FinedeficsError: there is no such dataset or labeller, there is nothing to infer or to score on, no
            threshold reaches the precision (`NotPreciseEnough`), or a table of labels is of another version.
    """
    if not 0 < precision <= 1:
        raise wrong_use(f"{precision:g} is no precision", place="--precision", cure="give a share up to 1")
    dataset = open_dataset(workspace, reference)
    named = named_labeller(workspace, labeller, dataset.categories(), settings, gpus_per_worker)
    made = named.open()
    asked, known = unlabelled(dataset), to_score(dataset, made.splits)
    _check_asked(dataset, made, asked)
    labeller_id = _labeller_id(named.identity(made), precision)
    step = step_digest("label", dataset, _READ, labeller_id)
    with step_of(workspace, dataset.name, step, "label", progress) as done:
        if done:
            return done
        if isinstance(made, FileLabeller):
            _check_all_match(dataset, made, named.name)
        sought = sorted([*asked, *known], key=lambda one: one.group.number)
        inferences = infer(workspace, dataset, named, made, sought, progress)
        found = _score(inferences, known, precision)
        scored = {
            "pictures": found.pictures,
            "answered": found.answered,
            "splits": sorted({one.group.split for one in known}),
            "accuracy": found.accuracy,
            "ece": found.ece,
            "curve": [asdict(point) for point in found.curve],
        }
        progress.event("scored", labeller=labeller, wanted_precision=precision, **scored)
        threshold = _threshold(dataset, made, found, labeller, precision)
        ids = [category.category_id for category in named.categories]
        work = partial(
            write_labels,
            dataset=dataset,
            inferences=inferences,
            ids=ids,
            labeller_id=labeller_id,
            home=dataset.root.parent,
        )
        files = [(groups, _of_file(asked, number)) for number, groups in enumerate(dataset.groups_of_file())]
        written: list[LabelledFile] = run_tasks(
            files, work, chunk=1, label="writing labels", progress=progress
        )
        given = [p for file in written for row in file.probabilities for p in row if p >= 0]
        provenance = {
            "step": "label",
            "labeller": named.name,
            "labeller_id": labeller_id,
            "wanted_precision": precision,
            "threshold": threshold,
            "threshold_scored": asdict(found.chosen) if found.chosen else None,
            "asked": sum(len(one.rows) for one in asked),
            "inferred": len(given),
            "accepted": sum(probability >= threshold for probability in given),
            "scored": scored,
        }
        draft = new_version(workspace, dataset.name)
        made_anew = ("labels", "row_groups")
        draft.keep(dataset, [table for table in dataset.manifest["tables"] if table not in made_anew])
        draft.parts("labels", [file.part for file in written], provenance)
        before = dataset.manifest["provenance"]["row_groups"]
        draft.write("row_groups", with_inferred(dataset, written), before)
        return draft.publish(step)


def _labeller_id(identity: str, precision: float) -> str:
    """Another wanted precision is another threshold, and so another version."""
    return f"{identity}-{digest_of([identity, precision, FEWEST])}"


def _of_file(sought: Sequence[Sought], number: int) -> list[Sought]:
    return [one for one in sought if one.group.file == number]


def _check_asked(dataset: Dataset, labeller: Labeller, asked: Sequence[Sought]) -> None:
    if not asked:
        raise FinedeficsError(
            "every picture of the split train has a label, so there is none to infer",
            place=dataset.reference,
            cure="ingest pictures without a label, with descriptions, beside the labelled ones",
        )
    if "description" in labeller.reads and not sum(one.group.described for one in asked):
        raise FinedeficsError(
            f"none of {sum(len(one.rows) for one in asked)} training pictures without a label is described",
            place=dataset.reference,
            cure=f"run `finedefics data describe {dataset.name}`, or take a labeller that reads none "
            "(alignment:RUN, file:PATH)",
        )


def _check_all_match(dataset: Dataset, labeller: FileLabeller, name: str) -> None:
    """A row that names no picture of this version says that the table was made for another one."""
    matched: set[int] = set()
    for group in dataset.row_groups():
        rows = dataset.read(group, {"samples": ["sample_id", "source"]})
        found = labeller.matches(rows["sample_id"].to_pylist(), rows["source"].to_pylist())
        matched.update(row for row in found if row is not None)
    left = [row for row in range(labeller.rows) if row not in matched]
    if left:
        such = ", ".join(labeller.key(row) for row in left[:_SHOWN])
        raise FinedeficsError(
            f"{len(left)} of {labeller.rows} rows match no picture of {dataset.reference} ({such}): it is a "
            "label table for another version",
            place=f"labeller {name}",
            cure="name the version that it was made for (NAME@DIGEST), or remove those rows",
        )


def _score(inferences: Inferences, known: Sequence[Sought], wanted: float) -> Confidence:
    correct: list[np.ndarray] = [np.zeros(0, bool)]
    probability: list[np.ndarray] = [np.zeros(0, np.float32)]
    for one, inferred in inferences.of(known):
        shown = inferred.positions != NOT_ASKED
        answered = inferred.positions >= 0
        correct.append(((inferred.positions == np.array(one.truth)) & answered)[shown])
        probability.append(np.where(answered, inferred.probability, -1).astype(np.float32)[shown])
    return judge(np.concatenate(correct), np.concatenate(probability), wanted=wanted)


def _threshold(dataset: Dataset, labeller: Labeller, found: Confidence, name: str, precision: float) -> float:
    """The chosen threshold; of a table of labels that too few known pictures speak of, 0: it is believed.

    Raises:
        FinedeficsError: there are too few pictures to score a labeller on, or no threshold is good enough.
    """
    if found.chosen is not None:
        return found.chosen.threshold
    if isinstance(labeller, FileLabeller) and found.answered < FEWEST:
        return 0.0
    if found.pictures < FEWEST:
        splits = " and ".join(labeller.splits)
        described = " that have a description" if "description" in labeller.reads else ""
        raise FinedeficsError(
            f"{found.pictures} labelled pictures of {splits}{described} are of categories with a labelled "
            f"training picture, and {FEWEST} are needed to score it on",
            place=f"{dataset.reference}, labeller {name}",
            cure="label or describe more pictures there, or infer elsewhere and give --labeller file:PATH",
        )
    steps = np.linspace(0, len(found.curve) - 1, _SHOWN) if found.curve else np.zeros(0)
    places: list[int] = np.unique(steps.round().astype(int)).tolist()
    curve = "; ".join(told(asdict(found.curve[place])) for place in places)
    raise NotPreciseEnough(
        f"no threshold reaches a precision of {100 * precision:g} % on {FEWEST} known pictures or more "
        f"(threshold {curve or 'none: it answered nowhere'}; of {found.pictures} pictures)",
        place=f"{dataset.reference}, labeller {name}",
        cure="take another labeller, a lower --precision, or descriptions that say more",
    )
