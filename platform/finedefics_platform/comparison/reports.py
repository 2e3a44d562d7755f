"""What a report shows, from what was gathered: of one run, of several, of a search, or of the demo's arms."""

from collections.abc import Mapping
from typing import Any

import yaml

from finedefics.errors import FinedeficsError
from finedefics.evaluation.tables import accuracy_table, differences
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.comparison import telling
from finedefics_platform.comparison.arms import BASE, Arm, Gathered
from finedefics_platform.comparison.differing import differing_settings, flat
from finedefics_platform.comparison.looking import mistakes, per_category
from finedefics_platform.comparison.pairing import paired_rows
from finedefics_platform.comparison.sentences import (
    Leading,
    best_answer,
    leading_of,
    names_of_runs,
    verdict_of,
)
from finedefics_platform.data.store import Dataset, open_dataset
from finedefics_platform.evaluation.items import Evaluated
from finedefics_platform.reporting.report import Differing, PerCategory, ReportData

PICTURES = 200
_MOST_COLUMNS = 6  # of the table of categories
_REFERENCES = ("control", BASE)  # what differences are to, where it is among the arms


def report_of(
    workspace: Workspace,
    gathered: Gathered,
    *,
    title: str | None = None,
    against: str | None = None,
    pictures: int = PICTURES,
) -> ReportData:
    """The report of one run or of several.

    Args:
        title: default: the runs' names.
        against: the arm that differences are to; default: ``control``, ``base``, or the first run.
        pictures: the most that the page holds.

    Raises:
        FinedeficsError: there is no arm of the name that differences are to be to.
    """
    frames = gathered.frames
    speeds = {arm.name: arm.judged.merged("pictures_per_second") for arm in gathered.arms if arm.judged}
    tables = {scope: _table(frames, speeds, scope) for scope in ("all", "options")}
    judged = next((arm.judged for arm in gathered.arms if arm.judged), None)
    chance = judged.merged("chance") if judged else {}
    dataset = _dataset(workspace, gathered)
    names = {one.category_id: one.name for one in dataset.categories()} if dataset else {}
    leading = leading_of(gathered, tables["all"], tables["options"])
    keys = [arm.key for arm in gathered.runs if arm.key]
    return ReportData(
        title=title or names_of_runs(gathered.runs),
        kind="run" if len(gathered.runs) == 1 else f"comparison of {len(gathered.runs)} runs",
        table=tables["all"],
        options_table=tables["options"],
        differences=_differences(gathered, leading, against),
        verdict=verdict_of(gathered, tables["all"], tables["options"], names),
        facts=telling.facts_of(gathered),
        arms={arm.name: arm.what for arm in gathered.arms},
        missing=telling.missing_of(workspace, gathered),
        checks=telling.checks_of(gathered, tables, chance),
        chance=chance,
        retrieval=_retrieval(gathered),
        histories={arm.name: arm.history for arm in gathered.runs if arm.history},
        mistakes=leading
        and mistakes(
            frames,
            names,
            (leading.arm, leading.answer, leading.scope),
            dataset,
            _split(gathered),
            pictures=pictures,
        ),
        per_category=leading and _categories(gathered, leading, tables, names),
        differing=_settings(gathered),
        experiments={arm.name: _yaml(arm) for arm in gathered.runs if arm.experiment},
        risks=telling.risks_of(gathered),
        provenance=telling.provenance_of(gathered, keys),
        embeddings=_maps(gathered, leading, dataset, names),
    )


def _table(frames: Mapping[str, Any], speeds: Mapping[str, Any], scope: str) -> dict[str, Any]:
    table = accuracy_table(frames, speeds, scope)
    return {arm: answers for arm, answers in table.items() if answers}


def _dataset(workspace: Workspace, gathered: Gathered) -> Dataset | None:
    """The version that all was measured on; None where it is no longer there."""
    judged = next((arm.judged for arm in gathered.arms if arm.judged), None)
    if judged is None:
        return None
    try:
        return open_dataset(workspace, judged.summary["dataset"])
    except FinedeficsError:
        return None


def _split(gathered: Gathered) -> str:
    return gathered.ground.split if gathered.ground else "test"


def _differences(gathered: Gathered, leading: Leading | None, against: str | None) -> list[dict[str, Any]]:
    """To the arm asked for: with the strongest controls too where the demo's control is among the arms."""
    frames = gathered.frames
    if against is not None and against not in frames:
        known = ", ".join(frames) or "none"
        raise FinedeficsError(
            "no such arm was evaluated", place=f"--against {against}", cure=f"there are: {known}"
        )
    if leading is None or len(frames) < 2:
        return []
    to = against or next((one for one in _REFERENCES if one in frames), next(iter(frames)))
    if leading.scope == "all" and "control" in frames and against in (None, "control"):
        try:
            return differences(frames, against=to)
        except FinedeficsError:  # they did not all answer the same items
            pass
    return paired_rows(frames, to, leading.scope)


def _retrieval(gathered: Gathered) -> dict[str, Mapping[str, float]]:
    found = {arm.name: arm.judged.with_texts() for arm in gathered.arms if arm.judged}
    told = {name: one.summary.get("retrieval") for name, one in found.items() if one}
    return {name: own for name, own in told.items() if own and "object_to_description" in own}


def _categories(
    gathered: Gathered, leading: Leading, tables: Mapping[str, Any], names: Mapping[str, str]
) -> PerCategory | None:
    """The leading arm's answers; of several runs each by its best."""
    table = tables[leading.scope]
    if len(gathered.runs) > 1:
        others = [
            best_answer(table, arm, leading.scope, leading.group) for arm in table if arm != leading.arm
        ]
        columns = [leading, *(one for one in others if one)]
    else:
        answers = [leading.answer, *(one for one in table[leading.arm] if one != leading.answer)]
        columns = [leading._replace(answer=answer) for answer in answers]
    chosen = [(one.arm, one.answer, one.scope) for one in columns[:_MOST_COLUMNS]]
    return per_category(gathered.frames, names, chosen)


def _settings(gathered: Gathered) -> Differing | None:
    told = {arm.name: flat(arm.experiment) for arm in gathered.runs if arm.experiment}
    rows = differing_settings(list(told.values())) if len(told) > 1 else {}
    return Differing(list(told), list(rows.items())) if rows else None


def _yaml(arm: Arm) -> str:
    assert arm.experiment is not None
    document = arm.experiment.model_dump(mode="json")
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)


def _maps(
    gathered: Gathered, leading: Leading | None, dataset: Dataset | None, names: Mapping[str, str]
) -> dict[str, Any]:
    """Embeddings of the base and of the arm that leads: before and after."""
    if leading is None or dataset is None:
        return {}
    wanted = [arm for arm in gathered.arms if arm.judged and arm.name in (BASE, leading.arm)]
    maps = {}
    for arm in wanted:
        assert arm.judged is not None
        evaluated = arm.judged.with_texts()
        if evaluated is not None:
            maps[arm.name] = _map(evaluated, gathered, arm.name, names)
    return maps


def _map(evaluated: Evaluated, gathered: Gathered, arm: str, names: Mapping[str, str]) -> dict[str, Any]:
    stored = evaluated.embeddings()
    frame = gathered.frames[arm].drop_duplicates("sample_id").set_index("sample_id")
    rows = frame.reindex(stored["sample_ids"].tolist())
    return {
        "objects": stored["objects"],
        "object_groups": rows["group"].fillna("labelled").tolist(),
        "object_categories": [names.get(i, i) for i in rows["category_id"].fillna("").tolist()],
        "texts": stored["name"],
        "text_names": [names.get(i, i) for i in stored["category_ids"].tolist()],
    }
