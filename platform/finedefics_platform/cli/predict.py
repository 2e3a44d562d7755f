"""`finedefics predict`: names of what is in pictures."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finedefics.errors import FinedeficsError, wrong_use

from .console import reporter
from .model_options import Dtype, MicroTokens

if TYPE_CHECKING:
    from PIL.Image import Image

    from finedefics.scoring import Recogniser
    from finedefics_platform.models.answerable import Answerable
    from finedefics_platform.models.unknown import Ranking, Told

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
TABLES = (".csv", ".parquet")
SHOWN = 200  # pictures whose names are shown to a person


def predict(
    model: Annotated[
        str, typer.Argument(help="Run key, model folder, or registered model (birds@champion).")
    ],
    images: Annotated[list[str], typer.Argument(help="Pictures, or folders of pictures.")],
    categories: Annotated[
        Path | None,
        typer.Option(
            "--categories",
            help="File of the names that compete, in place of the model's own: a name a line (and, behind a "
            "tab, its description), CSV or JSON lines with `name` and `description`.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", help="Also write them to this file (.csv or .parquet): a row a picture and candidate."
        ),
    ] = None,
    unknown: Annotated[
        bool,
        typer.Option(
            "--unknown", help="Answer `unknown` below the threshold that an evaluation stored with the index."
        ),
    ] = False,
    answer: Annotated[
        str, typer.Option("--answer", help="How: alignment, names, describe, ensemble …")
    ] = "alignment",
    top: Annotated[int, typer.Option("--top", min=1, help="Candidates shown a picture.")] = 3,
    dtype: Dtype = None,
    micro_tokens: MicroTokens = None,
    json: Json = False,
) -> None:
    """Name what is in pictures, categories added with `finedefics categories add` among them.

    A folder may be of any size: a batch of pictures is in memory at a time. A file that cannot be read is
    told on stderr and has a row with its error; the others are named, and the exit code is 1.

    Example: `finedefics predict birds@champion bird.jpg --top 3`

    Example: `finedefics predict ./my-model photos/ --categories names.txt --output names.csv`
    """
    files = _files(model, images)
    _check_output(output)
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.models.categories import answerable
    from finedefics_platform.models.category_file import read_categories

    chosen = None if categories is None else read_categories(categories)
    found = answerable(open_workspace(), model, chosen)
    from finedefics.scoring import ANSWERS

    ANSWERS[answer]
    named = _namer(found, answer, top, unknown)
    out = reporter(json)
    recogniser = found.load(dtype, micro_tokens)
    rows: list[list[str]] = []
    damaged = 0
    with out.progress("naming", len(files)) as advance, _written(output) as write:
        for some in _batches(files):
            said: list[Mapping[str, object]] = []
            for file, answered in _answers(recogniser, some, answer, top):
                error = str(answered) if isinstance(answered, FinedeficsError) else None
                ranking = [] if isinstance(answered, FinedeficsError) else _rows(named(answered))
                about = {"picture": file, "error": error}
                out.event("prediction", **about, answer=answer, candidates=ranking)
                # a picture that was answered with no category, or not at all, has a row too
                ranks = [{"rank": i + 1, **candidate} for i, candidate in enumerate(ranking)]
                said += [{**about, **one} for one in ranks or [{}]]
                if error:
                    damaged += 1
                    print(f"error: {error}", file=sys.stderr)
                elif len(rows) < SHOWN:
                    rows.append([file, *(f"{c['name']} ({c['score']:.3f})" for c in ranking)])
            write(said)
            advance(len(some))
    columns = max((len(row) for row in rows), default=1)
    out.table(f"{model}, by {answer}", ["picture", *(f"{i}." for i in range(1, columns))], rows)
    if len(files) - damaged > SHOWN:
        out.say(f"the first {SHOWN} of {len(files)} pictures" + ("" if output else "; --output keeps all"))
    kept = str(output) if output else None
    if damaged:
        out.event("failed", pictures=len(files), damaged=damaged, model=model, output=kept)
        raise typer.Exit(1)
    out.done(pictures=len(files), model=model, output=kept)


def _answers(
    recogniser: "Recogniser", some: "Mapping[str, Image | FinedeficsError]", answer: str, top: int
) -> "Iterator[tuple[str, Ranking | FinedeficsError]]":
    """Rankings of a batch of files, or why there is none; what the model refuses costs that picture alone."""
    pictures = {file: one for file, one in some.items() if not isinstance(one, FinedeficsError)}
    found: dict[str, Ranking | FinedeficsError] = {}
    try:
        if pictures:
            rankings = recogniser.recognise(list(pictures.values()), answer, top)
            found |= dict(zip(pictures, rankings, strict=True))
    except FinedeficsError as error:
        for file, picture in pictures.items():
            try:
                found[file] = recogniser.recognise([picture], answer, top)[0]
            except FinedeficsError as own:
                found[file] = FinedeficsError(own.thing, place=file, cure=own.cure)
        if len(pictures) > 1 and all(isinstance(one, FinedeficsError) for one in found.values()):
            raise error from None  # the model's fault, not theirs
    for file, one in some.items():
        yield file, one if isinstance(one, FinedeficsError) else found[file]


def _namer(found: "Answerable", answer: str, top: int, unknown: bool) -> "Callable[[Ranking], Told]":
    """What is told of a ranking: with ``unknown`` that comes first where the best score is too low."""
    if not unknown:
        return lambda ranking: [*ranking]
    from finedefics_platform.models.unknown import threshold_of

    return threshold_of(found.opened.reference, found.index, answer).applied(top)


def _rows(ranking: "Told") -> list[dict[str, object]]:
    return [{"category_id": i, "name": name, "score": round(score, 6)} for i, name, score in ranking]


def _files(model: str, given: Sequence[str]) -> list[str]:
    if Path(model).suffix.lower() in PICTURES:
        raise wrong_use("this is a picture", place=model, cure="name the model first: predict MODEL IMAGES…")
    found: dict[str, None] = {}
    for text in given:
        path = Path(text).expanduser()
        found |= dict.fromkeys(_in_folder(path) if path.is_dir() else [str(path)])
    if not any(Path(file).exists() for file in found):
        thing = "no picture in it" if not found else "there is no such picture"
        cure = f"give pictures ({', '.join(PICTURES)}) or folders of them"
        raise wrong_use(thing, place=", ".join(given), cure=cure)
    return list(found)


def _in_folder(folder: Path) -> list[str]:
    found = []
    for home, folders, names in os.walk(folder, onerror=_unreadable):
        folders.sort()
        found += [str(Path(home, name)) for name in sorted(names) if name.lower().endswith(PICTURES)]
    return found


def _unreadable(error: OSError) -> None:
    reason = (error.strerror or type(error).__name__).lower()
    raise FinedeficsError(
        f"the folder cannot be read ({reason})", place=str(error.filename), cure="check its rights"
    ) from error


def _check_output(table: Path | None) -> None:
    if table is None:
        return
    if table.suffix not in TABLES:
        raise wrong_use("neither CSV nor Parquet", place=str(table), cure="end it in .csv or .parquet")
    if not table.absolute().parent.is_dir():
        raise wrong_use("there is no such folder", place=str(table.parent), cure="make it first")


def _batches(files: Sequence[str]) -> "Iterator[dict[str, Image | FinedeficsError]]":
    """Files with their pictures, or with why there is none; as many as go through the model together."""
    from finedefics.scoring.recogniser import BATCH

    for start in range(0, len(files), BATCH):
        yield {file: _decoded(file) for file in files[start : start + BATCH]}


def _decoded(file: str) -> "Image | FinedeficsError":
    from finedefics.pictures import read_picture

    try:
        return read_picture(_read(file), place=file)
    except FinedeficsError as error:
        return error


def _read(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        cure = "give its path as it is" if isinstance(error, FileNotFoundError) else "check its rights"
        raise FinedeficsError(f"cannot be read ({reason})", place=file, cure=cure) from error


@contextmanager
def _written(table: Path | None) -> "Iterator[Callable[[Sequence[Mapping[str, object]]], None]]":
    """A function that adds rows to a table, which appears when all are in it."""
    if table is None:
        yield lambda rows: None
        return
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("picture", pa.string()),
            ("error", pa.string()),
            ("rank", pa.int32()),
            ("category_id", pa.string()),
            ("name", pa.string()),
            ("score", pa.float64()),
        ]
    )
    aside = table.with_name(f".{table.name}.{os.getpid()}")
    try:
        make = pq.ParquetWriter if table.suffix == ".parquet" else pyarrow.csv.CSVWriter
        with make(str(aside), schema) as writer:
            yield lambda rows: writer.write_table(pa.Table.from_pylist(list(rows), schema))
        aside.replace(table)
    finally:
        aside.unlink(missing_ok=True)
