"""`finedefics init`: a commented experiment that fits a dataset, to start from."""

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from finedefics.errors import wrong_use
from finedefics.model_paths import check_there

from .console import reporter

if TYPE_CHECKING:
    from finedefics_platform.base.workspace import Workspace
    from finedefics_platform.data.store import Dataset
    from finedefics_platform.training.starter import Machine


def init(
    dataset: Annotated[str, typer.Argument(help="A dataset, or the folder that one was ingested from.")],
    model: Annotated[
        str | None, typer.Option("--model", help="Folder or hub name; default: one for this machine.")
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", help="File to write; default: DATASET.yaml.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Write an experiment that fits a dataset: its feeds, negatives and splits, in sizes for this machine.

    Example: `finedefics init parts --model models/base`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.config.documents import parse_yaml
    from finedefics_platform.config.experiment import parse_experiment
    from finedefics_platform.training.checks import check
    from finedefics_platform.training.starter import Facts, starter_experiment

    out = reporter(json)
    found = find_dataset(open_workspace(), dataset)
    file = Path(output or f"{found.name}.yaml")
    if file.exists() and not force:
        raise wrong_use("this file is there already", place=str(file), cure="add --force, or --output FILE")
    if model is not None:
        check_there(model)
    text = starter_experiment(Facts.of(found), this_machine(), model)
    experiment = parse_experiment(parse_yaml(text, place=str(file)), place=str(file))
    check(experiment, found, validating=True)
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise wrong_use(
            f"cannot be written ({error.strerror})", place=str(file), cure="give another --output"
        ) from error
    stage = experiment.stages[0]
    out.say(f"[green]wrote {escape(str(file))}[/]: {', '.join(stage.terms)}, {stage.steps} steps")
    if model is None:
        out.say(f"the model is {escape(experiment.model.path)}, from the hub: --model names another")
    out.say(f"next: finedefics train {escape(str(file))}")
    out.done(file=str(file), dataset=found.reference, experiment=experiment.model_dump(mode="json"))


def find_dataset(workspace: "Workspace", reference: str) -> "Dataset":
    """A dataset by its name, or the newest one that was ingested from this folder.

    Raises:
        FinedeficsError: there is none; for a folder with how to make one (exit code 2).
    """
    from finedefics_platform.base.storage import Location
    from finedefics_platform.data.store import MANIFEST, dataset_names, open_dataset

    known, path = dataset_names(workspace), Path(reference).expanduser()
    somewhere = path.exists() or "://" in reference
    if reference.partition("@")[0] in known or not somewhere or (path / MANIFEST).is_file():
        return open_dataset(workspace, reference)
    source = workspace.name_of(Location.of(reference if "://" in reference else str(path)))
    for name in known:
        found = open_dataset(workspace, name)
        if found.manifest["provenance"]["samples"].get("source") == source:
            return found
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", path.resolve().stem).strip("-.") or "NAME"
    raise wrong_use(
        "no dataset was made of this yet",
        place=reference,
        cure=f"make one: `finedefics data prepare {shlex.quote(reference)} --name {name}`",
    )


def this_machine() -> "Machine":
    """Cores and GPUs of this machine."""
    import os

    import torch

    from finedefics_platform.training.starter import Machine

    return Machine(len(os.sched_getaffinity(0)), torch.cuda.device_count())
