"""YAML documents before they are validated: read, filled with defaults, overridden by dotted keys."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from finedefics.errors import wrong_use


def read_yaml(path: str | Path, kind: str) -> dict[str, Any]:
    """A YAML file as a mapping; FinedeficsError (exit code 2) where it is missing or holds something else."""
    file = Path(path)
    if not file.is_file():
        raise wrong_use(f"there is no such {kind} file", place=str(path), cure="give the path of a YAML file")
    try:
        text = file.read_text()
    except UnicodeDecodeError as error:
        raise wrong_use("not valid YAML", place=str(path), cure="mend the syntax") from error
    return parse_yaml(text, place=str(path))


def parse_yaml(text: str, *, place: str) -> dict[str, Any]:
    """The text of a YAML file as a mapping; FinedeficsError (exit code 2) where it is none."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        raise wrong_use(f"not valid YAML{line}", place=place, cure="mend the syntax") from error
    if not isinstance(document, dict):
        raise wrong_use("the file holds no mapping", place=place, cure="write `key: value` lines")
    return document


def fill(document: dict[str, Any], defaults: Mapping[str, Any], *, place: str) -> None:
    """Set dotted keys where the document is silent."""
    for key, value in defaults.items():
        if _lookup(document, key) is None:
            override(document, key, value, place=place)


def override_by_text(document: dict[str, Any], assignment: str) -> None:
    """Apply one ``a.b=c`` of the command line; the value is read as YAML."""
    key, separator, text = assignment.partition("=")
    place = f"--set {assignment}"
    if not separator:
        raise wrong_use("not an assignment", place=place, cure="write --set key.sub=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise wrong_use("the value is not valid YAML", place=place, cure="quote it") from error
    override(document, key.strip(), value, place=place)


def _lookup(document: Any, key: str) -> Any:
    for part in key.split("."):
        document = document.get(part) if isinstance(document, dict) else None
    return document


def override(document: Any, key: str, value: Any, *, place: str) -> None:
    """Set one dotted key of a document; list items are addressed by position.

    Raises:
        FinedeficsError: the key leads into a plain value or to an item that is not there (exit code 2).
    """
    *parents, last = key.split(".")
    for part in parents:
        if isinstance(document, list):
            document = document[_position(document, part, place)]
        elif isinstance(document, dict):
            document = document.setdefault(part, {})
        else:
            raise wrong_use(f"`{part}` is inside a plain value", place=place, cure="name an existing section")
    if isinstance(document, list):
        document[_position(document, last, place)] = value
    elif isinstance(document, dict):
        document[last] = value
    else:
        raise wrong_use(f"`{last}` is inside a plain value", place=place, cure="name an existing section")


def _position(items: list[Any], part: str, place: str) -> int:
    if not part.isdigit() or int(part) >= len(items):
        raise wrong_use(f"no item {part!r}", place=place, cure=f"use a position from 0 to {len(items) - 1}")
    return int(part)
