"""Categories a registered model is given later, by a text alone.

A registered version never changes, so what is added stands beside it: one file of texts a model name, in the
workspace. `open_recogniser` embeds them with whichever version is opened, so they outlive a promotion. They
are the workspace's own: the model served by MLflow, or opened from another workspace, does not have them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from finedefics.data.readers import category_id
from finedefics.errors import wrong_use
from finedefics.records import Category
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.models.registry import get_version, open_model

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

    index = CategoryIndex.load(open_model(workspace, reference) / "index").categories
    return Known(reference, index, _missing(index, _added(workspace, reference)))


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
    file = _file(workspace, _registered_name(workspace, reference))
    with FileLock(file.with_suffix(".lock")):
        present = known(workspace, reference)
        check_distinct([*present.index, *present.added, category])
        _write(file, [*_read(file), category])
    return category


def remove(workspace: Workspace, reference: str, name: str) -> Category:
    """Take back a category that was added.

    Raises:
        FinedeficsError: no category of this name was added to the model.
    """
    file = _file(workspace, _registered_name(workspace, reference))
    with FileLock(file.with_suffix(".lock")):
        present = _read(file)
        found = [category for category in present if category.category_id == category_id(name)]
        if not found:
            listed = ", ".join(category.name for category in present) or "none was"
            raise wrong_use(f"no category {name!r} was added", place=reference, cure=f"added: {listed}")
        _write(file, [category for category in present if category is not found[0]])
    return found[0]


def open_recogniser(workspace: Workspace, reference: str) -> "Recogniser":
    """The model of ``reference`` with its index and the categories added to it in this workspace."""
    from finedefics.scoring import Recogniser

    folder = open_model(workspace, reference)
    recogniser = Recogniser.load(folder / "model", folder / "index")
    missing = _missing(recogniser.categories, _added(workspace, reference))
    return recogniser.add(missing) if missing else recogniser


def _added(workspace: Workspace, reference: str) -> list[Category]:
    name = _registered_name(workspace, reference, required=False)
    return _read(_file(workspace, name)) if name else []


def _missing(index: Sequence[Category], added: Sequence[Category]) -> tuple[Category, ...]:
    # A later version may have learned what was added to an earlier one: what it was trained on counts.
    names = {category.name.casefold() for category in index}
    ids = {category.category_id for category in index}
    return tuple(c for c in added if c.category_id not in ids and c.name.casefold() not in names)


def _registered_name(workspace: Workspace, reference: str, required: bool = True) -> str:
    """Name of the registered model; "" for a folder, unless that is an error."""
    if Path(open_model(workspace, reference)) != Path(reference).expanduser().resolve():
        return get_version(workspace, reference).name
    if required:
        raise wrong_use(
            "categories are added to a registered model, not to a folder",
            place=reference,
            cure="register it with `finedefics evaluate RUN --register NAME`",
        )
    return ""


def _file(workspace: Workspace, name: str) -> Path:
    return workspace.local.categories / f"{name}.jsonl"


def _read(file: Path) -> list[Category]:
    if not file.is_file():
        return []
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [Category(category_id(row["name"]), row["name"], description=row["description"]) for row in rows]


def _write(file: Path, categories: Sequence[Category]) -> None:
    rows = [{"name": c.name, "description": c.description} for c in categories]
    aside = file.with_suffix(".tmp")
    aside.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    aside.replace(file)
