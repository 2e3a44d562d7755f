"""A registered version as a folder for others: plain Hugging Face files, its category index, and its card."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from finedefics.errors import FinedeficsError, wrong_use
from finedefics_platform.base.storage import Location, commit
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.models.card import card
from finedefics_platform.models.decisions import named_version
from finedefics_platform.models.packaging import open_package
from finedefics_platform.models.registry import ModelVersion

CARD = "README.md"


def card_of(workspace: Workspace, reference: str, *, licence: str | None = None) -> str:
    """The card of a version, ``birds@champion`` or ``birds/3``; raises as `export`."""
    version = named_version(workspace, reference)
    package = open_package(workspace, version)
    return _card(version, package, licence, "FOLDER")


def export(
    workspace: Workspace,
    reference: str,
    folder: str | os.PathLike[str],
    *,
    licence: str | None = None,
    force: bool = False,
) -> tuple[ModelVersion, Path]:
    """Write a version into a folder that transformers loads by itself.

    Args:
        reference: ``birds@champion`` or ``birds/3``.
        folder: must not exist, unless by ``force``: then the new one takes its place once it is complete.
        licence: as in `finedefics_platform.models.card.card`.

    Returns:
        The version and the folder.

    Raises:
        FinedeficsError: there is no such version, its package cannot be reached, the champion was moved by
            hand, the folder exists (exit code 2) or cannot be written to.
    """
    target = Path(folder).expanduser().absolute()
    if target.is_dir() and not any(target.iterdir()):
        force = True  # an empty folder holds nothing that could be lost
    if target.exists() and not force:
        raise wrong_use(
            "there is something already",
            place=str(folder),
            cure="name a new folder, or replace it with --force",
        )
    if target.exists() and not target.is_dir():
        raise wrong_use("this is a file", place=str(folder), cure="name a folder")
    version = named_version(workspace, reference)
    package = open_package(workspace, version)
    with commit(Location.of(target), replace=force) as draft:
        shutil.copytree(package / "model", draft, dirs_exist_ok=True)
        if (package / "index").is_dir():
            shutil.copytree(package / "index", draft / "index")
        (draft / CARD).write_text(_card(version, package, licence, str(folder)))
    return version, target


def _card(version: ModelVersion, package: Path, licence: str | None, folder: str) -> str:
    return card(
        version, _training(version, package), categories=_names(package), licence=licence, folder=folder
    )


def _training(version: ModelVersion, package: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((package / "training.json").read_text())
    except FileNotFoundError as error:
        raise FinedeficsError(
            "its package does not say what it was trained on",
            place=version.reference,
            cure="register its run again: `finedefics evaluate RUN --register NAME`",
        ) from error
    return found


def _names(package: Path) -> list[str]:
    """Of the categories in the index; empty where there is none."""
    file = package / "index" / "categories.json"
    return [one["name"] for one in json.loads(file.read_text())] if file.is_file() else []
