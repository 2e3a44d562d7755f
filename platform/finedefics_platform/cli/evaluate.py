"""`finedefics evaluate`: how right a model is, with intervals, and into the registry if wished."""

import time
from pathlib import Path
from typing import Annotated

import typer

from finedefics.errors import wrong_use

from .console import reporter
from .details import show_details, show_probes
from .figures import say_recorded, show_figures
from .model_options import Dtype, GpusPerWorker, MicroTokens

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def evaluate(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A run's key, a registered model (birds@champion, models:/birds/3), a model folder, or a "
            "model on the Hugging Face hub (owner/name, owner/name@revision)."
        ),
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="Dataset whose pictures are answered.")] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            help="In place of a model a frozen encoder: clip:MODEL, vision:MODEL, tuned:MODEL, a .py file.",
        ),
    ] = None,
    answers: Annotated[
        str | None,
        typer.Option(
            "--answers",
            help="By comma: names, names_corrected, names_free, names_open, alignment, alignment_plain, "
            "alignment_calibrated, alignment_names, alignment_descriptions, describe, letters, "
            "letters_foci, letters_likelihood, ensemble "
            "[default: names,alignment,describe]; of an encoder zero_shot, zero_shot_texts, knn, "
            "linear_probe [default: all it can, but zero_shot_texts].",
        ),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="val or test.")] = "test",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Use only so many pictures.")] = None,
    calibration: Annotated[
        str,
        typer.Option(
            "--calibration",
            help="Of alignment against hubs: on, off, or auto (on where that is righter on val).",
        ),
    ] = "auto",
    options: Annotated[
        str | None,
        typer.Option("--options", help="A published file of questions (FOCI), asked as it stands."),
    ] = None,
    rotations: Annotated[
        str | None,
        typer.Option(
            "--rotations",
            help="Ask letters in so many orders of their options, or all: does a choice follow its place?",
        ),
    ] = None,
    unknown: Annotated[
        str,
        typer.Option(
            "--unknown",
            help="Choose on val below which score a picture is unknown: auto (answers that read the "
            "embedding), on (every answer, asked on val too) or off.",
        ),
    ] = "auto",
    probes: Annotated[
        bool,
        typer.Option("--probes", help="Also probe the object embeddings, and those of the run's base."),
    ] = False,
    per_category: Annotated[
        bool, typer.Option("--per-category", help="Show every category, not the hardest few.")
    ] = False,
    dtype: Dtype = None,
    micro_tokens: MicroTokens = None,
    gpus_per_worker: GpusPerWorker = None,
    register: Annotated[
        str | None,
        typer.Option("--register", help="Register the run under this name, or add to what a version showed."),
    ] = None,
    from_predictions: Annotated[
        list[str] | None,
        typer.Option(
            "--from-predictions",
            help="In place of a model a file of replies (FOCI predictions, JSON lines); may be repeated.",
        ),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            help="Beside --from-predictions, for each: another method's file, or with --data an evaluation.",
        ),
    ] = None,
    parse: Annotated[
        str | None,
        typer.Option(
            "--parse",
            help="Of --from-predictions whose figures lead: strict, or foci as published [default: strict].",
        ),
    ] = None,
    items: Annotated[
        str | None,
        typer.Option("--items", help="Of --from-predictions write the item table here (Parquet)."),
    ] = None,
    json: Json = False,
) -> None:
    """Answer every picture of a split, on all categories and on hard options, with 95 % intervals.

    Options are the most similar wrong categories that are mined, random ones where too few are; of fewer than
    four categories all are asked. With --options the questions are those of a published file, matched by file
    name. An evaluation that was cut off goes on where it was when it is run again. Where its files lie is
    printed last.

    Example: `finedefics evaluate joint-1a2b3c4d5e6f --data birds --register birds`

    Example: `finedefics evaluate birds@champion --data birds --answers letters,letters_foci --rotations all`

    Example: `finedefics evaluate --encoder vision:facebook/dinov2-base --data birds`

    Example: `finedefics evaluate --from-predictions ours.json --against theirs.json`
    """
    if from_predictions:
        from .evaluate_predictions import evaluate_predictions

        others: dict[str, object] = {"MODEL": model, "--encoder": encoder, "--limit": limit}
        others |= {"--options": options, "--register": register, "--rotations": rotations}
        others |= {"--dtype": dtype, "--micro-tokens": micro_tokens, "--gpus-per-worker": gpus_per_worker}
        changed = {"--calibration": calibration != "auto", "--unknown": unknown != "auto"}
        changed |= {"--probes": probes, "--per-category": per_category}
        others |= {name: True for name, given in changed.items() if given}
        return evaluate_predictions(
            from_predictions, against or (), parse, items, data, split, answers, others, json
        )
    for name, value in (("--against", against), ("--parse", parse), ("--items", items)):
        if value:
            raise wrong_use(f"{name} without --from-predictions", place=name, cure="name a file of replies")
    if data is None:
        raise wrong_use("missing option '--data'", place="finedefics evaluate", cure="name a dataset")
    if encoder is not None or model is None:
        from .evaluate_encoder import evaluate_encoder

        if calibration != "auto":
            raise wrong_use("an encoder is not calibrated", place="--calibration", cure="leave it out")
        _refuse(
            {
                "--micro-tokens": micro_tokens is not None,
                "--rotations": rotations is not None,
                "--unknown": unknown != "auto",
                "--probes": probes,
            }
        )
        return evaluate_encoder(
            model,
            encoder,
            data,
            answers,
            split,
            limit,
            options,
            register,
            json,
            dtype,
            gpus_per_worker,
            per_category=per_category,
        )
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.config.experiment import Evaluation
    from finedefics_platform.config.section import parse_document
    from finedefics_platform.data.store import open_dataset
    from finedefics_platform.evaluation import run as evaluation
    from finedefics_platform.evaluation.checks import check_evaluable
    from finedefics_platform.evaluation.recording import record_evaluation
    from finedefics_platform.models.references import base_of_model, open_model, trained_on
    from finedefics_platform.models.registration import check_registrable, made_by, register_evaluated
    from finedefics_platform.models.registry import check_name

    if register is not None:
        check_name(register)  # before anything is looked for
    out = reporter(json)
    workspace = open_workspace()
    asked = {
        "split": split,
        "answers": tuple((answers or "names,alignment,describe").split(",")),
        "limit": limit,
        "calibration": calibration,
        "dtype": dtype,
        "micro_tokens": micro_tokens,
        "rotations": _orders(rotations),
        "unknown": unknown,
    }
    settings = parse_document(Evaluation, asked, place="finedefics evaluate")
    categories = check_evaluable(open_dataset(workspace, data), settings)  # before a model is fetched
    opened = open_model(workspace, model)
    if register is not None:
        check_registrable(register, opened)
    base = base_of_model(workspace, opened) if probes else None
    if opened.hub:
        out.say(f"{model} is {opened.hub}, whose own code is not run")
    began = time.time()
    done = evaluation.evaluate(
        workspace,
        opened.place,
        data,
        settings,
        labelled=opened.labelled,
        options=options,
        trained_on=trained_on(opened),
        called=opened.called,
        gpus_per_worker=gpus_per_worker,
        progress=out,
    )
    called = opened.called or Path(model).name  # a folder's place is of this machine
    recorded = record_evaluation(workspace, done, called, run=opened.run, run_id=made_by(opened), began=began)
    tables = show_figures(out, model, done, settings.options)
    names = {category.category_id: category.name for category in categories}
    details = show_details(out, done, names, per_category=per_category)
    if base is not None:
        from finedefics_platform.evaluation.probing import BASE, TUNED, probe

        places = {BASE: base.place, TUNED: opened.place}
        details["probes"] = probe(
            workspace, places, data, settings, gpus_per_worker=gpus_per_worker, progress=out
        )
        show_probes(out, details["probes"])
    placed = done.summary["placed"]
    where = f"{placed['cards']} of its cards" if placed["cards"] else "the CPU"
    out.say(f"a process held the model on {where}, at most {placed['micro_tokens']:,} tokens at a time")
    for answer, share in done.summary["unparseable"].items():
        if share:
            out.say(f"{answer}: {100 * share:.1f} % of the replies named no category or option (wrong above)")
    version = None
    if register is not None:
        version = register_evaluated(workspace, register, opened, done).reference
        promote = f"finedefics models promote {version.replace('/', ' ')} --reason '…'"
        out.say(f"added to {version}" if opened.version else f"registered {version}; next: {promote}")
    say_recorded(out, done, recorded)
    out.done(
        model=model,
        folder=str(done.place),
        summary=done.summary,
        tables=tables,
        **details,
        version=version,
        mlflow_run=recorded.run_id,
    )


def _orders(rotations: str | None) -> int | str | None:
    """How many orders of the options ``--rotations`` asks for."""
    if rotations is None or rotations == "all":
        return rotations
    if not rotations.isdecimal() or int(rotations) < 2:
        raise wrong_use(
            f"{rotations!r} is no number of orders", place="--rotations", cure="give all, or 2 or more"
        )
    return int(rotations)


def _refuse(given: dict[str, bool]) -> None:
    """Options that ask for something of a language model, where a frozen encoder is evaluated."""
    for option, there in given.items():
        if there:
            raise wrong_use("an encoder has no language model", place=option, cure="leave it out")
