"""`finedefics data label`: what training pictures without a label are taken for."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.markup import escape

from .console import Reporter, reporter
from .made import finish


def label(
    dataset: Annotated[str, typer.Argument(help="A dataset: name, name@digest, or the path of a version.")],
    labeller: Annotated[
        str,
        typer.Option(
            "--labeller",
            help="reading:MODEL (a language model names the category from the description), alignment:RUN (a "
            "tuned model's own answer), agreement:RUN (both), file:PATH (CSV, JSONL or Parquet of yours), or "
            "a .py file.",
        ),
    ],
    precision: Annotated[
        float,
        typer.Option("--precision", help="Share of accepted labels that must be right on known pictures."),
    ] = 0.9,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="float32, bfloat16 or float16; default: what the model is stored in."),
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Pictures or texts that go through it together.")
    ] = 32,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option("--gpus-per-worker", min=0, help="Default: 1 where the cluster has a GPU."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Infer labels of the training pictures that have none, for the feed `inferred` of an experiment.

    The labeller is scored first on pictures whose label is known, never on those of the split test; labels
    are accepted from the lowest probability on that has the wanted precision there.

    Example: `finedefics data label birds --labeller reading:HuggingFaceM4/idefics2-8b`

    Example: `finedefics data label birds --labeller agreement:joint-1a2b --precision 0.95`

    Example: `finedefics data label birds --labeller file:labels.csv`
    """
    from finedefics.embedders import Settings
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.data.labelling import label as run
    from finedefics_platform.models.labellers import resolve_labeller

    out = reporter(json)
    workspace = open_workspace()
    made = run(
        workspace,
        dataset,
        labeller=resolve_labeller(workspace, labeller),
        precision=precision,
        settings=Settings(dtype, batch_size),
        gpus_per_worker=gpus_per_worker,
        progress=out,
    )
    about = made.manifest["provenance"]["labels"]
    _show(out, about)
    following = f"give a stage of an experiment the feed `inferred`, with data.dataset: {made.reference}"
    finish(out, made, following, inferred=about["inferred"], accepted=about["accepted"])


def _show(out: Reporter, about: Mapping[str, Any]) -> None:
    scored, chosen = about["scored"], about["threshold_scored"]
    if scored["curve"]:
        out.table(
            f"Scored on {scored['pictures']} known pictures of {' and '.join(scored['splits'])}",
            ["from probability", "precision %", "95 % interval", "coverage %", "pictures"],
            [
                [
                    f"{point['threshold']:.3f}",
                    f"{100 * point['precision']:.1f}",
                    f"{100 * point['low']:.1f} to {100 * point['high']:.1f}",
                    f"{100 * point['coverage']:.1f}",
                    point["pictures"],
                ]
                for point in scored["curve"]
            ],
        )
        out.say(
            f"accuracy {100 * scored['accuracy']:.1f} %, expected calibration error "
            f"{100 * scored['ece']:.1f} points, all categories competing"
        )
    if chosen is None:
        out.say(
            "[yellow]not scored[/]: the file names too few pictures whose label is known, so that all of its "
            "labels are believed"
        )
    else:
        out.say(
            f"from {chosen['threshold']:.3f} on, {100 * chosen['precision']:.1f} % of {chosen['pictures']} "
            f"known pictures are right (95 % interval {100 * chosen['low']:.1f} to "
            f"{100 * chosen['high']:.1f})"
        )
    out.say(
        f"{about['accepted']} of {about['asked']} training pictures without a label get one; "
        f"{about['inferred']} were inferred: {escape(about['labeller'])}"
    )
