"""Labellers by what a user calls their models: a run, a registered version, a folder, a hub name."""

from pathlib import Path

from finedefics.errors import wrong_use
from finedefics.labellers.agreement import BETWEEN
from finedefics.registry import split_spec
from finedefics_platform.base.workspace import INSIDE, Workspace
from finedefics_platform.models.references import OpenedModel, open_model
from finedefics_platform.models.registry import is_registered
from finedefics_platform.training.identity import base_folder


def resolve_labeller(workspace: Workspace, spec: str) -> str:
    """The labeller with the places of its models, as `finedefics_platform.data.labelling.label` takes it.

    Of ``agreement:RUN`` these are the run's model and the one that it was tuned from.

    Raises:
        FinedeficsError: nothing has this name, or what agrees is no run.
    """
    name, argument = (spec, None) if spec.endswith(".py") else split_spec(spec)
    if not argument or name not in ("reading", "alignment", "agreement"):
        return spec
    if name == "reading" and not _is_ours(workspace, argument):
        return spec
    if name != "agreement":
        already = argument.startswith(INSIDE) or "://" in argument
        return spec if already else f"{name}:{_place(workspace, open_model(workspace, argument))}"
    if BETWEEN in argument:
        return spec
    opened = open_model(workspace, argument)
    if opened.run is None:
        raise wrong_use(
            "only a run says which model it was tuned from",
            place=f"labeller {spec}",
            cure="give a run's key, or both models: agreement:TUNED,BASE",
        )
    model = opened.run.experiment().model
    base = model.path if model.path.startswith(INSIDE) else str(base_folder(workspace, model))
    return f"{name}:{_place(workspace, opened)}{BETWEEN}{base}"


def _place(workspace: Workspace, opened: OpenedModel) -> str:
    return workspace.name_of(opened.place)


def _is_ours(workspace: Workspace, reference: str) -> bool:
    """Whether it is called by a run's key or a registered name, rather than by a folder or on the hub."""
    if reference.startswith((INSIDE, ".", "~", "/")) or "://" in reference or Path(reference).is_dir():
        return False
    runs = [] if "/" in reference else [place.name for place in workspace.runs.children()]
    return any(run.startswith(reference) for run in runs) or is_registered(workspace, reference)
