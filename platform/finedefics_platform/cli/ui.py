"""`finedefics ui`: browse and compare runs in MLflow's web interface."""

import signal
from types import FrameType
from typing import Annotated

import typer
from rich.markup import escape

from .console import reporter


def ui(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 5000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    open_: Annotated[bool, typer.Option("--open", help="Open the runs in a browser.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show the workspace's runs and models in MLflow's web interface, until Ctrl-C.

    The address that is printed first is that of the newest runs; each experiment's runs and each model's
    champion have a line of their own.

    Example: `finedefics ui --port 0 --open`
    """
    import webbrowser

    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.tracking.interface import LOOPBACK, serve_interface
    from finedefics_platform.tracking.pages import pages_of

    out = reporter(json)
    signal.signal(signal.SIGTERM, _stop)
    try:
        with serve_interface(open_workspace(), host=host, port=port, progress=out) as interface:
            pages = pages_of(interface.url)
            out.event(
                "ready", url=interface.url, start=pages.start, runs=pages.runs, champions=pages.champions
            )
            if host not in LOOPBACK:
                out.say("[yellow]Whoever reaches this address can change and delete runs.[/]")
            out.say(f"[bold]{escape(pages.start)}[/] (Ctrl-C ends it)")
            for what, links in (("runs of", pages.runs), ("champion of", pages.champions)):
                for name, link in links.items():
                    out.say(f"  {what} {escape(name)}: {escape(link)}")
            if open_:
                webbrowser.open(pages.start)
            interface.wait()
    except KeyboardInterrupt:
        out.done()


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt  # a service manager's SIGTERM ends the server as a Ctrl-C does
