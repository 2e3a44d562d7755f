"""YAML documents before they are validated: read, filled with defaults, overridden by dotted keys.

A document is written down where it is used: in the run, in MLflow, in the log of whoever shows it. So it may
hold no secret.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from finedefics.errors import wrong_use
from finedefics_platform.base.secrets import HIDDEN, is_secret, without_secrets

REFERENCES = "secrets"  # the section of a job that says where secrets are, by name


def read_yaml(path: str | Path, kind: str, *, by_key: bool = True) -> dict[str, Any]:
    """A YAML file as a mapping.

    Args:
        by_key: as `refuse_secrets` has it.

    Raises:
        FinedeficsError: it is missing, holds something else, or holds a secret (exit code 2).
    """
    file = Path(path)
    if not file.is_file():
        raise wrong_use(f"there is no such {kind} file", place=str(path), cure="give the path of a YAML file")
    try:
        text = file.read_text()
    except UnicodeDecodeError as error:
        raise wrong_use("not valid YAML", place=str(path), cure="mend the syntax") from error
    document = parse_yaml(text, place=str(path))
    refuse_secrets(document, place=str(path), by_key=by_key)
    return document


class _OneOfEachKey(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, of which YAML's own loader keeps the last in silence."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: dict[str, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.tag == "tag:yaml.org,2002:merge":  # `<<` may stand there more than once
                continue
            if not isinstance(key, yaml.ScalarNode):
                continue
            name, line = str(key.value), key.start_mark.line + 1
            if name in seen:
                raise _Twice(name, seen[name], line)
            seen[name] = line
        return super().construct_mapping(node, deep)


class _Twice(Exception):
    def __init__(self, key: str, first: int, again: int) -> None:
        self.key, self.first, self.again = key, first, again


def parse_yaml(text: str, *, place: str) -> dict[str, Any]:
    """The text of a YAML file as a mapping.

    Raises:
        FinedeficsError: it is no YAML, holds no mapping, or a key stands in a mapping twice (exit code 2).
    """
    try:
        document = yaml.load(text, Loader=_OneOfEachKey)
    except _Twice as twice:
        raise wrong_use(
            f"the key `{twice.key}` stands there twice (lines {twice.first} and {twice.again})",
            place=place,
            cure="leave one of them: only the last would count",
        ) from twice
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


def override_by_text(document: dict[str, Any], assignment: str, *, by_key: bool = True) -> None:
    """Apply one ``a.b=c`` of the command line; the value is read as YAML."""
    key, separator, text = assignment.partition("=")
    key = key.strip()
    place = f"--set {key}={HIDDEN}" if is_secret(key, text) else f"--set {assignment}"
    if not separator:
        raise wrong_use("not an assignment", place=place, cure="write --set key.sub=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise wrong_use("the value is not valid YAML", place=place, cure="quote it") from error
    refuse_secrets({key: value}, place=place, by_key=by_key)
    override(document, key, value, place=place)


def refuse_secrets(document: Mapping[str, Any], *, place: str, by_key: bool = True) -> None:
    """Refuse a document that holds a secret instead of naming where it is.

    Args:
        by_key: judge by what keys are called as well; not where they name Kubernetes secrets
            (`token_secret`), of which the document's own schema knows more.

    Raises:
        FinedeficsError: a key says that its value is one, or a value holds an access token, a password in an
            address or what one of this process's secret variables holds (exit code 2).
    """
    for key, value in document.items():
        if key != REFERENCES and (found := _secret_in(str(key), value, by_key)):
            raise wrong_use(
                f"`{found}` holds a secret, and this is written down where it is used",
                place=place,
                cure="take it out and set it in the environment (HF_TOKEN, AWS_SECRET_ACCESS_KEY, "
                "MLFLOW_TRACKING_PASSWORD, …), which the program reads itself",
            )


def _secret_in(key: str, value: Any, by_key: bool) -> str | None:
    """The dotted key of the first secret at or below this one."""
    if isinstance(value, Mapping):
        below = [(f"{key}.{name}", one) for name, one in value.items()]
    elif isinstance(value, list):
        below = [(f"{key}.{number}", one) for number, one in enumerate(value)]
    else:
        called = by_key and is_secret(key, value)
        told = isinstance(value, str) and (called or without_secrets(value) != value)
        return key if told else None
    return next(filter(None, (_secret_in(name, one, by_key) for name, one in below)), None)


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
