"""`finedefics schema`: which keys a file may have, for an editor that checks and completes them."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finedefics.errors import FinedeficsError, wrong_use

from .console import reporter

if TYPE_CHECKING:
    from pydantic import BaseModel

# What a user writes -> the section that reads it, imported when it is asked for.
KINDS = {
    "experiment": "finedefics_platform.config.experiment:Experiment",
    "search": "finedefics_platform.search.document:Search",
    "study": "finedefics_platform.study.document:Study",
    "job": "finedefics_platform.config.job:Job",
    "cluster": "finedefics_platform.config.cluster:Cluster",
    "world": "finedefics_platform.worlds.settings:WorldSettings",
    "gate": "finedefics_platform.models.gate.document:GateDocument",
}
# An experiment without what a study, a search or the command line fills in.
RECIPE, FILLED_IN = "recipe", {"Experiment": ("data", "model"), "Data": ("dataset",), "Model": ("path",)}
KINDS[RECIPE] = KINDS["experiment"]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def section_of(kind: str) -> "type[BaseModel]":
    """The section that reads a kind of file; FinedeficsError (exit code 2) where there is no such kind."""
    if kind not in KINDS:
        raise wrong_use(f"no kind of file is called {kind!r}", place="KIND", cure=f"use {', '.join(KINDS)}")
    module, _, name = KINDS[kind].partition(":")
    section: type[BaseModel] = getattr(import_module(module), name)
    return section


def schema_of(kind: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a kind of file, as written by its user."""
    schema = section_of(kind).model_json_schema(mode="validation")
    if kind == RECIPE:
        for name, keys in FILLED_IN.items():
            section = schema if name == "Experiment" else schema["$defs"][name]
            section["required"] = [key for key in section["required"] if key not in keys]
    return {"$schema": DIALECT, **schema}


def schema(
    kind: Annotated[str, typer.Argument(help=", ".join(KINDS) + ".")],
    output: Annotated[Path | None, typer.Option("--output", help="Write it to this file.")] = None,
    json: Json = False,
) -> None:
    """Print the JSON Schema of a kind of file, by which an editor completes keys and marks wrong ones.

    The first line of a file tells an editor with a YAML language server where its schema is:
    `# yaml-language-server: $schema=experiment.schema.json`

    Example: `finedefics schema experiment --output experiment.schema.json`
    """
    from json import dumps

    out = reporter(json)
    said = schema_of(kind)
    text = dumps(said, indent=2) + "\n"
    if output is not None:
        try:
            output.write_text(text)
        except OSError as error:
            raise FinedeficsError(
                f"cannot be written ({error.strerror})",
                place=str(output),
                cure="give a file in a folder of yours",
            ) from error
        out.say(f"# yaml-language-server: $schema={output}")
    elif not json:
        typer.echo(text, nl=False)
    out.done(kind=kind, output=str(output) if output else None, **({} if output else {"schema": said}))
