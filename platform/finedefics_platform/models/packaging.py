"""Packs a trained model as an MLflow model that loads anywhere: weights, index, and the method's code."""

import importlib.metadata
import os
import shutil
import tempfile
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import finedefics

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.models import ModelSignature

# What the stored method package imports; the versions are those that made the model.
REQUIREMENTS = ("mlflow", "numpy", "pandas", "pillow", "pyarrow", "safetensors", "torch", "transformers")
# MLflow hands a models-from-code object over through a global.
_saving = threading.Lock()


def log_recogniser(
    client: "MlflowClient",
    *,
    name: str,
    run_id: str,
    experiment_id: str,
    files: Mapping[str, Path],
    tags: Mapping[str, str],
) -> "LoggedModel":
    """Store a recogniser with its run.

    Args:
        client: where to store it.
        name: shown with the run.
        run_id: the run that made the model.
        experiment_id: of that run.
        files: artefact name (``model``, ``index``, ``items``) -> folder or file.
        tags: set on the stored model.

    Raises:
        MlflowException: the server is away or refuses the model.
    """
    logged = client.create_logged_model(
        experiment_id, name=name, source_run_id=run_id, tags=dict(tags), model_type="recogniser"
    )
    try:
        folder = local_folder(logged.artifact_location)
        if folder is not None:
            # Written where it stays: an upload would copy gigabytes a second time.
            _save(folder, files, logged, run_id)
        else:
            with tempfile.TemporaryDirectory() as temporary:
                _save(Path(temporary) / "package", files, logged, run_id)
                client.log_model_artifacts(logged.model_id, str(Path(temporary) / "package"))
    except BaseException:
        client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    return client.finalize_logged_model(logged.model_id, "READY")


def local_folder(uri: str) -> Path | None:
    """The folder a ``file:`` URI or plain path names, None for anything that is reached over a network."""
    parts = urlsplit(uri)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(url2pathname(parts.path))
    return Path(uri) if parts.scheme == "" else None


def requirements() -> list[str]:
    """Pinned requirements of a stored model."""
    # A local build tag (2.13.0+cpu) names a wheel that the index does not have.
    return [f"{package}=={importlib.metadata.version(package).split('+')[0]}" for package in REQUIREMENTS]


def _save(folder: Path, files: Mapping[str, Path], logged: "LoggedModel", run_id: str) -> None:
    import mlflow.pyfunc
    from mlflow.models import Model

    folder.parent.mkdir(parents=True, exist_ok=True)
    with _saving, tempfile.TemporaryDirectory(dir=folder.parent) as stage, warnings.catch_warnings():
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
            mlflow_model=Model(run_id=run_id, model_id=logged.model_id),
        )


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
