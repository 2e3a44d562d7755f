"""Categories a registered model is given later, by a text alone.

A registered version never changes, so what is added stands beside it: one file of texts a model name, in the
workspace. `open_recogniser` embeds them with whichever version is opened, so they outlive a promotion. They
are the workspace's own: the model served by MLflow, or opened from another workspace, does not have them.
"""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from finedefics.data.readers import category_id
from finedefics.errors import wrong_use
from finedefics.records import Category
from finedefics_platform.base.storage import Location, lease
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.models.answerable import Answerable, find_answerable
from finedefics_platform.models.references import OpenedModel, index_of, open_model

if TYPE_CHECKING:
    from finedefics.scoring import Recogniser


@dataclass(frozen=True)
class Known:
    """The categories of a model: those of its index, and those added in this workspace that it lacks."""

    reference: str
    index: tuple[Category, ...]
    added: tuple[Category, ...]


def known(workspace: Workspace, reference: str) -> Known:
    """What the model of ``reference`` (as `open_model` takes it) can name.

    Raises:
        FinedeficsError: there is no such model, or it has no category index.
    """
    from finedefics.scoring import CategoryIndex

    opened = open_model(workspace, reference)
    index = CategoryIndex.load(index_of(opened)).categories
    return Known(reference, index, _missing(index, _added(workspace, opened)))


def add(workspace: Workspace, reference: str, name: str, description: str | None = None) -> Category:
    """Add a category to a registered model; no weight and no stored file of the version changes.

    Raises:
        FinedeficsError: the model is not a registered one, the name is empty, or it is known already.
    """
    from finedefics.records import check_distinct

    name = " ".join(name.split())
    text = " ".join((description or "").split()) or None
    if not category_id(name):
        raise wrong_use(f"{name!r} is no name for a category", place="--name", cure="use letters or digits")
    category = Category(category_id(name), name, description=text)
    file = _file(workspace, _registered_name(open_model(workspace, reference)))
    with _alone(workspace, file):
        present = known(workspace, reference)
        check_distinct([*present.index, *present.added, category])
        _write(file, [*_read(file), category])
    return category


def remove(workspace: Workspace, reference: str, name: str) -> Category:
    """Take back a category that was added.

    Raises:
        FinedeficsError: no category of this name was added to the model.
    """
    file = _file(workspace, _registered_name(open_model(workspace, reference)))
    with _alone(workspace, file):
        present = _read(file)
        found = [category for category in present if category.category_id == category_id(name)]
        if not found:
            listed = ", ".join(category.name for category in present) or "none was"
            raise wrong_use(f"no category {name!r} was added", place=reference, cure=f"added: {listed}")
        _write(file, [category for category in present if category is not found[0]])
    return found[0]


def answerable(
    workspace: Workspace, reference: str, categories: Sequence[Category] | None = None
) -> Answerable:
    """The model of ``reference`` with its index and the categories added to it in this workspace.

    Args:
        categories: compete in place of all these.

    Raises:
        FinedeficsError: there is no such model, or nothing says what it may name.
    """
    found = find_answerable(workspace, reference, categories)
    if found.chosen is not None or found.opened.version is None:
        return found
    return replace(found, added=_missing(found.categories, _added(workspace, found.opened)))


def open_recogniser(
    workspace: Workspace,
    reference: str,
    dtype: str | None = None,
    micro_tokens: int | None = None,
    categories: Sequence[Category] | None = None,
) -> "Recogniser":
    """`answerable`, loaded: on the GPUs where this process sees any, as few as hold it.

    Args:
        dtype, micro_tokens: as `finedefics.placing.load_placed` takes them.
        categories: as `answerable` takes them.
    """
    return answerable(workspace, reference, categories).load(dtype, micro_tokens)


def _added(workspace: Workspace, opened: OpenedModel) -> list[Category]:
    return _read(_file(workspace, opened.version.name)) if opened.version else []


def _missing(index: Sequence[Category], added: Sequence[Category]) -> tuple[Category, ...]:
    # A later version may have learned what was added to an earlier one: what it was trained on counts.
    names = {category.name.casefold() for category in index}
    ids = {category.category_id for category in index}
    return tuple(c for c in added if c.category_id not in ids and c.name.casefold() not in names)


def _registered_name(opened: OpenedModel) -> str:
    if opened.version is None:
        raise wrong_use(
            "categories are added to a registered model, not to a folder or run",
            place=opened.reference,
            cure="register it with `finedefics evaluate RUN --register NAME`",
        )
    return opened.version.name


def _file(workspace: Workspace, name: str) -> Location:
    return workspace.categories / f"{name}.jsonl"


def _alone(workspace: Workspace, file: Location) -> AbstractContextManager[object]:
    """One at a time reads the file, adds to it and writes it."""
    return lease(workspace.categories / f".{file.name}.lease", f"changing {file.name}")


def _read(file: Location) -> list[Category]:
    try:
        lines = file.read_text().splitlines()
    except FileNotFoundError:
        return []
    rows = [json.loads(line) for line in lines]
    return [Category(category_id(row["name"]), row["name"], description=row["description"]) for row in rows]


def _write(file: Location, categories: Sequence[Category]) -> None:
    rows = [{"name": c.name, "description": c.description} for c in categories]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
