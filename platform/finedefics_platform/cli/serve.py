"""`finedefics serve`: a model behind an address of this machine, until Ctrl-C."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from finedefics.errors import wrong_use
from finedefics_platform.base.signals import Terminated

from .console import reporter
from .model_options import Dtype, MicroTokens

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def serve(
    model: Annotated[
        str, typer.Argument(help="Run key, model folder, or registered model (birds@champion).")
    ],
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8000,
    answer: Annotated[
        str, typer.Option("--answer", help="How: alignment, names, describe, ensemble …")
    ] = "alignment",
    unknown: Annotated[
        bool,
        typer.Option(
            "--unknown", help="Answer `unknown` below the threshold that an evaluation stored with the index."
        ),
    ] = False,
    categories: Annotated[
        Path | None,
        typer.Option(
            "--categories", help="File of the names that compete, in place of the model's own (see predict)."
        ),
    ] = None,
    replicas: Annotated[
        int, typer.Option("--replicas", min=1, help="Processes that hold the model each.")
    ] = 1,
    batch: Annotated[
        int, typer.Option("--batch", min=1, max=256, help="Pictures that go through together at most.")
    ] = 16,
    queue: Annotated[
        int, typer.Option("--queue", min=1, help="Pictures taken in at a time; more are refused (503).")
    ] = 128,
    max_upload: Annotated[
        float, typer.Option("--max-upload", min=0.01, help="MiB of a picture at most.")
    ] = 20,
    nearest: Annotated[
        int,
        typer.Option(
            "--nearest", min=0, help="Training pictures a category to look for near ones in; 0: none."
        ),
    ] = 8,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Dataset of those pictures; default: what the model was trained on."),
    ] = None,
    gpus_per_replica: Annotated[
        float | None,
        typer.Option("--gpus-per-replica", min=0, help="Default: 1 where the cluster has a GPU."),
    ] = None,
    dtype: Dtype = None,
    micro_tokens: MicroTokens = None,
    json: Json = False,
) -> None:
    """Answer pictures over HTTP, and show a page to drop them on, until Ctrl-C or SIGTERM.

    Whoever asks has to know the token: FINEDEFICS_SERVE_TOKEN, or one that is made and printed once. Loopback
    only unless --host says otherwise; put a proxy that speaks HTTPS before it then.

    Example: `finedefics serve birds@champion`

    Example: `curl -H "Authorization: Bearer TOKEN" --data-binary @bird.jpg http://127.0.0.1:8000/predict`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.models.categories import answerable
    from finedefics_platform.models.category_file import read_categories

    try:
        from finedefics_platform.serving.run import LOOPBACK, Settings, serving
    except ImportError as error:
        cure = "pip install 'finedefics[serve]'"
        thing = f"Ray Serve cannot be used ({error.name} is missing)"
        raise wrong_use(thing, place="finedefics serve", cure=cure) from error
    out = reporter(json)
    workspace = open_workspace()
    found = answerable(workspace, model, None if categories is None else read_categories(categories))
    settings = Settings(
        host=host,
        port=port,
        answer=answer,
        unknown=unknown,
        replicas=replicas,
        batch=batch,
        queue=queue,
        most_bytes=int(max_upload * 2**20),
        nearest=nearest,
        data=data,
        dtype=dtype,
        micro_tokens=micro_tokens,
        gpus=gpus_per_replica,
    )
    if host not in LOOPBACK:
        out.say(
            "[yellow]Whoever reaches this address and knows the token can ask, and pictures and token travel "
            "unencrypted: put a proxy that speaks HTTPS before it.[/]"
        )
    try:
        with serving(workspace, found, settings, out) as server:
            shown = server.token if server.generated else None
            front = server.front
            out.event("ready", url=server.url, token=shown, model=model, device=server.device)
            out.say(
                f"{escape(model)} by {answer}, {len(front.categories)} categories, {replicas} on "
                f"{server.device} (Ctrl-C ends it)"
            )
            page = f"{server.url}#token={shown}" if shown else server.url
            out.say(f"page    {escape(page)}")
            if shown is None:
                out.say("token   that of FINEDEFICS_SERVE_TOKEN")
            if front.training.note:
                out.say(f"no training pictures beside answers: {escape(front.training.note)}")
            server.until_ended()
    except (KeyboardInterrupt, Terminated):
        out.say("ended")
    out.done(model=model)
