"""Packs a trained model as an MLflow model that loads anywhere: weights, index, and the method's code.

With a tracking server a package goes to the server, where other machines find it. With a database it lies in
the workspace, under ``models/registered/``, and goes where the workspace goes.
"""

import hashlib
import importlib.metadata
import os
import shutil
import tempfile
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import yaml

import finedefics
from finedefics.errors import FinedeficsError
from finedefics_platform.base.storage import Location, commit, committed, fetch
from finedefics_platform.base.storage.location import SCHEMES
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.models.registry import ModelVersion
from finedefics_platform.tracking.mlflow_client import answered

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.models import ModelSignature

# What the stored method package imports; the versions are those that made the model.
REQUIREMENTS = ("mlflow", "numpy", "pandas", "pillow", "pyarrow", "safetensors", "torch", "transformers")
# MLflow hands a models-from-code object over through a global.
_saving = threading.Lock()


@dataclass(frozen=True)
class Package:
    """Where a package is: as MLflow finds it, and, inside the workspace, by its name there."""

    source: str
    place: str | None = None  # as `Workspace.name_of` writes it down
    model_id: str | None = None  # MLflow's logged model that holds it


def is_served(workspace: Workspace) -> bool:
    """Whether the registry is a server, which other machines ask, and not a database."""
    return urlsplit(workspace.tracking_uri).scheme in ("http", "https", "databricks")


def store(
    workspace: Workspace,
    client: "MlflowClient",
    *,
    name: str,
    run: "Run",
    files: Mapping[str, Path],
) -> Package:
    """Store a recogniser; a reader finds the whole package or none.

    Args:
        client: the registry's.
        name: of the package; one that is there by this name is taken as it is.
        run: the run that made the model.
        files: artefact name (``model``, ``index``, ``training``) -> folder or file.

    Raises:
        MlflowException: the server is away or refuses the model.
        FinedeficsError: the workspace cannot be written to.
    """
    if is_served(workspace):
        return _upload(client, name, run, files)
    target = workspace.models / "registered" / name
    if committed(target) is None:
        with commit(target) as draft:
            _save(draft, files, run.info.run_id)
    there = committed(target)
    assert there is not None
    # a URI, as everything else in MLflow's database
    source = there.local.as_uri() if there.local else there.uri
    return Package(source, workspace.name_of(target))


def open_package(workspace: Workspace, version: ModelVersion) -> Path:
    """A local folder with the artefacts of a version: ``model/``, ``training.json`` and mostly ``index/``.

    Raises:
        FinedeficsError: the package cannot be reached from here, or holds no recogniser.
    """
    package = _own(workspace, version) or _elsewhere(workspace, version)
    if not (package / "artifacts" / "model").is_dir():
        raise FinedeficsError(
            f"there is no recogniser in {package}",
            place=version.reference,
            cure="open a version that the platform registered, on a machine that can reach its folder",
        )
    return package / "artifacts"


def model_place(workspace: Workspace, version: ModelVersion) -> Location:
    """Where processes of other machines find the model's folder: in the workspace, where the package lies
    there, else where this machine opened it."""
    if "package" in version.tags:
        package = committed(workspace.place_of(version.tags["package"]))
        if package is not None:
            return package / "artifacts" / "model"
    return Location.of(open_package(workspace, version) / "model")


def made_by(package: Location) -> str | None:
    """The MLflow run that made a package, as it says of itself; None where it is none or says nothing."""
    there = committed(package)
    try:
        document = yaml.safe_load((there / "MLmodel").read_text()) if there is not None else {}
    except (FileNotFoundError, yaml.YAMLError):
        return None
    run_id = document.get("run_id") if isinstance(document, dict) else None
    return str(run_id) if run_id else None


def requirements() -> list[str]:
    """Pinned requirements of a stored model."""
    # A local build tag (2.13.0+cpu) names a wheel that the index does not have.
    return [f"{package}=={importlib.metadata.version(package).split('+')[0]}" for package in REQUIREMENTS]


def _own(workspace: Workspace, version: ModelVersion) -> Path | None:
    """The package in this workspace: a copy of a workspace opens its own, not the original's."""
    if "package" not in version.tags:
        return None
    try:
        return fetch(workspace.place_of(version.tags["package"]))
    except FileNotFoundError:
        return None


def _elsewhere(workspace: Workspace, version: ModelVersion) -> Path:
    parts = urlsplit(version.source)
    if parts.scheme in ("file", ""):
        return Path(url2pathname(parts.path))
    if parts.scheme in SCHEMES and "package" in version.tags:
        try:  # another workspace's, registered in the same database
            return fetch(Location.of(version.source).parent)
        except FileNotFoundError as error:
            raise FinedeficsError(
                f"its package is not at {version.source}",
                place=version.reference,
                cure="bring the workspace back in which it was registered, or register its run again",
            ) from error
    # A version's files never change, and `birds/3` of another server is another one.
    address = hashlib.sha256(f"{workspace.tracking_uri} {version.source}".encode()).hexdigest()[:12]
    target = workspace.models / "registered" / f"{version.name}-{version.version}-{address}"
    if committed(target) is None:
        with commit(target) as draft:
            _download(workspace, version.source, draft)
    return fetch(target)


def _download(workspace: Workspace, source: str, draft: Path) -> None:
    from mlflow.artifacts import download_artifacts

    with _aside(draft) as aside:
        with answered(workspace):
            download_artifacts(artifact_uri=source, dst_path=aside, tracking_uri=workspace.tracking_uri)
        root = next(Path(aside).rglob("MLmodel")).parent
        for entry in root.iterdir():
            entry.rename(draft / entry.name)


def _upload(client: "MlflowClient", name: str, run: "Run", files: Mapping[str, Path]) -> Package:
    logged = client.create_logged_model(
        run.info.experiment_id, name=name, source_run_id=run.info.run_id, model_type="recogniser"
    )
    try:
        with tempfile.TemporaryDirectory() as temporary:
            package = Path(temporary) / "package"
            _save(package, files, run.info.run_id, logged.model_id)
            client.log_model_artifacts(logged.model_id, str(package))
    except BaseException:
        client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    client.finalize_logged_model(logged.model_id, "READY")
    # Not `models:/<id>`: MLflow would look that up at its global tracking URI instead of the client's.
    return Package(logged.artifact_location, model_id=logged.model_id)


def _save(folder: Path, files: Mapping[str, Path], run_id: str, model_id: str | None = None) -> None:
    import mlflow.pyfunc
    from mlflow.models import Model

    folder.parent.mkdir(parents=True, exist_ok=True)
    with _saving, _aside(folder) as stage, warnings.catch_warnings():
        # An example would be stored with every version; the signature below says the same.
        warnings.filterwarnings("ignore", message=".*input example was not provided.*")
        # MLflow keeps an artefact's own file name, and a version's layout must not depend on the caller's.
        for name, path in files.items():
            if path.is_dir():
                shutil.copytree(path, Path(stage) / name, copy_function=_link)
            else:
                _link(str(path), str(Path(stage) / f"{name}{path.suffix}"))
        mlflow.pyfunc.save_model(
            path=str(folder),
            python_model=str(Path(__file__).with_name("recogniser_model.py")),
            artifacts={entry.stem: str(entry) for entry in Path(stage).iterdir()},
            code_paths=[str(Path(finedefics.__file__).parent)],
            pip_requirements=requirements(),
            signature=_signature(),
            mlflow_model=Model(run_id=run_id, model_id=model_id),
        )
    _forget_where_it_was_made(folder / "MLmodel")


def _forget_where_it_was_made(description: Path) -> None:
    """MLflow notes where an artefact and the code came from; what is loaded lies in the package itself."""
    document = yaml.safe_load(description.read_text())
    flavor = document["flavors"]["python_function"]
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    flavor["model_code_path"] = Path(flavor["model_code_path"]).name
    description.write_text(yaml.safe_dump(document, sort_keys=False))


def _aside(folder: Path) -> "tempfile.TemporaryDirectory[str]":
    """Beside the folder, so that files can be linked; named as storage names what it sweeps away."""
    return tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name[:40]}.")


def _link(source: str, target: str) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)


def _signature() -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType

    def column(name: str, kind: Any) -> ColSpec:
        return ColSpec(kind, name)

    return ModelSignature(
        # bytes from Python, base64 text over HTTP: only AnyType lets both through
        inputs=Schema([column("image", AnyType())]),
        outputs=Schema(
            [
                column("category_id", "string"),
                column("name", "string"),
                column("score", "double"),
                column("answers", AnyType()),
            ]
        ),
        params=ParamSchema([ParamSpec("answer", "string", "alignment"), ParamSpec("top", "long", 5)]),
    )
