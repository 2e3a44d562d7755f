"""`finedefics report`: a page a person wants to look at, of runs, a search or a study."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from finedefics.errors import FinedeficsError, wrong_use

from .console import reporter


def report(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN…",
            help="Runs (two or more are compared), a search or a study: keys, names, ids of `runs list`, "
            "or birds@champion.",
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="Write it here too [default: in the workspace alone]."),
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    title: Annotated[str | None, typer.Option("--title", help="Default: the names.")] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", help="Differences are to this arm [default: control, base, or the first]."),
    ] = None,
    pictures: Annotated[
        int, typer.Option("--pictures", min=0, help="The most pictures that the page holds.")
    ] = 200,
    record: Annotated[
        bool, typer.Option("--record/--no-record", help="Put the page on the runs in MLflow, as an artefact.")
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Write one HTML file that needs no network: verdict, accuracies, wrong answers with pictures, curves.

    A run that was not evaluated gets a report of what there is, and the commands that measure the rest.

    Example: `finedefics report joint-1a2b3c4d5e6f --open`

    Example: `finedefics report joint control --output comparison.html`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.comparison.making import make_report

    out, workspace = reporter(json), open_workspace()
    target = None if output is None else _writable(Path(output).expanduser())
    made = make_report(
        workspace, names, title=title, against=against, pictures=pictures, record=record, progress=out
    )
    if target is not None:
        _write(target, made.text)
    place = target or made.place.local
    for sentence in made.verdict:
        out.say(escape(sentence))
    for what, command in made.missing:
        out.say(f"[yellow]not known[/]: {escape(what)} [bold]{escape(command)}[/]")
    out.say(f"report  {escape(str(place or made.place))}")
    if show:
        if place is None:
            cure = "give --output FILE, and open that"
            raise FinedeficsError(
                "a browser opens no file in an object store", place=str(made.place), cure=cure
            )
        if not webbrowser.open(place.absolute().as_uri()):
            out.say("[yellow]no browser was found here[/]: copy the file, it needs nothing else")
    out.done(
        report=str(place or made.place),
        title=made.title,
        verdict=list(made.verdict),
        missing=[{"what": what, "command": command} for what, command in made.missing],
        mlflow_runs=list(made.recorded),
        bytes=len(made.text.encode()),
    )


def _writable(file: Path) -> Path:
    """The file, if it can be written: found out before minutes are spent."""
    if file.is_dir():
        raise wrong_use("this is a folder", place=f"--output {file}", cure="name a file, such as report.html")
    if not file.parent.is_dir():
        raise wrong_use("there is no such folder", place=f"--output {file}", cure=f"make {file.parent} first")
    return file


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FinedeficsError(
            f"cannot write here ({error.strerror})", place=str(file), cure="give another --output"
        ) from error
