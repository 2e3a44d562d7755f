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
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show the workspace's runs and models in MLflow's web interface, until Ctrl-C.

    Example: `finedefics ui --port 0`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.tracking.interface import LOOPBACK, serve_interface

    out = reporter(json)
    signal.signal(signal.SIGTERM, _stop)
    if host not in LOOPBACK:
        out.say("[yellow]Whoever reaches this address can change and delete runs.[/]")
    try:
        with serve_interface(open_workspace(), host=host, port=port, progress=out) as interface:
            out.event("ready", url=interface.url)
            out.say(f"Runs and models: {escape(interface.url)} (Ctrl-C ends it)")
            interface.wait()
    except KeyboardInterrupt:
        out.done()


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt  # a service manager's SIGTERM ends the server as a Ctrl-C does
