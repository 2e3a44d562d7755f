"""Whether a run fits its cards, and what to change where it does not, each change with its arithmetic."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from finedefics.backbones import FAMILIES
from finedefics.errors import FinedeficsError
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.documents import override
from finedefics_platform.config.experiment import Experiment, parse_experiment
from finedefics_platform.training.forecast.cards import GIB, card_memory
from finedefics_platform.training.forecast.forecast import Forecast, forecast_of
from finedefics_platform.training.forecast.source import Source, dataset_of, source_of

_TOLERANCE = 1.15  # a forecast is right within 15 %: what is refused is beyond that
_BUDGETS = (16384, 8192, 4096, 2048, 1024)


@dataclass(frozen=True)
class Change:
    """A setting that saves memory, and what a rank takes with it and all changes before it, in bytes."""

    setting: str
    costs: str
    bytes: int


def changes_that_fit(
    workspace: Workspace, experiment: Experiment, told: Forecast, card: int
) -> tuple[list[Change], bool]:
    """What to change, one after the other, until a rank fits a card; and whether it does then.

    Only what saves memory is named: first what costs least.
    """
    source, dataset = source_of(workspace, experiment), dataset_of(workspace, experiment)
    changes: list[Change] = []
    total = told.largest.total
    for key, value, costs in _possible(source, experiment, told.largest.tokens["forwarded"]):
        if total <= card:
            break
        changed = _with(experiment, key, value)
        if changed is None:
            continue
        source = _asked(workspace, source, changed, key)
        # only these change what the model is made of
        parts = None if key in ("model.dtype", "adapters.kind") else told.parts
        told_then = forecast_of(source, changed, dataset, parts)
        found = told_then.largest.total
        if found < total:
            experiment, told, total = changed, told_then, found
            changes = [change for change in changes if not change.setting.startswith(f"{key}=")]
            changes.append(Change(f"{key}={str(value).lower()}", costs, found))
    return changes, total <= card


def refuse_what_fits_nowhere(workspace: Workspace, experiment: Experiment) -> None:
    """Refuse a run whose workers take far more than their cards have, before anything is started.

    Only where GPUs are asked for and their memory is known; a forecast errs, so what is close to a card's
    memory is left to try.

    Raises:
        FinedeficsError: with the arithmetic, and the settings that would make it fit.
    """
    card = card_memory(experiment.resources.gpus_per_worker)
    if card is None:
        return
    try:
        told = forecast_of(source_of(workspace, experiment), experiment, dataset_of(workspace, experiment))
    except FinedeficsError:  # nothing can be told of this model, and it is loaded all the same
        return
    if told.largest.total <= card * _TOLERANCE:
        return
    raise does_not_fit(workspace, experiment, told, card)


def does_not_fit(workspace: Workspace, experiment: Experiment, told: Forecast, card: int) -> FinedeficsError:
    """The error of a run that fits no card of so many bytes."""
    stage = told.largest
    most = sorted(stage.memory, key=lambda portion: portion.bytes, reverse=True)
    sum_of = " + ".join(f"{p.part} {p.bytes / GIB:.1f}" for p in most if p.bytes > GIB / 20 and not p.host)
    changes, fits = changes_that_fit(workspace, experiment, told, card)
    settings = " ".join(f"--set {change.setting}" for change in changes)
    cure = f"train with {settings}" if fits else "take larger cards, or more of them with ZeRO 3"
    return FinedeficsError(
        f"a worker takes {stage.total / GIB:.1f} GiB of a card that has {card / GIB:.1f} ({sum_of})",
        place=f"stage {stage.name}",
        cure=cure,
    )


def _possible(source: Source, experiment: Experiment, tokens: int) -> Iterator[tuple[str, Any, str]]:
    """Settings that may save memory, in the order of what they cost."""
    many, adapted = experiment.resources.processes > 1, experiment.adapters.kind != "full"
    if experiment.model.dtype == "float32":
        yield "model.dtype", "bfloat16", "8 bits of precision in each product; the master copy stays float32"
    for name, value, why in FAMILIES[source.config.model_type].advice:
        if str(source.settings.get(name)).lower() != value:
            yield f"model.processor.{name}", _plain(value), f"detail of large pictures ({why})"
    each = tokens // experiment.resources.processes
    budgets = [budget for budget in _BUDGETS if budget < (experiment.compute.micro_tokens or each)]
    if budgets:
        yield "compute.micro_tokens", budgets[0], "every piece runs forward twice"
    if not experiment.compute.checkpointing:
        yield "compute.checkpointing", True, "a layer runs forward once more: about a third more time"
    for budget in budgets[1:]:
        yield "compute.micro_tokens", budget, "every piece runs forward twice, in smaller products"
    if many and experiment.deepspeed.zero_stage < 2:
        yield "deepspeed.zero_stage", 2, "nothing but the order of sums"
    if many and experiment.deepspeed.zero_stage < 3 and experiment.adapters.kind != "qlora":
        yield "deepspeed.zero_stage", 3, "weights are gathered for every pass"
    if experiment.deepspeed.offload == "none" and experiment.deepspeed.zero_stage:
        yield "deepspeed.offload", "optimizer", "the machine's memory, and steps on the CPU"
    if not adapted:
        yield (
            "adapters.kind",
            "lora",
            "what is learned is of a low rank; another run, with its own rate (2e-4)",
        )


def _plain(value: str) -> Any:
    import yaml

    return yaml.safe_load(value)


def _with(experiment: Experiment, key: str, value: Any) -> Experiment | None:
    """The experiment with another value; None where the two do not go together."""
    document = experiment.model_dump(mode="json")
    override(document, key, value, place=key)
    if key == "adapters.kind":  # which parts are tuned is for the adapters to say then
        del document["model"]["train"]
    if key == "model.dtype":  # DeepSpeed's bfloat16 needs ZeRO
        document["deepspeed"]["zero_stage"] = max(1, document["deepspeed"]["zero_stage"])
    try:
        return parse_experiment(document, place=key)
    except FinedeficsError:
        return None


def _asked(workspace: Workspace, source: Source, experiment: Experiment, key: str) -> Source:
    return source_of(workspace, experiment) if key.startswith("model.processor") else source
