"""Registered models and their versions, as the registry has them.

Aliases: ``candidate`` (registered last), ``champion`` (in use), ``previous`` (the champion before it). Who is
champion is decided in the log of `finedefics_platform.models.decisions`; the aliases follow it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from finedefics.errors import wrong_use
from finedefics_platform.base.names import meant
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.models.texts import PREFIX
from finedefics_platform.tracking.mlflow_client import answered, open_client
from finedefics_platform.tracking.own_database import has_records
from finedefics_platform.tracking.own_registry import own_registry
from finedefics_platform.tracking.runs import record_place

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion as StoredVersion
    from mlflow.entities.model_registry import RegisteredModel

CANDIDATE, CHAMPION, PREVIOUS = "candidate", "champion", "previous"
DECISIONS = "-decisions"  # ends the name of a model's log
KIND = f"{PREFIX}kind"


@dataclass(frozen=True)
class ModelVersion:
    """One version of a registered model; ``tags`` are those the platform wrote, without their prefix."""

    name: str
    version: int
    run_id: str
    created: int  # milliseconds since the epoch
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    source: str = ""  # where MLflow finds its files

    @property
    def reference(self) -> str:
        """``name/version``, as `open_model` takes it."""
        return f"{self.name}/{self.version}"


def versions(workspace: Workspace, name: str | None = None) -> list[ModelVersion]:
    """Versions of one registered model or of all, newest first; empty, and nothing made, if there is none."""
    if not has_records(workspace):
        return []
    client = open_reader(workspace)
    with answered(workspace):
        models = pages(client.search_registered_models, None if name is None else f"name = '{name}'")
        return [
            _version(stored, model)
            for model in models
            if KIND not in model.tags
            for stored in stored_versions(client, model.name)
        ]


def open_reader(workspace: Workspace) -> Any:
    """What answers the searches of a registry: the workspace's own database, or MLflow's client."""
    return own_registry(workspace) or open_client(workspace)


def get_version(workspace: Workspace, reference: str) -> ModelVersion:
    """The version that ``birds@candidate``, ``birds/3`` or ``birds`` (its champion) names, by its aliases.

    Raises:
        FinedeficsError: there is no such model, version or alias; the message lists the known ones.
    """
    name, version, alias = parse(reference)
    found = versions(workspace, name)
    if not found:
        known = sorted({v.name for v in versions(workspace)})
        raise wrong_use(
            "no registered model of this name",
            place=reference,
            cure=f"{meant(name, known)}use one of: {', '.join(known)}"
            if known
            else "make one with `finedefics evaluate RUN --register NAME` "
            f"(looked in {record_place(workspace)})",
        )
    for candidate in found:
        if candidate.version == version or alias in candidate.aliases:
            return candidate
    numbers = ", ".join(f"{v.reference}{''.join(f' @{a}' for a in v.aliases)}" for v in found)
    raise wrong_use(
        f"{name} has no version {version}" if version else f"{name} has no alias {alias}",
        place=reference,
        cure=f"use one of: {numbers}",
    )


def is_registered(workspace: Workspace, reference: str) -> bool:
    """Whether the reference is that of a registered model that exists; its version may not."""
    return re.fullmatch(r"[A-Za-z0-9_.-]+(/\d+|@\w+)?", reference) is not None and bool(
        versions(workspace, re.split("[/@]", reference)[0])
    )


def parse(reference: str) -> tuple[str, int | None, str | None]:
    """Name, version and alias of a reference; FinedeficsError (exit code 2) if it is none."""
    name, slash, number = reference.partition("/")
    if slash:
        if not number.isdigit():
            raise wrong_use("not a version number", place=reference, cure="write name/3 or name@champion")
        check_name(name)
        return name, int(number), None
    name, _, alias = reference.partition("@")
    check_name(name)
    return name, None, alias or CHAMPION


def check_name(name: str) -> None:
    """FinedeficsError (exit code 2) if this can be no model's name."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise wrong_use("not a model name", place=repr(name), cure="use letters, digits, `_`, `.` and `-`")
    if name.endswith(DECISIONS):
        raise wrong_use(
            "this is the name of a log of decisions",
            place=name,
            cure=f"leave out {DECISIONS}",
        )


def make_registered_model(client: "MlflowClient", name: str, **more: Any) -> None:
    """Make sure that a registered model exists; ``more`` are its tags and description where it is new."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, **more)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def stored_versions(client: Any, name: str) -> list["StoredVersion"]:
    """MLflow's own versions of a registered model, newest first; empty where there is no such model."""
    found = pages(client.search_model_versions, f"name = '{name}'")
    return sorted(found, key=lambda stored: int(stored.version), reverse=True)


def own_tags(stored: "StoredVersion") -> dict[str, str]:
    """The tags that the platform wrote, without their prefix."""
    return {k.removeprefix(PREFIX): v for k, v in stored.tags.items() if k.startswith(PREFIX)}


def pages(search: Any, wanted: str | None = None) -> list[Any]:
    """All results of an MLflow search, which answers in pages."""
    page = search(filter_string=wanted)
    found = list(page)
    while page.token:
        page = search(filter_string=wanted, page_token=page.token)
        found += page
    return found


def _version(stored: "StoredVersion", model: "RegisteredModel") -> ModelVersion:
    aliases = sorted(alias for alias, number in model.aliases.items() if str(number) == str(stored.version))
    return ModelVersion(
        model.name,
        int(stored.version),
        stored.run_id or "",
        stored.creation_timestamp,
        tuple(aliases),
        own_tags(stored),
        stored.source or "",
    )
