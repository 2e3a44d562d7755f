"""Registered models: versions that say which run, data and evaluation they come from, and how to open one.

Aliases: ``candidate`` (registered last), ``champion`` (in use), ``previous`` (the champion before it).
"""

import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finedefics.errors import FinedeficsError, wrong_use
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.models.packaging import local_folder, log_recogniser
from finedefics_platform.tracking.mlflow_client import answered, is_refusal, open_client, shown
from finedefics_platform.tracking.spool import UNSENT
from finedefics_platform.tracking.tracker import server_run_id

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion as StoredVersion
    from mlflow.entities.model_registry import RegisteredModel

CANDIDATE, CHAMPION, PREVIOUS = "candidate", "champion", "previous"
PREFIX = "finedefics."


@dataclass(frozen=True)
class ModelVersion:
    """One version of a registered model; ``tags`` are those the platform wrote, without their prefix."""

    name: str
    version: int
    run_id: str
    created: int  # milliseconds since the epoch
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    source: str = ""  # where MLflow keeps its files

    @property
    def evaluation(self) -> dict[str, Any]:
        """The evaluation figures it was registered with."""
        return json.loads(self.tags.get("evaluation", "{}"))

    @property
    def reference(self) -> str:
        """``name/version``, as `open_model` takes it."""
        return f"{self.name}/{self.version}"


def register(
    workspace: Workspace,
    *,
    name: str,
    model_folder: Path,
    index_folder: Path | None,
    run_id: str,
    evaluation: Mapping[str, Any],
    dataset_digest: str,
    base: str,
    adapter: str | None = None,
    items: Path | None = None,
) -> ModelVersion:
    """Make a version of a registered model and give it the alias ``candidate``.

    A run is registered once under a name: again, its version is returned with the new evaluation figures.

    Args:
        workspace: names the tracking URI.
        name: the registered model, made if it does not exist.
        model_folder: Hugging Face folder (weights, configuration, processor).
        index_folder: its category index; None if it has none yet.
        run_id: the run that made the model, as `Tracker` returned it.
        evaluation: figures, as `Figures.from_evaluation` reads them.
        dataset_digest: the dataset version it was trained on.
        base: the model it was tuned from (path, hub name or digest).
        adapter: the adapters that the run trained, merged into these weights; None where it trained none.
        items: the evaluation's item table (Parquet), which the gate compares picture by picture.

    Raises:
        FinedeficsError: a folder or the run does not exist, or the server is away.
    """
    _check_name(name)
    files = _files(model_folder, index_folder, items)
    client = open_client(workspace)
    tags = {
        "evaluation": json.dumps(evaluation, sort_keys=True),
        "dataset_digest": dataset_digest,
        "base": base,
    }
    tags |= {"adapter": adapter} if adapter else {}
    with answered(workspace):
        run = _run(client, workspace, run_id)
        existing = [v for v in versions(workspace, name) if v.run_id == run.info.run_id]
        if existing:
            for key, value in tags.items():
                client.set_model_version_tag(name, str(existing[0].version), PREFIX + key, value)
            return get_version(workspace, existing[0].reference)
        _make_registered_model(client, name)
        stored = {PREFIX + key: value for key, value in tags.items()}
        logged = log_recogniser(
            client,
            name=name,
            run_id=run.info.run_id,
            experiment_id=run.info.experiment_id,
            files=files,
            tags=stored,
        )
        # Not `models:/<id>`: MLflow would look that up at its global tracking URI instead of the client's.
        source = logged.artifact_location
        stored[f"{PREFIX}logged_model"] = logged.model_id
        made = client.create_model_version(
            name, source, run.info.run_id, tags=stored, model_id=logged.model_id
        )
        client.set_registered_model_alias(name, CANDIDATE, made.version)
    return get_version(workspace, f"{name}/{made.version}")


def versions(workspace: Workspace, name: str | None = None) -> list[ModelVersion]:
    """Versions of one registered model or of all, newest first; empty if there is none."""
    client = open_client(workspace)
    with answered(workspace):
        if name is None:
            models = _pages(client.search_registered_models)
        else:
            models = _pages(client.search_registered_models, f"name = '{name}'")
        return [
            _version(stored, model) for model in models for stored in _stored_versions(client, model.name)
        ]


def get_version(workspace: Workspace, reference: str) -> ModelVersion:
    """The version that ``birds@champion``, ``birds/3`` or ``birds`` (its champion) names.

    Raises:
        FinedeficsError: there is no such model, version or alias; the message lists the known ones.
    """
    name, version, alias = _parse(reference)
    found = versions(workspace, name)
    if not found:
        known = sorted({v.name for v in versions(workspace)})
        raise wrong_use(
            "no registered model of this name",
            place=reference,
            cure=f"use one of: {', '.join(known)}"
            if known
            else "make one with `finedefics evaluate RUN --register NAME`",
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


def open_model(workspace: Workspace, reference: str) -> Path:
    """A local folder with ``model/`` (Hugging Face) and, where there is one, ``index/``.

    Args:
        workspace: names the tracking URI, and keeps downloaded versions.
        reference: ``birds@champion``, ``birds/3``, ``birds``, or the path of a folder that has ``model/``.

    Raises:
        FinedeficsError: nothing has this name, or the folder holds no model.
    """
    folder = Path(reference).expanduser()
    if folder.is_dir() and (folder.is_absolute() or not _is_registered(workspace, reference)):
        if not (folder / "model").is_dir():
            raise wrong_use("the folder has no model/ in it", place=reference, cure="give a run's folder")
        return folder.resolve()
    if reference.startswith(("/", ".", "~")):
        raise wrong_use("there is no such folder", place=reference, cure="give a folder or name@alias")
    return _fetch(workspace, get_version(workspace, reference))


def _fetch(workspace: Workspace, version: ModelVersion) -> Path:
    package = local_folder(version.source)
    if package is None:
        address = hashlib.sha256(f"{workspace.tracking_uri} {version.source}".encode()).hexdigest()[:12]
        package = workspace.local.models / "registered" / f"{version.name}-{version.version}-{address}"
        if not package.exists():
            with answered(workspace):
                _download(version.source, package, workspace.tracking_uri)
    if not (package / "artifacts" / "model").is_dir():
        raise FinedeficsError(
            f"there is no recogniser in {package}",
            place=version.reference,
            cure="open a version that the platform registered, on a machine that can reach its folder",
        )
    return package / "artifacts"


def _download(location: str, target: Path, tracking_uri: str) -> None:
    from mlflow.artifacts import download_artifacts

    aside = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}")
    aside.mkdir(parents=True)
    try:
        download_artifacts(artifact_uri=location, dst_path=str(aside), tracking_uri=tracking_uri)
        root = next(iter(aside.rglob("MLmodel"))).parent
        if not target.exists():  # another process may have been faster
            root.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _files(model_folder: Path, index_folder: Path | None, items: Path | None) -> dict[str, Path]:
    if not (Path(model_folder) / "config.json").is_file():
        raise wrong_use(
            "no Hugging Face model here", place=str(model_folder), cure="give a folder with config.json"
        )
    files = {"model": Path(model_folder)}
    for name, path in (("index", index_folder), ("items", items)):
        if path is not None:
            if not Path(path).exists():
                raise wrong_use(
                    f"the {name} does not exist", place=str(path), cure="make it first, or leave it out"
                )
            files[name] = Path(path)
    return files


def _run(client: "MlflowClient", workspace: Workspace, run_id: str) -> Any:
    server_id = server_run_id(workspace, run_id)
    if server_id.startswith(UNSENT):
        raise FinedeficsError(
            "the tracking server does not know this run yet",
            place=run_id,
            cure="run `finedefics runs sync` when the server is back",
        )
    try:
        return client.get_run(server_id)
    except Exception as error:
        if not is_refusal(error):
            raise
        place = shown(workspace.tracking_uri)
        raise FinedeficsError(
            f"there is no run {run_id}", place=place, cure="see `finedefics runs list`"
        ) from error


def _make_registered_model(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _stored_versions(client: "MlflowClient", name: str) -> list["StoredVersion"]:
    found = _pages(client.search_model_versions, f"name = '{name}'")
    return sorted(found, key=lambda stored: int(stored.version), reverse=True)


def _version(stored: "StoredVersion", model: "RegisteredModel") -> ModelVersion:
    aliases = sorted(alias for alias, number in model.aliases.items() if str(number) == str(stored.version))
    tags = {k.removeprefix(PREFIX): v for k, v in stored.tags.items() if k.startswith(PREFIX)}
    return ModelVersion(
        model.name,
        int(stored.version),
        stored.run_id or "",
        stored.creation_timestamp,
        tuple(aliases),
        tags,
        stored.source or "",
    )


def _pages(search: Any, wanted: str | None = None) -> list[Any]:
    """All results of an MLflow search, which answers in pages."""
    page = search(filter_string=wanted)
    found = list(page)
    while page.token:
        page = search(filter_string=wanted, page_token=page.token)
        found += page
    return found


def _parse(reference: str) -> tuple[str, int | None, str | None]:
    name, slash, number = reference.partition("/")
    if slash:
        if not number.isdigit():
            raise wrong_use("not a version number", place=reference, cure="write name/3 or name@champion")
        _check_name(name)
        return name, int(number), None
    name, _, alias = reference.partition("@")
    _check_name(name)
    return name, None, alias or CHAMPION


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise wrong_use("not a model name", place=repr(name), cure="use letters, digits, `_`, `.` and `-`")


def _is_registered(workspace: Workspace, reference: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_.-]+(/\d+|@\w+)?", reference) is not None and bool(
        versions(workspace, re.split("[/@]", reference)[0])
    )
