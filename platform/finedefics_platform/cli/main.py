"""The command line: which commands there are, and how a command ends."""

import os
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group

from finedefics import __version__
from finedefics.errors import FinedeficsError, wrong_use
from finedefics_platform.base.names import meant
from finedefics_platform.base.signals import INTERRUPTED, Terminated, terminable

from .completing import complete_names
from .console import machine_stdout
from .failures import explain, interrupted, print_traceback, report, terminated

# Command name -> module and attribute: a Typer app is a group of commands, a function is one command.
# A module is imported when its command is asked for, so no command pays for another's imports.
COMMANDS = {
    "demo": "finedefics_platform.cli.demo:demo",
    "world": "finedefics_platform.cli.worlds:world",
    "base": "finedefics_platform.cli.worlds:base",
    "doctor": "finedefics_platform.cli.doctor:doctor",
    "init": "finedefics_platform.cli.init:init",
    "train": "finedefics_platform.cli.train:train",
    "tune": "finedefics_platform.cli.tune:tune",
    "study": "finedefics_platform.cli.study:app",
    "evaluate": "finedefics_platform.cli.evaluate:evaluate",
    "report": "finedefics_platform.cli.report:report",
    "predict": "finedefics_platform.cli.predict:predict",
    "serve": "finedefics_platform.cli.serve:serve",
    "data": "finedefics_platform.cli.data:app",
    "runs": "finedefics_platform.cli.runs:app",
    "models": "finedefics_platform.cli.models:app",
    "jobs": "finedefics_platform.cli.jobs:app",
    "categories": "finedefics_platform.cli.categories:app",
    "cluster": "finedefics_platform.cli.cluster:app",
    "schema": "finedefics_platform.cli.schema:schema",
    "gc": "finedefics_platform.cli.gc:gc",
    "ui": "finedefics_platform.cli.ui:ui",
}


class _LazyGroup(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except typer.TyperException as error:
            # Typer suggests what is loaded already, and here that is nothing.
            if args and (near := meant(args[0], COMMANDS)):
                error.message = f"{error.message.rstrip('.')}, {near.rstrip('? ')}?"
            raise

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            self.commands[cmd_name] = _load(cmd_name, COMMANDS[cmd_name])
        return self.commands.get(cmd_name)


def _load(name: str, target: str) -> TyperCommand | TyperGroup:
    module, _, attribute = target.partition(":")
    found = getattr(import_module(module), attribute)
    if isinstance(found, typer.Typer):
        group = get_group(found)
        group.name = name
        complete_names(group, name)
        return group
    single = typer.Typer(add_completion=False)
    single.command(name=name)(found)
    command = get_command(single)
    assert isinstance(command, TyperCommand)
    complete_names(command, name)
    return command


app = typer.Typer(
    cls=_LazyGroup, rich_markup_mode="rich", context_settings={"help_option_names": ["-h", "--help"]}
)


@app.callback(invoke_without_command=True)
def finedefics(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; also after the command.")
    ] = False,
) -> None:
    """Finedefics Platform: fine-grained recognition with multimodal language models, on Ray.

    Start with `finedefics doctor`; `finedefics COMMAND --help` shows examples.
    """
    if version:
        typer.echo(f"finedefics {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    It is 0 done, 1 failed, 2 wrong use, 130 interrupted (Ctrl-C), 143 terminated (SIGTERM).
    """
    # The command shows bars of its own; read by Transformers when it is imported.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    json, debug = "--json" in options, "--debug" in options
    if debug:
        # Accepted anywhere: people add it to the end of the line that failed.
        arguments = [argument for argument in options if argument != "--debug"] + arguments[len(options) :]
    with terminable():
        if not json:
            return _run(arguments, json=False, debug=debug)
        with machine_stdout():
            return _run(arguments, json=True, debug=debug)


def _run(arguments: list[str], *, json: bool, debug: bool) -> int:
    command = " ".join(["finedefics", *_command_words(arguments)])
    line = shlex.join(["finedefics", *arguments])  # what is typed to go on
    try:
        outcome = get_command(app).main(arguments, prog_name="finedefics", standalone_mode=False)
        if outcome == INTERRUPTED:  # how Typer hands on a Ctrl-C
            return report(interrupted(command, line), json=json)
        return outcome if isinstance(outcome, int) else 0
    except typer.TyperException as error:
        if not error.format_message():  # a group called without a command: its help is printed already
            return error.exit_code
        return report(_wrong_command_line(error, command), json=json)
    except (KeyboardInterrupt, typer.Abort):
        return report(interrupted(command, line), json=json)
    except Terminated:
        return report(terminated(command, line), json=json)
    except Exception as error:
        if debug:
            print_traceback(error)
        return report(explain(error, command), json=json)


def _command_words(arguments: list[str]) -> list[str]:
    """The command and its sub-command, as the user typed them."""
    words: list[str] = []
    for argument in arguments[:2]:
        if argument.startswith("-"):
            break
        words.append(argument)
    return words if words and words[0] in COMMANDS else []


def _wrong_command_line(error: typer.TyperException, command: str) -> FinedeficsError:
    context = getattr(error, "ctx", None)
    place = context.command_path if context is not None else command
    thing = " ".join(error.format_message().split()).rstrip(".")
    return wrong_use(thing[:1].lower() + thing[1:], place=place, cure=f"see `{place} --help`")


if __name__ == "__main__":
    sys.exit(main())
