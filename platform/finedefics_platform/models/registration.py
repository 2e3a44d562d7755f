"""What becomes a version of a registered model, and what a version is given later: the one policy.

A version is a run's model with its category index. Registered again with the same index it is the same
version, and the evaluation is added to what it showed; with another index (other categories, another
calibration) it is a new version. Nothing that a version has is ever replaced.
"""

import hashlib
import json
import tempfile
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finedefics.errors import FinedeficsError, wrong_use
from finedefics_platform.base.content import model_digest
from finedefics_platform.base.digest import digest_of
from finedefics_platform.base.storage import fetch, lease
from finedefics_platform.base.user import user
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.evaluation.items import Evaluated
from finedefics_platform.models import evidence as evidences
from finedefics_platform.models.describing import describe_version, model_note
from finedefics_platform.models.packaging import store
from finedefics_platform.models.references import OpenedModel
from finedefics_platform.models.registry import (
    CANDIDATE,
    ModelVersion,
    check_name,
    get_version,
    make_registered_model,
    versions,
)
from finedefics_platform.models.texts import spread
from finedefics_platform.tracking.mlflow_client import answered, is_refusal, open_client, shown
from finedefics_platform.tracking.sources import CODE
from finedefics_platform.tracking.spool import UNSENT
from finedefics_platform.tracking.tracker import server_run_id
from finedefics_platform.training.trained import TrainedRun

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def register_run(workspace: Workspace, name: str, run: TrainedRun, evaluated: Evaluated) -> ModelVersion:
    """Make a run's model a version of a registered model and give it the alias ``candidate``.

    The version holds the model, its index, what it was trained on and from, and the figures of all answers
    with what they were measured on; "labelled" and "new" are told by its own training.

    Args:
        workspace: names the registry, and holds the package where that is a database.
        name: the registered model, made if it does not exist.
        run: the run that made the model.
        evaluated: an evaluation of that model.

    Returns:
        The version; the existing one where this run's model was registered with this index before, with the
        evaluation added to what it showed.

    Raises:
        FinedeficsError: the run was not tracked, the evaluation is of another model, or the server is away.
    """
    check_name(name)
    if run.parent_run_id is None:
        raise FinedeficsError(
            "the run was not tracked", place=run.key, cure="train it with `finedefics train`"
        )
    model = fetch(run.model)
    _check_same(evaluated, model_digest(model), run.key)
    client = open_client(workspace)
    with lease(workspace.models / "registered" / f".{name}.lease", f"registering {name}"):
        with answered(workspace):
            stored_run = _stored_run(client, workspace, run.parent_run_id)
        index = _index_digest(evaluated)
        for existing in versions(workspace, name):
            if existing.run_id != stored_run.info.run_id:
                continue
            if existing.tags.get("evaluation") == evaluated.place.name:
                return existing
            if index is not None and existing.tags.get("index_digest") == index:
                return _add(workspace, existing, run.labelled, evaluated)
        return _make(workspace, client, name, run, model, evaluated, stored_run)


def add_evidence(workspace: Workspace, opened: OpenedModel, evaluated: Evaluated) -> ModelVersion:
    """Add an evaluation of a registered version to what it has; nothing that is there changes.

    Raises:
        FinedeficsError: it is an evaluation of another model, or the server is away.
    """
    version = opened.version
    assert version is not None, "only a registered version has evidence"
    _check_same(evaluated, version.tags["model_digest"], version.reference)
    return _add(workspace, version, opened.labelled or (), evaluated)


def register_evaluated(
    workspace: Workspace, name: str, opened: OpenedModel, evaluated: Evaluated
) -> ModelVersion:
    """`register_run` of an opened run, `add_evidence` to an opened version; raises as these and the check."""
    check_registrable(name, opened)
    if opened.run is not None:
        return register_run(workspace, name, opened.run, evaluated)
    return add_evidence(workspace, opened, evaluated)


def made_by(opened: OpenedModel) -> str | None:
    """MLflow's run that made an opened model, where that is known."""
    if opened.run is not None:
        return opened.run.parent_run_id
    return (opened.version.run_id or None) if opened.version is not None else None


def check_registrable(name: str, opened: OpenedModel) -> None:
    """Ask before an evaluation whether its model can be registered under the name.

    Raises:
        FinedeficsError: the model is neither a run's nor a version of this name (exit code 2).
    """
    check_name(name)
    if opened.run is not None:
        return
    if opened.version is None:
        raise wrong_use(
            "only a run's model can be registered: nothing says what this one was trained on",
            place=opened.reference,
            cure="give the run's key: `finedefics runs list`",
        )
    if opened.version.name != name:
        raise wrong_use(
            f"this is a version of {opened.version.name}",
            place=opened.reference,
            cure=f"add the evaluation to it with --register {opened.version.name}",
        )


def _add(
    workspace: Workspace, version: ModelVersion, labelled: Collection[str], evaluated: Evaluated
) -> ModelVersion:
    evidence, items = evidences.collect(evaluated, labelled, _now())
    client = open_client(workspace)
    with answered(workspace):
        evidences.keep_items(workspace, client, version.run_id, evidence, items)
        if evidences.TAG + evidence.evaluation not in version.tags:
            for key, value in evidence.tags().items():
                client.set_model_version_tag(version.name, str(version.version), key, value)
    added = get_version(workspace, version.reference)
    describe_version(workspace, added)
    return added


def _make(
    workspace: Workspace,
    client: "MlflowClient",
    name: str,
    run: TrainedRun,
    model: Path,
    evaluated: Evaluated,
    stored_run: "Run",
) -> ModelVersion:
    training = _training(run)
    evidence, items = evidences.collect(evaluated, run.labelled, _now())
    facts = {
        "run": run.key,
        "dataset": run.dataset,
        "dataset_digest": run.dataset_digest,
        "config_digest": run.config_digest,
        "code": stored_run.data.tags.get(CODE),
        "base": run.base,
        "adapter": training["adapter"],
        "model_digest": model_digest(model),
        "index_digest": _index_digest(evaluated),
        "training_digest": digest_of(training),
        "evaluation": evidence.evaluation,
        "registered_by": user(),
    }
    with answered(workspace), tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "training.json"
        record.write_text(json.dumps(training, indent=1) + "\n")
        files = {"model": model, "training": record}
        files |= {"index": evaluated.index} if evaluated.index.is_dir() else {}
        address = digest_of([stored_run.info.run_id, evidence.evaluation])
        package = store(workspace, client, name=f"{name}-{address}", run=stored_run, files=files)
        evidences.keep_items(workspace, client, stored_run.info.run_id, evidence, items)
        facts |= {"package": package.place, "logged_model": package.model_id}
        tags = {k: v for key, value in facts.items() if value for k, v in spread(key, value).items()}
        make_registered_model(client, name, description=model_note(name, None))
        # one request with all that the version says: it is never there by half
        made = client.create_model_version(
            name,
            package.source,
            stored_run.info.run_id,
            tags=tags | evidence.tags(),
            model_id=package.model_id,
            description=f"Run {run.key}, trained on {run.dataset}.",
        )
        client.set_registered_model_alias(name, CANDIDATE, made.version)
    version = get_version(workspace, f"{name}/{made.version}")
    describe_version(workspace, version)
    return version


def _training(run: TrainedRun) -> dict[str, Any]:
    """What the version was trained on and from, as its package keeps it."""
    experiment = run.experiment()
    return {
        "run": run.key,
        "dataset": run.dataset,
        "dataset_digest": run.dataset_digest,
        "labelled": sorted(run.labelled),
        "base": run.base,
        "adapter": experiment.adapters.identity(),
        "config_digest": run.config_digest,
        "seed": experiment.seed,
        "stages": [stage.model_dump(mode="json") for stage in experiment.stages],
    }


def _index_digest(evaluated: Evaluated) -> str | None:
    """Of the content of the category index; None where the evaluation has none."""
    if not evaluated.index.is_dir():
        return None
    files = sorted(file for file in evaluated.index.rglob("*") if file.is_file())
    return digest_of([[file.name, hashlib.sha256(file.read_bytes()).hexdigest()] for file in files])


def _check_same(evaluated: Evaluated, digest: str, place: str) -> None:
    if evaluated.summary["model_digest"] != digest:
        raise FinedeficsError(
            f"the evaluation is of the model {evaluated.summary['model_digest']}, this is {digest}",
            place=place,
            cure="evaluate this model",
        )


def _stored_run(client: "MlflowClient", workspace: Workspace, run_id: str) -> "Run":
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
        raise wrong_use(
            f"there is no run {run_id}", place=place, cure="see `finedefics runs list`"
        ) from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
