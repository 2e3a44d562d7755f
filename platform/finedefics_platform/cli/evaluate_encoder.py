"""`finedefics evaluate --encoder`: what a frozen encoder reaches on the same pictures."""

import time

from finedefics.errors import wrong_use

from .console import reporter
from .details import show_details
from .figures import say_recorded, show_figures


def evaluate_encoder(
    model: str | None,
    encoder: str | None,
    data: str,
    answers: str | None,
    split: str,
    limit: int | None,
    options: str | None,
    register: str | None,
    json: bool,
    dtype: str | None,
    gpus_per_worker: float | None,
    *,
    per_category: bool = False,
) -> None:
    """Answer by an encoder, print the figures and what they can not say; arguments as of `evaluate`."""
    if (model is None) == (encoder is None):
        raise wrong_use(
            "neither a model nor an encoder is named"
            if model is None
            else "a model and an encoder are named",
            place="finedefics evaluate",
            cure="give a model, or --encoder with clip:MODEL, vision:MODEL, tuned:MODEL or a .py file",
        )
    assert encoder is not None
    if register:
        raise wrong_use(
            "an encoder is not registered: it is a baseline, and no version of a model",
            place="--register",
            cure="leave it out",
        )
    from finedefics.embedders import Settings
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.config.experiment import Evaluation
    from finedefics_platform.config.section import parse_document
    from finedefics_platform.data.store import open_dataset
    from finedefics_platform.evaluation.encoders import default_answers
    from finedefics_platform.evaluation.encoders import evaluate_encoder as run
    from finedefics_platform.evaluation.recording import record_evaluation

    from .mine import tuned_folder

    out = reporter(json)
    workspace = open_workspace()
    encoder_place = tuned_folder(workspace, encoder)
    wanted = tuple(answers.split(",")) if answers else default_answers(workspace, encoder_place, data)
    asked = {"split": split, "answers": wanted, "limit": limit}
    settings = parse_document(Evaluation, asked, place="finedefics evaluate")
    began = time.time()
    done = run(
        workspace,
        encoder_place,
        data,
        settings,
        options=options,
        embedding=Settings(dtype) if dtype else None,
        gpus_per_worker=gpus_per_worker,
        progress=out,
    )
    recorded = record_evaluation(workspace, done, encoder, began=began)
    tables = show_figures(out, encoder, done, settings.options)
    say_recorded(out, done, recorded)
    summary = done.summary
    for answer, able in summary["able"].items():
        if able < summary["categories"]:
            out.say(
                f"[yellow]{answer} can name {able} of {summary['categories']} categories[/]: it knows those "
                "with a labelled training picture, and is wrong on every other"
            )
    for answer, chosen in summary["chosen"].items():
        if chosen:
            out.say(f"{answer}: " + ", ".join(f"{key} {_short(value)}" for key, value in chosen.items()))
    names = {one.category_id: one.name for one in open_dataset(workspace, data).categories()}
    details = show_details(out, done, names, per_category=per_category)
    say_recorded(out, done, recorded)
    told = {"summary": summary, "tables": tables, **details, "mlflow_run": recorded.run_id}
    out.done(encoder=encoder, folder=str(done.place), **told)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
