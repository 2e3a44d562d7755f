"""What the gate is asked about a version: gathered from the registry, the workspace and MLflow."""

from collections.abc import Iterator, Mapping
from typing import Any

from finedefics_platform.base.workspace import Workspace
from finedefics_platform.evaluation.items import open_evaluation
from finedefics_platform.evaluation.kept import finished_evaluations
from finedefics_platform.models.evidence import ground_of, measured, measured_of
from finedefics_platform.models.gate import Baseline, Case, Measured
from finedefics_platform.models.registry import ModelVersion
from finedefics_platform.tracking.mlflow_client import answered, is_refusal, open_client
from finedefics_platform.tracking.sources import CODE, COMMIT

_ON_THE_RUN = {
    "config_digest": ("finedefics.config_digest",),
    "code": (CODE, COMMIT, "finedefics.git_commit"),
}


def case_of(workspace: Workspace, candidate: ModelVersion, champion: ModelVersion | None) -> Case:
    """All that a gate may look at, for a candidate and, where there is one, the champion."""
    shown = measured(workspace, candidate)
    return Case(
        shown,
        measured(workspace, champion) if champion else None,
        tuple(_baselines(workspace, candidate, shown)),
        provenance(workspace, candidate),
    )


def provenance(workspace: Workspace, version: ModelVersion) -> dict[str, str]:
    """Where a version comes from, by name; what its tags do not say (older ones) its run may."""
    names = ("run", "dataset", "dataset_digest", "base", "config_digest", "code", "model_digest")
    known = {name: version.tags[name] for name in names if version.tags.get(name)}
    wanting = [name for name in _ON_THE_RUN if name not in known]
    if wanting and version.run_id:
        tags = _run_tags(workspace, version.run_id)
        for name in wanting:
            found = next((tags[tag] for tag in _ON_THE_RUN[name] if tags.get(tag)), None)
            known |= {name: found} if found else {}
    return known


def _run_tags(workspace: Workspace, run_id: str) -> Mapping[str, str]:
    client = open_client(workspace)
    with answered(workspace):
        try:
            found: Mapping[str, str] = client.get_run(run_id).data.tags
        except Exception as error:
            if not is_refusal(error):
                raise
            return {}  # the run was deleted
    return found


def _baselines(workspace: Workspace, candidate: ModelVersion, shown: list[Measured]) -> Iterator[Baseline]:
    """Frozen encoders, and the model that the candidate was tuned from, where this workspace has them."""
    keys = {one.ground.key for one in shown}
    for place, summary in finished_evaluations(workspace):
        kind = _kind(summary, candidate)
        if kind is not None and ground_of(summary).key in keys:
            items = open_evaluation(place).items()
            yield Baseline(summary["model_digest"], kind, measured_of(summary, items))


def _kind(summary: Mapping[str, Any], candidate: ModelVersion) -> str | None:
    if summary.get("encoder"):
        return "encoder"
    return "base" if summary["model_digest"] == candidate.tags.get("base") else None
