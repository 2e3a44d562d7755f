"""`finedefics train --dry-run`: what a run would take, as tables or as one JSON object."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.markup import escape

from .console import Reporter

if TYPE_CHECKING:
    from finedefics_platform.base.workspace import Workspace
    from finedefics_platform.config.experiment import Experiment
    from finedefics_platform.training.forecast import Forecast, StageForecast


def dry_run(workspace: "Workspace", experiment: "Experiment", gpu_memory: str | None, out: Reporter) -> None:
    """Tell what the experiment would take, and whether it fits its cards; nothing is trained.

    Args:
        gpu_memory: of a card, as text (``80GiB``); default: what the cards of this machine have.

    Raises:
        FinedeficsError: nothing can be told of the model, or ``gpu_memory`` is no size (exit code 2).
    """
    from finedefics_platform.training.forecast import GIB, bytes_of, card_memory, changes_that_fit, forecast
    from finedefics_platform.training.forecast.measured import measured

    gpus = experiment.resources.gpus_per_worker
    card = bytes_of(gpu_memory) if gpu_memory else card_memory(gpus)
    told = forecast(workspace, experiment)
    _show_model(told, out)
    for stage in told.stages:
        _show_stage(told, stage, experiment.resources.processes, out)
    ran = measured(workspace, experiment, told)
    if ran is not None:
        out.say(
            f"stage {escape(ran.stage)}, its largest batch run once, forward and backward, here: "
            f"{ran.bytes / GIB:.2f} GiB at its peak, {ran.foretold / GIB:.2f} foretold"
        )
    total = told.largest.total
    changes, fits = changes_that_fit(workspace, experiment, told, card) if card else ([], None)
    fits_as_it_is = None if card is None else total <= card
    if card is None:
        out.say(
            f"a rank takes {total / GIB:.1f} GiB; --gpu-memory 80GiB tells whether that fits"
            if gpus
            else f"a rank takes {total / GIB:.2f} GiB of this machine's memory"
        )
    elif fits_as_it_is:
        out.say(f"[green]fits[/]: {total / GIB:.1f} of {card / GIB:.1f} GiB a card")
    else:
        out.say(f"[red]does not fit[/]: {total / GIB:.1f} of {card / GIB:.1f} GiB a card")
        rows = [(f"--set {c.setting}", f"{c.bytes / GIB:.1f}", c.costs) for c in changes]
        out.table("what to change, one after the other", ("setting", "GiB then", "costs"), rows)
        if not fits:
            out.say("[red]and no setting makes it fit[/]: take larger cards, or more of them with ZeRO 3")
    out.done(
        **told.as_dict(),
        card=card,
        fits=fits_as_it_is,
        changes=[asdict(change) for change in changes],
        fits_changed=fits,
        measured=asdict(ran) if ran else None,
    )


def _show_model(told: "Forecast", out: Reporter) -> None:
    out.say(f"sizes: {escape(told.source)}")
    rows = [(part.name, f"{part.parameters:,}", f"{part.trained:,}") for part in told.parts]
    sums = (sum(part.parameters for part in told.parts), sum(part.trained for part in told.parts))
    out.table("parameters", ("part", "all", "trained"), [*rows, ("sum", *(f"{count:,}" for count in sums))])


def _show_stage(told: "Forecast", stage: "StageForecast", ranks: int, out: Reporter) -> None:
    from finedefics_platform.training.forecast import GIB

    kinds = ", ".join(f"{kind} {count:,}" for kind, count in stage.tokens.items())
    out.say(
        f"stage [bold]{escape(stage.name)}[/]: {stage.steps} steps, {stage.pictures:,} pictures; "
        f"tokens a step: {kinds} ({escape(told.reckoned)})"
    )
    here = [portion for portion in stage.memory if not portion.host]
    rows = [(portion.part, f"{portion.bytes / GIB:.2f}", portion.how) for portion in here]
    title = f"memory a rank (of {ranks}), GiB"
    out.table(title, ("part", "GiB", "how"), [*rows, ("sum", f"{stage.total / GIB:.2f}", "")])
    if stage.kept is not None:
        out.say(
            f"compute.cache_vision keeps {stage.kept / 2**20:.2f} MiB a picture on disk: "
            f"{stage.kept * 100_000 / GIB:,.0f} GiB of 100,000 pictures"
        )
    if stage.host:
        away = ((p.part, f"{p.bytes / GIB:.2f}", p.how) for p in stage.memory if p.host)
        rows = [*away, ("sum", f"{stage.host / GIB:.2f}", "")]
        out.table("offloaded to the machine's memory a rank, GiB", ("part", "GiB", "how"), rows)
