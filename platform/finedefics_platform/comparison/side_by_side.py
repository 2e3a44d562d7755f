"""Runs side by side, from what a user typed: their folders, evaluations, and what MLflow has beside them."""

from collections.abc import Sequence
from dataclasses import replace

from finedefics.errors import FinedeficsError, wrong_use
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.comparison.arms import Arm, gather, named_apart
from finedefics_platform.comparison.differing import Differences, differences_of, flat
from finedefics_platform.comparison.evaluations import all_evaluations
from finedefics_platform.comparison.subjects import find_subject
from finedefics_platform.comparison.telling import commit_of, day, hardware_of
from finedefics_platform.tracking.own_database import has_records
from finedefics_platform.tracking.runs import RunRecord, children, get_run


def compare_runs(workspace: Workspace, references: Sequence[str]) -> Differences:
    """Everything in which runs differ.

    Args:
        references: as `find_subject` takes them, of runs that the workspace or the tracking server has; the
            first is what the others are compared with.

    Raises:
        FinedeficsError: nothing has such a name, it is no run, or two names are of one run (exit code 2).
    """
    subjects = [find_subject(workspace, reference, recorded=True) for reference in references]
    for reference, subject in zip(references, subjects, strict=True):
        if subject.kind not in ("run", "recorded"):
            cure = f"see `finedefics report {subject.key}`"
            raise wrong_use(f"this is a {subject.kind}, and runs are compared", place=reference, cure=cure)
    if len({subject.key for subject in subjects}) < len(subjects):
        cure = "name different runs"
        raise wrong_use("the same run twice", place=", ".join(references), cure=cure)
    here = [subject for subject in subjects if subject.record is None]
    gathered = gather(workspace, [subject.place for subject in here], all_evaluations(workspace))
    beside = {subject.key: _as_arm(subject.record) for subject in subjects if subject.record}
    runs = {arm.key: arm for arm in gathered.runs} | beside
    ordered = named_apart([runs[subject.key] for subject in subjects])
    records = [subject.record for subject in subjects]
    metrics, settings = {}, []
    for arm, record in zip(ordered, records, strict=True):
        metrics[arm.name] = _metrics_of(workspace, record) if record else _recorded(workspace, arm)
        settings.append(flat(arm.experiment) if arm.experiment else _settings_of(workspace, record))
    others = [arm for arm in gathered.arms if not arm.key]
    together = replace(gathered, arms=(*ordered, *others))
    return differences_of(together, settings, {arm.name: _facts(arm) for arm in ordered}, metrics)


def _as_arm(record: RunRecord) -> Arm:
    return Arm(record.name, "recorded; its folder is not in this workspace", record.key or record.run_id)


def _settings_of(workspace: Workspace, record: RunRecord | None) -> dict[str, str]:
    """What a run without a folder was recorded with: its own parameters, and those of its stages."""
    if record is None:
        return {}
    told = dict(record.params)
    for child in children(workspace, record.run_id):
        told |= {f"stages.{child.name}.{key}": value for key, value in child.params.items() if key != "name"}
    return told


def _metrics_of(workspace: Workspace, record: RunRecord) -> dict[str, float]:
    told: dict[str, float] = {}
    for one in (*children(workspace, record.run_id), record):
        told |= one.metrics
    return told


def _facts(arm: Arm) -> dict[str, str]:
    told = {"state": "finished" if arm.run else "not finished"}
    if arm.run:
        told |= {"data": arm.run.dataset, "base": arm.run.base}
    if arm.attempts:
        last = arm.attempts[-1]
        told |= {"commit": commit_of(last), "hardware": hardware_of(last)}
        if last.get("ended"):
            told["ended"] = day(last["ended"])
    return told


def _recorded(workspace: Workspace, arm: Arm) -> dict[str, float]:
    """Metrics of the pipeline's own run in MLflow; none where it is not recorded or the server is away."""
    run = arm.run.parent_run_id if arm.run else None
    if run is None or not has_records(workspace):
        return {}
    try:
        return dict(get_run(workspace, run).metrics)
    except FinedeficsError:
        return {}
