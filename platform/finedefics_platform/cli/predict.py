"""`finedefics predict`: names of what is in pictures."""

from pathlib import Path
from typing import Annotated

import typer

from finedefics.errors import FinedeficsError, wrong_use

from .console import reporter

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
PICTURES = (".jpg", ".jpeg", ".png")


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
