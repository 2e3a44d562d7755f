"""Write docs/reference/: every key of every file of a user, and every command, from the code itself.

``python -m tools.reference`` writes the pages; with ``--check`` it tells which are not what the code says
(exit code 1) and writes nothing.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finedefics_platform.cli.schema import KINDS, RECIPE, schema_of

PAGES = Path(__file__).parents[1] / "docs/reference"
NOTE = "<!-- written by `python -m tools.reference` from the code; do not edit -->\n"
ABOUT = {
    "experiment": "What `finedefics train` reads: what is trained, on what, and how it is judged. "
    "`finedefics init DATASET` writes one that fits a dataset, and `--set stages.0.steps=10` overrides a key "
    "(items of a list by their place).",
    "search": "What `finedefics tune` reads: keys of an experiment and the values they may take.",
    "study": "What `finedefics study run` reads: arms, what they are measured on, and the comparisons meant "
    "beforehand ([how](../studies.md)).",
    "job": "What `finedefics jobs submit` reads: what runs on a cluster, with what, and how long "
    "([how](../jobs.md)).",
    "cluster": "What `finedefics cluster render` reads: a Ray cluster on Kubernetes or cloud machines "
    "([how](../clusters.md)).",
    "world": "What `finedefics world` and `finedefics base` read: drawn data and its base model "
    "([how](../worlds.md)).",
    "gate": "What `finedefics models promote --gate` reads: named rules that a candidate has to meet "
    "([how](../registry.md)).",
}
Schema = dict[str, Any]


def pages() -> dict[str, str]:
    """Every page by its file's name."""
    return {**{f"{kind}.md": keys_page(kind) for kind in KINDS if kind != RECIPE}, "cli.md": commands_page()}


def keys_page(kind: str) -> str:
    """The page of a kind of file: a table for each of its sections."""
    schema = schema_of(kind)
    lines = [NOTE, f"# {kind.capitalize()}\n", ABOUT[kind] + "\n"]
    lines.append(
        f"`finedefics schema {kind} --output {kind}.schema.json` writes its JSON Schema; an editor completes "
        f"keys by it where the file begins with `# yaml-language-server: $schema={kind}.schema.json`.\n"
    )
    for path, section in _sections(schema, schema, ""):
        if path:
            lines.append(f"## `{path}`\n")
            lines += [_plain(section["description"]) + "\n"] if section.get("description") else []
        lines.append(_table(section, schema))
    return "\n".join(lines)


def commands_page() -> str:
    """Every command with its arguments and options, as Typer writes them down."""
    import typer
    from typer.cli import get_docs_for_click
    from typer.main import get_command

    from finedefics_platform.cli.main import app

    command = get_command(app)
    said = get_docs_for_click(obj=command, ctx=typer.Context(command), name="finedefics")
    said = re.sub(r"^# `finedefics`\n", "# Command line\n", _whole_sentences(said, command, "finedefics"))
    return NOTE + "\n" + re.sub(r"\n{3,}", "\n\n", _no_html(said)).rstrip() + "\n"


def _whole_sentences(said: str, group: Any, path: str) -> str:
    """Typer cuts the first sentence of a command in a list of commands; a page has room for it."""
    head, _, tail = said.partition(f" `{path}`\n")
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        sentence = command.get_short_help_str(limit=1000)
        tail = re.sub(
            rf"^\* `{name}`: .*$", lambda _, s=f"* `{name}`: {sentence}": s, tail, count=1, flags=re.M
        )
        if hasattr(command, "list_commands"):
            tail = _whole_sentences(tail, command, f"{path} {name}")
    return f"{head} `{path}`\n{tail}"


def _no_html(said: str) -> str:
    """`<category>` of a help text is no element of HTML; in code it may stand as it is."""
    pieces = re.split(r"(```.*?```|`[^`\n]*`)", said, flags=re.S)
    return "".join(piece if piece.startswith("`") else piece.replace("<", "&lt;") for piece in pieces)


def _sections(node: Schema, schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    """The section itself and those below it, each with its dotted path."""
    yield path, node
    for key, value in node.get("properties", {}).items():
        for step, below in _below(value, schema):
            yield from _sections(below, schema, ".".join(filter(None, (path, key + step))))


def _below(value: Schema, schema: Schema) -> Iterator[tuple[str, Schema]]:
    """Sections that a key holds: itself one, a list of them (`.N`) or a mapping to them (`.NAME`)."""
    if "$ref" in value:
        yield "", _resolved(value, schema)
    for each in value.get("anyOf", ()):
        yield from _below(each, schema)
    for held, step in ((value.get("items"), ".N"), (value.get("additionalProperties"), ".NAME")):
        if isinstance(held, dict):
            yield from ((step + more, below) for more, below in _below(held, schema))


def _table(section: Schema, schema: Schema) -> str:
    rows = ["| key | value | default | what for |", "|---|---|---|---|"]
    for key, value in section["properties"].items():
        given = key in section.get("required", ())
        default = "to be given" if given else _default(value)
        rows.append(f"| `{key}` | {_type(value, schema)} | {default} | {_cell(_said(value, schema))} |")
    return "\n".join(rows) + "\n"


def _said(value: Schema, schema: Schema) -> str:
    """What a key is for; pydantic leaves out words that its section says as well."""
    if "description" not in value and "$ref" in value:
        return str(_resolved(value, schema)["description"])
    return str(value["description"])


def _resolved(value: Schema, schema: Schema) -> Schema:
    found: Schema = schema["$defs"][value["$ref"].rsplit("/", 1)[-1]]
    return found


def _default(value: Schema) -> str:
    default = value.get("default")
    if default is None:
        return ""
    if isinstance(default, dict) and default:
        return "as below"
    text = json.dumps(default, ensure_ascii=False)
    return f"`{_cell(text.strip(chr(34)))}`" if text != '""' else ""


def _type(value: Schema, schema: Schema) -> str:
    if "$ref" in value:
        return "section" + _range(value)
    if "anyOf" in value:
        kinds = [_type(each, schema) for each in value["anyOf"] if each.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{one}`" for one in value["enum"])
    kind = value.get("type", "any")
    if kind == "array" and "prefixItems" in value:
        return "list of " + str(len(value["prefixItems"]))
    if kind == "array":
        return "list of " + _type(value.get("items", {}), schema)
    if kind == "object" and isinstance(held := value.get("additionalProperties"), dict):
        names = value.get("propertyNames", {}).get("enum")
        keys = f" (of {', '.join(f'`{name}`' for name in names)})" if names else ""
        return f"mapping{keys} to {_type(held, schema)}"
    words = {"integer": "whole number", "boolean": "true or false", "string": "text", "object": "mapping"}
    return words.get(kind, kind) + _range(value)


def _range(value: Schema) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    said = [f"{sign} {value[key]:g}" for key, sign in signs.items() if key in value]
    return f" {', '.join(said)}" if said else ""


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("``", "`")


def main(arguments: list[str]) -> int:
    """Write the pages, or check them; the exit code."""
    stale = []
    PAGES.mkdir(exist_ok=True)
    for name, text in pages().items():
        file = PAGES / name
        if file.is_file() and file.read_text() == text:
            continue
        stale.append(name)
        if "--check" not in arguments:
            file.write_text(text)
    if stale and "--check" in arguments:
        print(f"docs/reference: not what the code says: {', '.join(stale)}; run `python -m tools.reference`")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
