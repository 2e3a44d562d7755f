"""The registry in the workspace's own database, read without MLflow, whose import takes seconds.

Every question reads the file anew, so nothing here can be older than what MLflow would say. It is read only
where its tables are of a revision that is known here, and else MLflow is asked; nothing is ever written.
"""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from finedefics_platform.base.workspace import Workspace
from finedefics_platform.tracking.own_database import has_records, is_own_database, own_file, settle

# Alembic's revisions of MLflow's tables whose columns for the registry are those asked for below (3.17).
REVISIONS = ("dc11669786a5",)
_PROMPT = "mlflow.prompt.is_prompt"  # MLflow keeps prompts among the models, and does not list them
_SECONDS = 30.0


@dataclass(frozen=True)
class Model:
    """A registered model, with the attributes of MLflow's own entity that are asked for."""

    name: str
    tags: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Version:
    """A version, likewise."""

    name: str
    version: int
    run_id: str | None
    creation_timestamp: int
    source: str | None
    description: str | None
    tags: dict[str, str] = field(default_factory=dict)


class Found(list[Any]):
    """Results, all on one page."""

    token = None


class OwnRegistry:
    """Answers the two searches by which `finedefics_platform.models.registry` reads."""

    def __init__(self, workspace: Workspace) -> None:
        self._file = own_file(workspace)

    def search_registered_models(self, filter_string: str | None = None) -> Found:
        """All registered models by name, or the one of ``name = '…'``."""
        named = _named(filter_string)
        with self._open() as database:
            tags = _gathered(database, "registered_model_tags", ("name",), "key", "value", named)
            aliases = _gathered(database, "registered_model_aliases", ("name",), "alias", "version", named)
            names = database.execute(f"SELECT name FROM registered_models {named} ORDER BY name").fetchall()
        models = [Model(name, tags.get((name,), {}), aliases.get((name,), {})) for (name,) in names]
        return Found(model for model in models if model.tags.get(_PROMPT, "").lower() != "true")

    def search_model_versions(self, filter_string: str | None = None) -> Found:
        """Versions of the model of ``name = '…'``, or of all."""
        named = _named(filter_string)
        columns = "name, version, run_id, creation_time, source, description"
        with self._open() as database:
            tags = _gathered(database, "model_version_tags", ("name", "version"), "key", "value", named)
            rows = database.execute(
                f"SELECT {columns} FROM model_versions {named} "
                f"{'AND' if named else 'WHERE'} current_stage IS NOT 'Deleted_Internal'"
            ).fetchall()
        return Found(
            Version(own, number, run, at, source, said, tags.get((own, number), {}))
            for own, number, run, at, source, said in rows
        )

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        uri = f"{self._file.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=_SECONDS)) as database:
            database.execute("BEGIN")  # one state of the file for all that is asked
            yield database


def own_registry(workspace: Workspace) -> OwnRegistry | None:
    """The workspace's own registry, None where MLflow has to be asked: it is a server's, is not there yet, or
    its tables are of another revision of MLflow than those known here."""
    if not is_own_database(workspace) or not has_records(workspace):
        return None
    found = OwnRegistry(workspace)
    try:
        settle(workspace)
        with found._open() as database:
            (revision,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
            other = database.execute(
                "SELECT 1 FROM registered_models WHERE workspace != 'default'"
            ).fetchone()
    except (sqlite3.Error, TypeError, ValueError):
        return None
    return found if revision in REVISIONS and other is None else None


def _named(filter_string: str | None) -> str:
    """A condition on the column ``name``; a name has no sign that could end its quotes."""
    if filter_string is None:
        return ""
    wanted = re.fullmatch(r"name = '([A-Za-z0-9_.-]+)'", filter_string)
    assert wanted is not None, filter_string
    return f"WHERE name = '{wanted[1]}'"


def _gathered(
    database: sqlite3.Connection, table: str, of: tuple[str, ...], key: str, value: str, named: str
) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Pairs of a table, by what they belong to."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for *owner, name, content in database.execute(
        f"SELECT {', '.join(of)}, {key}, {value} FROM {table} {named}"
    ):
        found.setdefault(tuple(owner), {})[name] = content
    return found
