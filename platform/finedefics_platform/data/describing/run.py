"""The step "describe": choose a describer, find what is said of pictures, close the vocabulary, write."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa

from finedefics.describers import DESCRIBERS, AskingDescriber, Describer, Given, Vocabulary
from finedefics.describers.file import FileDescriber
from finedefics.describers.models import LocalModel
from finedefics.describers.names import CategoryNamesDescriber
from finedefics.describers.vocabulary import ANNOTATED, Closing, merge_counts
from finedefics.errors import FinedeficsError, wrong_use
from finedefics.records import VOCABULARY, Category
from finedefics.registry import split_spec
from finedefics_platform.base.digest import digest_of
from finedefics_platform.base.progress import SILENT, Progress
from finedefics_platform.base.storage import Location, lease
from finedefics_platform.base.tasks import run_tasks
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.describing.answers import AnswerLog
from finedefics_platform.data.describing.asking import Asker, ask_files, learn_names, names_wanted
from finedefics_platform.data.describing.estimate import Estimate, Prices, estimate
from finedefics_platform.data.describing.names import (
    category_table,
    fill_categories,
    in_vocabulary,
    known_values,
)
from finedefics_platform.data.describing.said import SaidFile
from finedefics_platform.data.describing.wording import word_files
from finedefics_platform.data.describing.workers import Workers
from finedefics_platform.data.describing.writing import (
    Described,
    counted_groups,
    say_files,
    without_following,
    write_files,
)
from finedefics_platform.data.steps import step_digest, step_of
from finedefics_platform.data.store import Dataset, open_dataset
from finedefics_platform.data.versions import lease_of, new_version

_READ = ("samples", "annotations", "categories")
_REASONS_KEPT = 20


@dataclass(frozen=True)
class Settings:
    """What a user may say about describing.

    Attributes:
        options: of describers that ask a model: `finedefics.describers.asking.Options` and its model's own.
        limit: only so many pictures are asked about.
        allow_failed: share of pictures that may get no usable answer before asking stops.
        overwrite: of ``names:``, replaces what categories have.
        workers, gpus_per_worker: where a local model is loaded; None: one GPU where the cluster has any.
    """

    options: Mapping[str, object] = field(default_factory=dict)
    limit: int | None = None
    allow_failed: float = 0.05
    overwrite: bool = False
    workers: int = 1
    gpus_per_worker: float | None = None


def best_describer(dataset: Dataset) -> str:
    """The best describer that the data allows without a model.

    Raises:
        FinedeficsError: the data says nothing of pictures or categories.
    """
    notes = dataset.table("annotations", ["description", "attributes"])
    if any(notes[column].null_count < len(notes) for column in notes.column_names):
        return "annotations"
    if any(category.description or category.attributes for category in dataset.categories()):
        return "categories"
    raise FinedeficsError(
        "the source says nothing of its pictures or categories",
        place=dataset.reference,
        cure="name one: --describer openai:MODEL, transformers:MODEL, file:PATH or names:openai:MODEL",
    )


def describe(
    workspace: Workspace,
    reference: str,
    *,
    describer: str | None = None,
    settings: Settings | None = None,
    progress: Progress = SILENT,
) -> Dataset:
    """Add the descriptions table; pictures that the describer has nothing to say of are counted.

    Args:
        describer: ``name`` or ``name:argument``; None: `best_describer`, unless the pictures were described
            by one that was named, whose descriptions stay.

    Raises:
        FinedeficsError: there is no such dataset or describer, or too many questions got no usable answer.
    """
    settings = settings or Settings()
    dataset = open_dataset(workspace, reference)
    if describer is None:
        if (by := described_by(dataset)) is not None:
            progress.say(f"described before by {by}; name a describer to describe anew")
            return dataset
        describer = best_describer(dataset)
        progress.say(f"describer: {describer}")
    made = _made(dataset, describer, settings)
    if not isinstance(made, AskingDescriber):
        return _describe(workspace, dataset, made, describer, settings, progress)
    with _asker(workspace, dataset, made, settings, progress) as asker:
        if isinstance(made, CategoryNamesDescriber):
            return _describe_categories(workspace, dataset, made, asker, settings, progress)
        _learn_names(workspace, dataset, made, asker, progress)
        return _describe(workspace, dataset, made, describer, settings, progress, asker)


def described_by(dataset: Dataset) -> str | None:
    """Who described the pictures, where that took more than the data itself; None where nobody did."""
    told = dataset.manifest["provenance"].get("descriptions", {})
    called = told.get("called")
    return None if called in ("annotations", "categories") else called


def estimate_of(
    workspace: Workspace,
    reference: str,
    describer: str,
    *,
    settings: Settings | None = None,
    prices: Prices | None = None,
    progress: Progress = SILENT,
) -> Estimate:
    """What describing would ask for; asks nothing.

    Raises:
        FinedeficsError: the describer asks nobody about pictures (exit code 2).
    """
    settings = settings or Settings()
    dataset = open_dataset(workspace, reference)
    made = _made(dataset, describer, settings)
    if not isinstance(made, AskingDescriber) or isinstance(made, CategoryNamesDescriber):
        raise wrong_use(
            "it asks no model about pictures", place=f"describer {describer!r}", cure="leave out --estimate"
        )
    log = AnswerLog(workspace.answers, made.model.model_id)
    asker = Asker(made.model, log, made.options.attempts)
    return estimate(dataset, made, asker, progress, prices=prices, limit=settings.limit)


def _made(dataset: Dataset, describer: str, settings: Settings) -> Describer:
    name, argument = (describer, None) if describer.endswith(".py") else split_spec(describer)
    given = Given(argument, dataset.categories(), settings.options)
    return DESCRIBERS[name](given)


@contextmanager
def _asker(
    workspace: Workspace, dataset: Dataset, made: AskingDescriber, settings: Settings, progress: Progress
) -> Iterator[Asker]:
    log = AnswerLog(workspace.answers, made.model.model_id)
    asked = dataset.manifest["tables"]["samples"]["rows"]
    allowed = _allowed(settings, min(asked, settings.limit or asked))
    asker = Asker(made.model, log, made.options.attempts, allowed)
    try:
        if isinstance(made.model, LocalModel):
            gpus = settings.gpus_per_worker
            with Workers(made.model, count=settings.workers, gpus=gpus, progress=progress) as workers:
                asker.model = workers
                yield asker
        else:
            yield asker
    finally:
        log.flush()


def _learn_names(
    workspace: Workspace, dataset: Dataset, made: AskingDescriber, asker: Asker, progress: Progress
) -> None:
    """Of several drivers one asks for the names: other names would be other questions about every picture."""
    if wanted := names_wanted(made, asker):
        asked = digest_of([made.model.model_id, sorted(question.key for question in wanted)])
        place = lease_of(workspace, dataset.name, f"names-{asked}")
        with lease(place, f"describe of {dataset.name}", progress=progress):
            asker.log.refresh()
            learn_names(made, asker)
            asker.log.flush()
    else:
        learn_names(made, asker)


def _allowed(settings: Settings, questions: int) -> float:
    """Questions that may fail; where all may, nothing stops the asking."""
    return settings.allow_failed * questions if settings.allow_failed < 1 else math.inf


def _describe(
    workspace: Workspace,
    dataset: Dataset,
    made: Describer,
    called: str,
    settings: Settings,
    progress: Progress,
    asker: Asker | None = None,
) -> Dataset:
    closing: Closing = getattr(made, "closing", ANNOTATED)
    identity = [made.describer_id, DESCRIBERS.identity(called) if called.endswith(".py") else None]
    step = step_digest("describe", dataset, _READ, [identity, settings.limit, asdict(closing)])
    with step_of(workspace, dataset.name, step, "describe", progress) as done:
        if done:
            return done
        if asker:
            asker.log.refresh()  # whoever was waited for may have been cut off after most of the answers
        place = workspace.answers / "said" / f"{dataset.name}-{step}"
        try:
            files = _first_pass(dataset, made, asker, place, settings, progress)
            vocabulary = _vocabulary(dataset, files, closing)
            if asker and isinstance(made, AskingDescriber) and made.options.wording == "model":
                files = word_files(made, asker, files, vocabulary, place / "worded", progress)
            work = partial(
                write_files, home=dataset.root.parent, vocabulary=vocabulary, describer_id=made.describer_id
            )
            written: list[Described] = run_tasks(
                files, work, chunk=1, label="writing descriptions", progress=progress
            )
        finally:
            place.delete()
            if asker:
                asker.log.flush()  # before the next one is let in
        provenance = _provenance(dataset, made, called, files, written, vocabulary)
        if asker:
            provenance |= {"usage": asker.usage.as_dict(), "limit": settings.limit}
        return _publish(workspace, dataset, written, vocabulary, provenance, _address(step, asker))


def _first_pass(
    dataset: Dataset,
    made: Describer,
    asker: Asker | None,
    place: Location,
    settings: Settings,
    progress: Progress,
) -> list[SaidFile]:
    if asker and isinstance(made, AskingDescriber):
        return ask_files(dataset, made, asker, place, progress, limit=settings.limit)
    work = partial(say_files, dataset=dataset, describer=made, place=place)
    files = list(enumerate(dataset.groups_of_file()))
    return run_tasks(files, work, chunk=1, label="describing pictures", progress=progress)


def _vocabulary(dataset: Dataset, files: Sequence[SaidFile], closing: Closing) -> Vocabulary:
    known = known_values(dataset.categories())
    return Vocabulary.of(merge_counts(file.counts for file in files), closing, known=known)


def _address(step: str, asker: Asker | None) -> str:
    """Where the endpoint failed for some pictures, the next run asks for them again: the step is not done."""
    return f"{step}-incomplete" if asker and asker.failures else step


def _provenance(
    dataset: Dataset,
    made: Describer,
    called: str,
    files: Sequence[SaidFile],
    written: Sequence[Described],
    vocabulary: Vocabulary,
) -> dict[str, Any]:
    total = dataset.manifest["tables"]["samples"]["rows"]
    described = sum(count for file in written for count in file.described)
    seen, reasons, told = (
        sum((Counter(dict(one)) for one in each), Counter[str]())
        for each in (
            [file.seen for file in written],
            [file.reasons for file in written],
            [file.seen for file in files],
        )
    )
    return {
        "step": "describe",
        "describer": made.describer_id,
        "called": called,
        "of": "category" if called == "categories" else "picture",
        "without_description": total - described,
        "reasons": dict(reasons.most_common(_REASONS_KEPT)),
        "attributes": sorted(seen),
        "coverage": {name: round(count / total, 4) for name, count in sorted(seen.items())},
        "vocabulary": {name: len(values) for name, values in vocabulary.counts.items() if name in seen},
        "rare_values": dict(vocabulary.dropped),
        **{name.replace(" ", "_"): count for name, count in told.items()},
        **(_unmatched(dataset, made) if isinstance(made, FileDescriber) else {}),
    }


def _unmatched(dataset: Dataset, made: FileDescriber) -> dict[str, Any]:
    """Rows of the user's file that name no picture here."""
    matched: set[int] = set()
    for group in dataset.row_groups():
        rows = dataset.read(group, {"samples": ["sample_id", "source"]})
        found = made.matches(rows["sample_id"].to_pylist(), rows["source"].to_pylist())
        matched.update(row for row in found if row is not None)
    left = [row for row in range(made.rows) if row not in matched]
    return {"rows_without_picture": len(left), "for_example": [made.key(row) for row in left[:5]]}


def _publish(
    workspace: Workspace,
    dataset: Dataset,
    written: Sequence[Described],
    vocabulary: Vocabulary,
    provenance: Mapping[str, Any],
    step: str,
) -> Dataset:
    draft = new_version(workspace, dataset.name)
    # Negatives and labels were made from other descriptions: they are left out, and made again.
    made_anew = ["descriptions", "vocabulary", "row_groups", "negatives", "neighbours", "labels"]
    categories = dataset.categories()
    closed = in_vocabulary(categories, vocabulary)
    if closed != categories:
        made_anew.append("categories")
    draft.keep(dataset, [table for table in dataset.manifest["tables"] if table not in made_anew])
    draft.parts("descriptions", [file.part for file in written], provenance)
    draft.write(
        "vocabulary", pa.Table.from_pylist(vocabulary.rows(), schema=VOCABULARY), {"step": "describe"}
    )
    described = [count for file in written for count in file.described]
    draft.write("row_groups", counted_groups(dataset, described), {"step": "describe"})
    if closed != categories:
        before = dataset.manifest["provenance"]["categories"]
        draft.write("categories", category_table(closed), {**before, "values": "in the vocabulary"})
    return draft.publish(step)


def _describe_categories(
    workspace: Workspace,
    dataset: Dataset,
    made: CategoryNamesDescriber,
    asker: Asker,
    settings: Settings,
    progress: Progress,
) -> Dataset:
    categories = dataset.categories()
    wanting: list[Category] = [c for c in categories if settings.overwrite or not c.attributes]
    asker.allowed = _allowed(settings, len(wanting))
    if wanting:
        _learn_names(workspace, dataset, made, asker, progress)
    step = step_digest(
        "names", dataset, ("categories", "vocabulary"), [made.describer_id, settings.overwrite]
    )
    with step_of(workspace, dataset.name, step, "describe", progress) as done:
        if done:
            return done
        asker.log.refresh()
        with progress.progress("asking about categories", len(wanting)) as advance:
            known = known_values(
                categories, dataset.table("vocabulary") if dataset.has("vocabulary") else None
            )
            filled, unknown = fill_categories(made, asker, categories, known, overwrite=settings.overwrite)
            advance(len(wanting))
        provenance = {
            "step": "describe",
            "describer": made.describer_id,
            "called": f"names:{made.model.model_id}",
            "asked": len(wanting),
            "without_text": sum(not c.description for c in filled),
            "unknown": dict(list(unknown.items())[:_REASONS_KEPT]),
            "usage": asker.usage.as_dict(),
            "before": dataset.manifest["provenance"]["categories"],
        }
        draft = new_version(workspace, dataset.name)
        made_anew = ("categories", "negatives", "neighbours", "labels", "row_groups")
        draft.keep(dataset, [table for table in dataset.manifest["tables"] if table not in made_anew])
        draft.write("row_groups", without_following(dataset), dataset.manifest["provenance"]["row_groups"])
        draft.write("categories", category_table(filled), provenance)
        return draft.publish(_address(step, asker))
