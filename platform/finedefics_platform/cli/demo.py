"""`finedefics demo`: the whole journey by one command."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import reporter

if TYPE_CHECKING:
    pass


def demo(
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Of the world, the base model and the order.")
    ] = 0,
    rebuild_base: Annotated[bool, typer.Option("--rebuild-base", help="Teach the base model again.")] = False,
    small: Annotated[bool, typer.Option("--small", help="Fewer pictures and steps: a quick look.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Draw a world of birds, train seven arms, compare them, promote a model, and name pictures with it.

    Finished parts are reused. Example: `finedefics demo --seed 1`
    """
    import time

    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.demo.journey import SERVED, run_demo
    from finedefics_platform.demo.scale import FULL, SMALL
    from finedefics_platform.reporting.results_table import terminal_table

    out = reporter(json)
    started = time.monotonic()
    made = run_demo(
        open_workspace(),
        seed=seed,
        scale=SMALL if small else FULL,
        rebuild_base=rebuild_base,
        progress=out,
    )
    summary = made.summary
    out.show(terminal_table(summary.table, summary.differences))
    summaries = {arm: evaluated.summary for arm, evaluated in made.evaluations.items()}
    out.table(*_retrieval(summaries))
    out.table(*_cost(SERVED, summaries[SERVED]))
    for sentence in summary.sentences:
        out.say(f"  • {sentence}")
    minutes = (time.monotonic() - started) / 60
    out.say(f"\n[bold]done in {minutes:.1f} minutes[/]")
    out.say(f"table   {summary.table_file}")
    out.say(f"report  {summary.report_file}")
    out.say("runs    make ui   (MLflow on http://127.0.0.1:5000)")
    out.say(f"more    finedefics predict {made.version.name}@champion PICTURE.jpg")
    out.say(f"page    finedefics serve {made.version.name}@champion   (to drop a picture on)")
    out.done(
        table=str(summary.table_file),
        report=str(summary.report_file),
        model=f"{made.version.name}@champion",
        minutes=minutes,
        verdict=summary.sentences,
    )


def _retrieval(summaries: Mapping[str, Mapping[str, Any]]) -> tuple[str, list[str], list[list[str]]]:
    rows = [
        [
            arm,
            *(
                f"{100 * summary['retrieval'][key]:.0f}"
                for key in ("object_to_name", "object_to_description")
            ),
        ]
        for arm, summary in summaries.items()
    ]
    title = "Embedding retrieval: percent of pictures whose nearest text is their own (base is before)"
    return title, ["arm", "among names", "among descriptions"], rows


def _cost(arm: str, summary: Mapping[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    rows = [
        [answer, f"{tokens['forwarded']:.0f}", f"{tokens['generated']:.0f}"]
        for answer, tokens in summary["tokens_per_picture"].items()
    ]
    return (
        f"Cost of an answer: language-model tokens a picture ({arm})",
        ["answer", "forwarded", "generated"],
        rows,
    )
