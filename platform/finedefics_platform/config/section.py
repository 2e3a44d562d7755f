"""What every document of a user is made of: sections that refuse unknown keys, and errors that name one."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from finedefics.errors import FinedeficsError, wrong_use
from finedefics.terms import TERM_FEEDS

Document = TypeVar("Document", bound=BaseModel)


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def parse_document(kind: type[Document], document: Mapping[str, Any], *, place: str) -> Document:
    """Validate a mapping as a document of a kind; FinedeficsError (exit code 2) names the first wrong key."""
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise _explain(error, place, kind) from error


def _explain(error: ValidationError, place: str, kind: type[BaseModel]) -> FinedeficsError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "the document"
    if first["type"] == "extra_forbidden":
        return wrong_use(
            f"unknown key `{key}`", place=place, cure=f"use one of: {_known_keys(first['loc'], kind)}"
        )
    if first["type"] == "missing":
        return wrong_use(f"`{key}` is missing", place=place, cure="add it")
    reason = first["msg"].removeprefix("Value error, ").lower()
    return wrong_use(f"`{key}` is wrong: {reason}", place=place, cure="correct the value")


def _known_keys(location: tuple[int | str, ...], kind: type[BaseModel]) -> str:
    schema = kind.model_json_schema()
    definitions, node = schema.get("$defs", {}), schema
    for part in location[:-1]:
        node = node["items"] if isinstance(part, int) else node.get("properties", {}).get(part, {})
        if isinstance(node.get("additionalProperties"), dict):
            node = {"properties": dict.fromkeys(TERM_FEEDS, node["additionalProperties"])}
        if "$ref" in node:
            node = definitions[node["$ref"].rsplit("/", 1)[-1]]
    return ", ".join(node.get("properties", {})) or "the documented keys"
