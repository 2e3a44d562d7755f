"""`finedefics evaluate`: how right a model is, with intervals, and into the registry if wished."""

import time
from typing import Annotated

import typer

from finedefics.errors import wrong_use

from .console import reporter
from .figures import say_recorded, show_figures

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def evaluate(
    data: Annotated[str, typer.Option("--data", help="Dataset whose pictures are answered.")],
    model: Annotated[
        str | None, typer.Argument(help="Run key, model folder, or registered model (birds@champion).")
    ] = None,
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
            help="By comma: names, names_corrected, names_free, alignment, alignment_plain, "
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
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="float32, bfloat16 or float16; default: what the model was trained in."),
    ] = None,
    micro_tokens: Annotated[
        int | None,
        typer.Option(
            "--micro-tokens",
            min=1,
            help="Most tokens held at a time; default: 65,536, or what fits.",
        ),
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(
            "--gpus-per-worker",
            min=0,
            help="Default: 1 where the cluster has a GPU; a model larger than one is spread over several.",
        ),
    ] = None,
    register: Annotated[
        str | None,
        typer.Option("--register", help="Register the run under this name, or add to what a version showed."),
    ] = None,
    json: Json = False,
) -> None:
    """Answer every picture of a split, on all categories and on hard options, with 95 % intervals.

    Options are the most similar wrong categories that are mined, random ones where too few are; of fewer than
    four categories all are asked. With --options the questions are those of a published file, matched by file
    name. An evaluation that was cut off goes on where it was when it is run again.

    Example: `finedefics evaluate joint-1a2b3c4d5e6f --data birds --register birds`

    Example: `finedefics evaluate --encoder vision:facebook/dinov2-base --data birds`
    """
    if encoder is not None or model is None:
        from .evaluate_encoder import evaluate_encoder

        if calibration != "auto":
            raise wrong_use("an encoder is not calibrated", place="--calibration", cure="leave it out")
        if micro_tokens is not None:
            raise wrong_use("an encoder has no language model", place="--micro-tokens", cure="leave it out")
        return evaluate_encoder(
            model, encoder, data, answers, split, limit, options, register, json, dtype, gpus_per_worker
        )
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.config.experiment import Evaluation
    from finedefics_platform.config.section import parse_document
    from finedefics_platform.data.store import open_dataset
    from finedefics_platform.evaluation import run as evaluation
    from finedefics_platform.evaluation.checks import check_evaluable
    from finedefics_platform.evaluation.recording import record_evaluation
    from finedefics_platform.models.references import open_model
    from finedefics_platform.models.registration import check_registrable, made_by, register_evaluated

    out = reporter(json)
    workspace = open_workspace()
    asked = {
        "split": split,
        "answers": tuple((answers or "names,alignment,describe").split(",")),
        "limit": limit,
        "calibration": calibration,
        "dtype": dtype,
        "micro_tokens": micro_tokens,
    }
    settings = parse_document(Evaluation, asked, place="finedefics evaluate")
    check_evaluable(open_dataset(workspace, data), settings)  # before a model is fetched
    opened = open_model(workspace, model)
    if register:
        check_registrable(register, opened)
    began = time.time()
    done = evaluation.evaluate(
        workspace,
        opened.place,
        data,
        settings,
        labelled=opened.labelled,
        options=options,
        gpus_per_worker=gpus_per_worker,
        progress=out,
    )
    recorded = record_evaluation(workspace, done, model, run=opened.run, run_id=made_by(opened), began=began)
    tables = show_figures(out, model, done, settings.options)
    say_recorded(out, done, recorded)
    placed = done.summary["placed"]
    where = f"{placed['cards']} of its cards" if placed["cards"] else "the CPU"
    out.say(f"a process held the model on {where}, at most {placed['micro_tokens']:,} tokens at a time")
    for answer, share in done.summary["unparseable"].items():
        if share:
            out.say(f"{answer}: {100 * share:.1f} % of the replies named no category or option (wrong above)")
    version = None
    if register:
        version = register_evaluated(workspace, register, opened, done).reference
        promote = f"finedefics models promote {version.replace('/', ' ')} --reason '…'"
        out.say(f"added to {version}" if opened.version else f"registered {version}; next: {promote}")
    out.done(
        model=model,
        folder=str(done.place),
        summary=done.summary,
        tables=tables,
        version=version,
        mlflow_run=recorded.run_id,
    )
