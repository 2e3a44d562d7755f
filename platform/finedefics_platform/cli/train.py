"""`finedefics train | tune | evaluate | predict`: from an experiment file to names of pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from finedefics.errors import FinedeficsError, wrong_use

from .console import reporter

Set = Annotated[list[str] | None, typer.Option("--set", help="Override a key: --set stages.0.steps=10.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Force = Annotated[bool, typer.Option("--force", help="Start over, whatever was finished or saved.")]
PICTURES = (".jpg", ".jpeg", ".png")


def train(
    experiment: Annotated[str, typer.Argument(help="Experiment file (YAML).")],
    set_: Set = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Train an experiment's stages with Ray Train and DeepSpeed; an interrupted run goes on.

    Example: `finedefics train experiment.yaml --set data.dataset=birds --set model.path=MODEL`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.config.experiment import load_experiment
    from finedefics_platform.evaluation.run import validate_alignment
    from finedefics_platform.tracking.tracker import Tracker
    from finedefics_platform.training import run as training

    out = reporter(json)
    workspace = open_workspace()
    loaded = load_experiment(experiment, set_ or [])
    tracker = Tracker(workspace, loaded.tracking.experiment)
    run = training.train(
        workspace,
        loaded,
        tracker=tracker,
        progress=out,
        force=force,
        validate=validate_alignment,
    )
    out.say(f"trained [bold]{run.key}[/]: {run.model}")
    if waiting := tracker.waiting():
        out.say(f"[yellow]{waiting} entries wait for the tracking server[/]: finedefics runs sync sends them")
    out.say(f"next: finedefics evaluate {run.key} --data {loaded.data.dataset}")
    out.done(run=run.key, model=str(run.model), metrics=run.metrics, mlflow_run=run.parent_run_id)


def tune(
    search: Annotated[str, typer.Argument(help="Search file (YAML).")],
    set_: Set = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Search keys of an experiment with Ray Tune (Optuna, ASHA); an interrupted search goes on.

    Example: `finedefics tune search.yaml --set data.dataset=birds --set model.path=MODEL`
    """
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.search.run import load_search, run_search
    from finedefics_platform.tracking.tracker import Tracker

    out = reporter(json)
    workspace = open_workspace()
    loaded, document = load_search(search, set_ or [])
    tracker = Tracker(workspace, "finedefics")
    result = run_search(workspace, loaded, document, tracker=tracker, progress=out, force=force)
    keys = list(loaded.space)
    out.table(
        loaded.name,
        ["trial", *keys, loaded.metric, "step", "stopped early"],
        [
            [
                t["trial"],
                *(t["config"][key] for key in keys),
                t["metric"],
                t["step"],
                "yes" if t["stopped_early"] else "",
            ]
            for t in result.trials
        ],
    )
    out.done(search=result.folder.name, best=result.best, trials=result.trials)


def evaluate(
    model: Annotated[
        str, typer.Argument(help="Run key, model folder, or registered model (birds@champion).")
    ],
    data: Annotated[str, typer.Option("--data", help="Dataset whose pictures are answered.")],
    answers: Annotated[
        str,
        typer.Option(
            "--answers",
            help="By comma: names, names_corrected, names_free, alignment, alignment_names, "
            "alignment_descriptions, describe, letters, letters_foci, letters_likelihood, ensemble.",
        ),
    ] = "names,alignment,describe",
    split: Annotated[str, typer.Option("--split", help="val or test.")] = "test",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Use only so many pictures.")] = None,
    register: Annotated[
        str | None,
        typer.Option("--register", help="Register the run under this name, or add to what a version showed."),
    ] = None,
    json: Json = False,
) -> None:
    """Answer every picture of a split, on all categories and on hard options, with 95 % intervals.

    Example: `finedefics evaluate joint-1a2b3c4d5e6f --data birds --register birds`
    """
    from finedefics.evaluation.tables import accuracy_table
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.config.experiment import Evaluation
    from finedefics_platform.config.section import parse_document
    from finedefics_platform.evaluation import run as evaluation
    from finedefics_platform.models.references import open_model
    from finedefics_platform.models.registration import check_registrable, register_evaluated

    out = reporter(json)
    workspace = open_workspace()
    asked = {"split": split, "answers": tuple(answers.split(",")), "limit": limit}
    settings = parse_document(Evaluation, asked, place="finedefics evaluate")
    opened = open_model(workspace, model)
    if register:
        check_registrable(register, opened)
    done = evaluation.evaluate(
        workspace, opened.model, data, settings, labelled=opened.labelled, progress=out
    )
    speeds = {model: done.summary["pictures_per_second"]}
    tables = {
        scope: accuracy_table({model: done.items()}, speeds, scope)[model] for scope in ("all", "options")
    }
    for scope, table in tables.items():
        if table:
            out.table(
                "all categories" if scope == "all" else f"{settings.options} hard options",
                ["answer", "group", "accuracy %", "95 % interval", "pictures", "pictures/s"],
                _figures(table),
            )
    for answer, share in done.summary["unparseable"].items():
        if share:
            out.say(f"{answer}: {100 * share:.1f} % of the replies named no category or option (wrong above)")
    version = None
    if register:
        version = register_evaluated(workspace, register, opened, done).reference
        promote = f"finedefics models promote {version.replace('/', ' ')} --reason '…'"
        out.say(f"{'added to' if opened.version else 'registered'} {version}; next: {promote}")
    out.done(model=model, folder=str(done.folder), summary=done.summary, tables=tables, version=version)


def predict(
    pictures: Annotated[list[str], typer.Argument(help="Pictures, or folders of pictures.")],
    model: Annotated[str, typer.Option("--model", help="Registered model (birds@champion) or its folder.")],
    answer: Annotated[
        str, typer.Option("--answer", help="How: alignment, names, describe, ensemble …")
    ] = "alignment",
    top: Annotated[int, typer.Option("--top", min=1, help="Candidates shown a picture.")] = 3,
    json: Json = False,
) -> None:
    """Name what is in pictures, categories added with `finedefics categories add` among them.

    Example: `finedefics predict bird.jpg --model birds@champion --top 3`
    """
    files = _pictures(pictures)
    from finedefics.pictures import decode_image
    from finedefics.scoring import ANSWERS, as_mapping
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.models.categories import open_recogniser

    ANSWERS[answer]
    out = reporter(json)
    images = [decode_image(_read(file), str(file)) for file in files]
    recogniser = open_recogniser(open_workspace(), model)
    rows = []
    with out.progress("naming", len(files)) as advance:
        for file, image in zip(files, images, strict=True):
            ranking = as_mapping(recogniser.recognise([image], answer, top)[0])
            out.event("prediction", picture=str(file), answer=answer, candidates=ranking)
            rows.append([str(file), *(f"{c['name']} ({c['score']:.3f})" for c in ranking)])
            advance(1)
    shown = min(top, len(recogniser.categories))
    out.table(f"{model}, by {answer}", ["picture", *(f"{i + 1}." for i in range(shown))], rows)
    out.done(pictures=len(files), model=model)


def _pictures(given: list[str]) -> list[Path]:
    found = []
    for text in given:
        path = Path(text).expanduser()
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.suffix.lower() in PICTURES)
        elif path.is_file():
            found.append(path)
        else:
            raise wrong_use(
                "there is no such picture", place=text, cure="give a JPEG or PNG file or a folder of them"
            )
    if not found:
        raise wrong_use("no picture in it", place=", ".join(given), cure="give JPEG or PNG files")
    return found


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise FinedeficsError(
            f"cannot be read ({error.strerror})", place=str(file), cure="check its rights"
        ) from error


def _figures(table: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """One row for each answer and group."""
    rows = []
    for answer, cells in table.items():
        speed = f"{cells['pictures_per_second']:.0f}"
        for group in ("labelled", "new"):
            if cell := cells.get(group):
                percent = [f"{100 * cell[key]:.1f}" for key in ("accuracy", "low", "high")]
                rows.append([answer, group, percent[0], " to ".join(percent[1:]), str(cell["n"]), speed])
    return rows
