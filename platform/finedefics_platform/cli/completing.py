"""What the shell completes: names of runs, datasets, models and studies of the workspace at hand.

A shell asks at every press of a key, so nothing heavy is imported here and no server is asked: folders are
listed, and the workspace's own database is read as the file that it is. Which parameter takes which names is
said in one table, by the words of the command.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from finedefics_platform.base.storage import Location
    from finedefics_platform.base.workspace import Workspace

_MOST = 200  # a shell shows no more of them with profit


def recorded_runs(incomplete: str) -> list[str]:
    """Keys of runs, searches and studies, those whose folder is gone too."""
    return _beginning(incomplete, _trained, _searched, _studied, _keys)


def trained_runs(incomplete: str) -> list[str]:
    """Keys of the training runs that have a folder: what `train --resume` takes."""
    return _beginning(incomplete, _trained)


def datasets(incomplete: str) -> list[str]:
    """Names of datasets; after ``name@`` its versions."""
    if "@" in incomplete:
        return _beginning(incomplete, lambda workspace: _versions(workspace, incomplete.partition("@")[0]))
    return _beginning(incomplete, _datasets)


def registered_models(incomplete: str) -> list[str]:
    """Names of registered models; after ``name@`` its aliases, after ``name/`` its versions."""
    return _beginning(incomplete, _models)


def models(incomplete: str) -> list[str]:
    """All that can be evaluated or asked: registered models and runs."""
    return _beginning(incomplete, _models, _trained)


def reportable(incomplete: str) -> list[str]:
    """All that `report` takes: runs, searches, studies, and registered models."""
    return _beginning(incomplete, _trained, _searched, _studied, _keys, _models)


def studies(incomplete: str) -> list[str]:
    """Keys of studies."""
    return _beginning(incomplete, _studied)


# Words that a command begins with, a parameter's name, and what completes it; the first that fits counts.
_PARAMETERS: tuple[tuple[str, str, Callable[[str], list[str]]], ...] = (
    ("study show", "name", studies),
    ("models", "name", registered_models),
    ("models", "reference", registered_models),
    ("categories", "model", registered_models),
    ("runs", "run", recorded_runs),
    ("runs", "runs", recorded_runs),
    ("report", "names", reportable),
    ("", "resume", trained_runs),
    ("", "register", registered_models),
    ("", "dataset", datasets),
    ("", "data", datasets),
    ("", "model", models),
)


def complete_names(command: TyperCommand | TyperGroup, words: str) -> None:
    """Have the parameters of a command, and of all under it, completed by the table above.

    Args:
        words: that call it, as ``runs show``.
    """
    for name, below in getattr(command, "commands", {}).items():
        complete_names(below, f"{words} {name}")
    for parameter in command.params:
        for begins, named, names in _PARAMETERS:
            if parameter.name == named and f"{words} ".startswith(f"{begins} ".lstrip()):
                # what Typer sets by `autocompletion=` too
                parameter._custom_shell_complete = _completer(names)
                break


def _completer(names: Callable[[str], list[str]]) -> Callable[[Any, Any, str], list[Any]]:
    def complete(context: Any, parameter: Any, incomplete: str) -> list[Any]:
        return list(names(incomplete))

    return complete


def _beginning(incomplete: str, *sources: "Callable[[Workspace], Iterator[str]]") -> list[str]:
    """What begins so; whatever goes wrong, a shell gets nothing rather than a traceback."""
    from finedefics_platform.base.workspace import open_workspace

    try:
        workspace = open_workspace()
        names = dict.fromkeys(name for source in sources for name in source(workspace))
    except (OSError, ValueError, sqlite3.Error):
        return []
    return [name for name in names if name.startswith(incomplete)][:_MOST]


def _folders(place: "Location", *without: str) -> Iterator[str]:
    if place.local is not None:  # an object store is slower than a person types
        yield from (child.name for child in place.children() if child.name not in without)


def _trained(workspace: "Workspace") -> Iterator[str]:
    return _folders(workspace.runs)


def _searched(workspace: "Workspace") -> Iterator[str]:
    return _folders(workspace.searches)


def _studied(workspace: "Workspace") -> Iterator[str]:
    return _folders(workspace.studies, "steps")


def _datasets(workspace: "Workspace") -> Iterator[str]:
    return (name for name in _folders(workspace.datasets))


def _versions(workspace: "Workspace", name: str) -> Iterator[str]:
    kept = ("tables", "steps", "latest")
    return (f"{name}@{digest}" for digest in _folders(workspace.datasets / name, *kept))


def _keys(workspace: "Workspace") -> Iterator[str]:
    query = "SELECT DISTINCT value FROM tags WHERE key = 'finedefics.key'"
    return (row[0] for row in _rows(workspace, query))


def _models(workspace: "Workspace") -> Iterator[str]:
    # a log of decisions is a registered model to MLflow, and none to a user
    for name, alias, version in _rows(
        workspace,
        "SELECT m.name, a.alias, v.version FROM registered_models m "
        "LEFT JOIN registered_model_aliases a ON a.name = m.name "
        "LEFT JOIN model_versions v ON v.name = m.name "
        "WHERE m.name NOT LIKE '%-decisions' ORDER BY m.name, v.version DESC",
    ):
        yield name
        if alias:
            yield f"{name}@{alias}"
        if version is not None:
            yield f"{name}/{version}"


def _rows(workspace: "Workspace", query: str) -> list[tuple]:
    """Read from the own database, which is neither made nor locked by it; empty where there is none."""
    from finedefics_platform.tracking.own_database import DATABASE

    if os.environ.get("MLFLOW_TRACKING_URI") or workspace.root.local is None:
        return []
    file = (workspace.artifacts.parent / DATABASE).local
    if file is None or not file.is_file():
        return []
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=0.5)) as database:
        return list(database.execute(query))
