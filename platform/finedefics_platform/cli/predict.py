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

if TYPE_CHECKING:
    from PIL.Image import Image

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
PICTURES = (".jpg", ".jpeg", ".png")
SHOWN = 200  # pictures whose names are shown to a person


def predict(
    pictures: Annotated[list[str], typer.Argument(help="Pictures, or folders of pictures.")],
    model: Annotated[str, typer.Option("--model", help="Registered model (birds@champion) or its folder.")],
    answer: Annotated[
        str, typer.Option("--answer", help="How: alignment, names, describe, ensemble …")
    ] = "alignment",
    top: Annotated[int, typer.Option("--top", min=1, help="Candidates shown a picture.")] = 3,
    table: Annotated[
        Path | None,
        typer.Option(
            "--table", help="Also write them to this file (.parquet or .csv): a row a picture and candidate."
        ),
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
    json: Json = False,
) -> None:
    """Name what is in pictures, categories added with `finedefics categories add` among them.

    A folder may be of any size: a batch of pictures is in memory at a time. One that cannot be read is told
    on stderr and has a row with its error; the others are named, and the exit code is 1.

    Example: `finedefics predict bird.jpg --model birds@champion --top 3`

    Example: `finedefics predict photos/ --model birds@champion --table names.parquet`
    """
    files = list(dict.fromkeys(_pictures(pictures)))
    if table is not None and table.suffix not in (".parquet", ".csv"):
        raise wrong_use("neither Parquet nor CSV", place=str(table), cure="end it in .parquet or .csv")
    if table is not None and not table.absolute().parent.is_dir():
        raise wrong_use("there is no such folder", place=str(table.parent), cure="make it first")
    from finedefics.scoring import ANSWERS, as_mapping
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.models.categories import open_recogniser

    ANSWERS[answer]
    out = reporter(json)
    recogniser = open_recogniser(open_workspace(), model, dtype, micro_tokens)
    rows: list[list[str]] = []
    damaged = 0
    with out.progress("naming", len(files)) as advance, _written(table) as write:
        for some in _batches(files):
            images = [image for image in some.values() if not isinstance(image, FinedeficsError)]
            named = iter(recogniser.recognise(images, answer, top) if images else [])
            said: list[Mapping[str, object]] = []
            for file, image in some.items():
                error = str(image) if isinstance(image, FinedeficsError) else None
                ranking = [] if error else as_mapping(next(named))
                about = {"picture": str(file), "error": error}
                out.event("prediction", **about, answer=answer, candidates=ranking)
                # a picture that was answered with no category, or not at all, has a row too
                ranks = [{"rank": i + 1, **candidate} for i, candidate in enumerate(ranking)]
                said += [{**about, **one} for one in ranks or [{}]]
                if error:
                    damaged += 1
                    print(f"error: {error}", file=sys.stderr)
                elif len(rows) < SHOWN:
                    rows.append([str(file), *(f"{c['name']} ({c['score']:.3f})" for c in ranking)])
            write(said)
            advance(len(some))
    shown = min(top, len(recogniser.categories))
    out.table(f"{model}, by {answer}", ["picture", *(f"{i + 1}." for i in range(shown))], rows)
    if len(files) - damaged > SHOWN:
        out.say(f"the first {SHOWN} of {len(files)} pictures" + ("" if table else "; --table keeps all"))
    kept = str(table) if table else None
    if damaged:
        out.event("failed", pictures=len(files), damaged=damaged, model=model, table=kept)
        raise typer.Exit(1)
    out.done(pictures=len(files), model=model, table=kept)


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


def _batches(files: Sequence[Path]) -> "Iterator[dict[Path, Image | FinedeficsError]]":
    """Files with their pictures, or with why there is none; as many as go through the model together."""
    from finedefics.scoring.recogniser import BATCH

    for start in range(0, len(files), BATCH):
        yield {file: _decoded(file) for file in files[start : start + BATCH]}


def _decoded(file: Path) -> "Image | FinedeficsError":
    from finedefics.pictures import decode_image

    try:
        return decode_image(_read(file), str(file))
    except FinedeficsError as error:
        return error


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise FinedeficsError(
            f"cannot be read ({error.strerror})", place=str(file), cure="check its rights"
        ) from error


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
