"""What every document of a user is made of: sections that refuse unknown keys, and errors that name one."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from finedefics.errors import FinedeficsError, wrong_use

# A key that one kind of file has, what that is, and what reads it.
_TELLING = {
    "stages": ("an experiment", "`finedefics train`"),
    "space": ("a search", "`finedefics tune`"),
    "arms": ("a study", "`finedefics study run`"),
    "job": ("a job", "`finedefics jobs submit`"),
}

Document = TypeVar("Document", bound=BaseModel)


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def parse_document(kind: type[Document], document: Mapping[str, Any], *, place: str) -> Document:
    """Validate a mapping as a document of a kind; FinedeficsError (exit code 2) names the first wrong key."""
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise _another_kind(document, kind, place) or _explain(error, place, kind) from error


def _another_kind(document: Mapping[str, Any], kind: type[BaseModel], place: str) -> FinedeficsError | None:
    """The error of a file that is right, and another command's."""
    for key, (what, command) in _TELLING.items():
        if key in document and key not in kind.model_fields:
            return wrong_use(
                f"this is the file of {what} (it has `{key}`)", place=place, cure=f"use {command}"
            )
    return None


def _explain(error: ValidationError, place: str, kind: type[BaseModel]) -> FinedeficsError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if part != "[key]") or "the document"
    if first["type"] == "extra_forbidden":
        return wrong_use(
            f"unknown key `{key}`", place=place, cure=f"use one of: {_known_keys(first['loc'], kind)}"
        )
    if first["type"] == "missing":
        return wrong_use(f"`{key}` is missing", place=place, cure="add it")
    reason = first["msg"].removeprefix("Value error, ").lower()
    reason = reason.replace("tuple should", "list should").replace(" after validation", "")
    return wrong_use(f"`{key}` is wrong: {reason}", place=place, cure="correct the value")


def _known_keys(location: tuple[int | str, ...], kind: type[BaseModel]) -> str:
    schema = kind.model_json_schema()
    sections = [schema]
    for part in location[:-1]:
        below = (_below(section, part) for section in sections)
        sections = [one for node in below if node is not None for one in _resolved(node, schema)]
    known = (name for section in sections for name in section.get("properties", {}))
    return ", ".join(dict.fromkeys(known)) or "the documented keys"


def _below(section: dict[str, Any], part: int | str) -> dict[str, Any] | None:
    """What a schema says of one item or key of a value."""
    if isinstance(part, int):
        return section.get("items")
    named = section.get("properties", {}).get(part)
    return named or section.get("additionalProperties") or None


def _resolved(node: dict[str, Any], schema: dict[str, Any]) -> list[dict[str, Any]]:
    """What a node may be, references followed."""
    if "$ref" in node:
        return _resolved(schema["$defs"][node["$ref"].rsplit("/", 1)[-1]], schema)
    return [one for each in node["anyOf"] for one in _resolved(each, schema)] if "anyOf" in node else [node]
