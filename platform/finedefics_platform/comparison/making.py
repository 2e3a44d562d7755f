"""A report from what a user typed to a file: gathered, drawn, kept in the workspace, recorded in MLflow."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from finedefics.errors import FinedeficsError, wrong_use
from finedefics_platform.base.progress import SILENT, Progress
from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.comparison.arms import Gathered, gather
from finedefics_platform.comparison.evaluations import all_evaluations
from finedefics_platform.comparison.reports import PICTURES, report_of
from finedefics_platform.comparison.sentences import verdict_of_search
from finedefics_platform.comparison.subjects import Subject, find_subject
from finedefics_platform.config.experiment import Tracking
from finedefics_platform.reporting.report import ReportData, render_report
from finedefics_platform.study.page import study_page
from finedefics_platform.tracking.mlflow_client import answered, is_refusal, open_client
from finedefics_platform.tracking.tracker import Tracker, server_run_id
from finedefics_platform.training.trained import EXPERIMENT

_NAME_LENGTH = 90


@dataclass(frozen=True)
class Made:
    """A report that was written.

    Attributes:
        title: of the page.
        place: of the file, in the workspace.
        verdict: what stands first.
        missing: what is not known yet, with the command that measures it.
        recorded: MLflow runs that have it as an artefact.
        text: the page.
    """

    title: str
    place: Location
    verdict: tuple[str, ...]
    missing: tuple[tuple[str, str], ...]
    recorded: tuple[str, ...]
    text: str


def make_report(
    workspace: Workspace,
    references: Sequence[str],
    *,
    title: str | None = None,
    against: str | None = None,
    pictures: int = PICTURES,
    record: bool = True,
    progress: Progress = SILENT,
) -> Made:
    """Write the report of a run, of several, of a search or of a study.

    Args:
        references: as `find_subject` takes them; a search or a study stands alone.
        against: the arm that differences are to.
        record: put the page beside the runs in MLflow, as an artefact of each run's (search's, study's) own.

    Raises:
        FinedeficsError: nothing has a name that is asked for, a study stands with others, or an arm is
            missing.
    """
    subjects = list(dict.fromkeys(find_subject(workspace, reference) for reference in references))
    if not subjects:
        raise wrong_use(
            "nothing to report", place="finedefics report", cure="name a run, a search or a study"
        )
    alone = next((one for one in subjects if one.kind != "run"), None)
    if alone is not None and len(subjects) > 1:
        raise wrong_use(
            f"a {alone.kind} is reported alone", place=alone.key, cure=f"run `finedefics report {alone.key}`"
        )
    with progress.progress("gathering", None):
        if alone is not None and alone.kind == "study":
            made = _of_study(workspace, alone)
        elif alone is not None:
            made = _of_search(workspace, alone, title, pictures)
        else:
            made = _of_runs(workspace, subjects, title, against, pictures)
    made.place.write_text(made.text)
    return replace(made, recorded=tuple(_record(workspace, made))) if record else replace(made, recorded=())


def gathered_runs(workspace: Workspace, subjects: Sequence[Subject]) -> Gathered:
    """The runs with all that the workspace has of them."""
    return gather(workspace, [one.place for one in subjects], all_evaluations(workspace))


def _of_runs(
    workspace: Workspace, subjects: Sequence[Subject], title: str | None, against: str | None, pictures: int
) -> Made:
    gathered = gathered_runs(workspace, subjects)
    data = report_of(workspace, gathered, title=title, against=against, pictures=pictures)
    runs = [arm.run.parent_run_id for arm in gathered.runs if arm.run]
    name = subjects[0].key if len(subjects) == 1 else "-and-".join(one.key for one in subjects)
    return _made(data, _place(workspace, name), [run for run in runs if run])


def _of_search(workspace: Workspace, subject: Subject, title: str | None, pictures: int) -> Made:
    told = (subject.place / "search.json").read_json()
    trials: list[dict[str, Any]] = told["trials"]
    best = told["best"]
    runs = [workspace.runs / best["run"]] if best.get("run") else []
    there = [place for place in runs if (place / EXPERIMENT).is_file()]
    gathered = gather(workspace, there, all_evaluations(workspace))
    data = report_of(workspace, gathered, pictures=pictures) if there else ReportData(subject.name)
    said = verdict_of_search(trials, best, told)
    if gathered.ground is not None:
        said = [*said[:1], *data.verdict]
    provenance = {
        "search": subject.key,
        "metric": f"{told.get('metric', '')} ({told.get('mode', '')})",
        **data.provenance,
        "commands": [f"finedefics report {subject.key}"],
    }
    data = replace(
        data,
        title=title or subject.name,
        kind="search",
        verdict=said,
        trials=_trial_rows(trials),
        provenance=provenance,
    )
    recorded = [told["parent_run_id"]] if told.get("parent_run_id") else []
    return _made(data, _place(workspace, subject.key), recorded)


def _trial_rows(trials: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Without a column of errors where no trial had one."""
    failed = any(trial.get("error") for trial in trials)
    return [{k: v for k, v in trial.items() if k != "error" or failed} for trial in trials]


def _of_study(workspace: Workspace, subject: Subject) -> Made:
    told = (subject.place / "study.json").read_json()
    text, lead = study_page(told)
    place = _place(workspace, subject.key)
    recorded = [told["parent_run_id"]] if told.get("parent_run_id") else _recorded_study(workspace, subject)
    return Made(told["study"], place, tuple(lead), (), tuple(recorded), text)


def _recorded_study(workspace: Workspace, subject: Subject) -> list[str]:
    """The study's own run, which its result does not name: found by its key."""
    from finedefics_platform.tracking.own_database import has_records
    from finedefics_platform.tracking.runs import get_run

    if not has_records(workspace):
        return []
    try:
        return [get_run(workspace, subject.key).run_id]
    except FinedeficsError:
        return []


def _made(data: ReportData, place: Location, recorded: Sequence[str]) -> Made:
    text = render_report(data)
    return Made(data.title, place, tuple(data.verdict[:3]), tuple(data.missing), tuple(recorded), text)


def _place(workspace: Workspace, name: str) -> Location:
    return workspace.reports / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)[:_NAME_LENGTH]}.html"


def _record(workspace: Workspace, made: Made) -> list[str]:
    """Put the page on MLflow runs; what a server that is away cannot take now is sent later."""
    if not made.recorded:
        return []
    tracker = Tracker(workspace, _experiment_of(workspace, made.recorded[0]))
    for run in made.recorded:
        tracker.artifact(run, made.place, "report")
    tracker.flush()
    return list(made.recorded)


def _experiment_of(workspace: Workspace, run: str) -> str:
    """The MLflow experiment that a run is of, so that no new one is made; of a server that is away, ours."""
    client = open_client(workspace)
    try:
        with answered(workspace):
            stored = client.get_run(server_run_id(workspace, run))
            return str(client.get_experiment(stored.info.experiment_id).name)
    except Exception as error:
        if is_refusal(error) and not isinstance(error, FinedeficsError):
            raise FinedeficsError(
                "the run was recorded, and is no longer there",
                place=f"MLflow run {run}",
                cure="give --no-record",
            ) from error
        return Tracking().experiment
