"""Files of replies to multiple-choice questions, as others wrote them: read, checked, and nothing guessed.

Two shapes are read. FOCI's, which Finedefics publishes too, is ``{"predictions": [row], "metrics": {...},
"config": {...}}``; or JSON lines, a row a line. A row is ``{"image", "options", "correct",
"predicted_raw"}``: the options in the order in which they were shown, so that the first letter is the first
of them, and what the model wrote. `ALIASES` has the other names of these keys. A row without a reply may have
``predicted``, the name that was read from it, in its place.
"""

import json
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finedefics.errors import FinedeficsError, wrong_use

ALIASES = {
    "image": ("image", "image_path"),
    "correct": ("correct", "groundtruth", "ground_truth"),
    "predicted_raw": ("predicted_raw", "reply", "response"),
}
_CURE = (
    'give FOCI predictions: {"predictions": [{"image", "options" as shown, "correct", "predicted_raw"}]}, '
    "or such rows as JSON lines"
)


@dataclass(frozen=True)
class Prediction:
    """A reply to one question.

    Attributes:
        image: path as the file writes it.
        options: at least two different names, in the order shown.
        truth: the right one of them.
        reply: what the model wrote; None where the file does not say it.
        predicted: without a reply, the option that somebody read from it; None for none.
    """

    image: str
    options: tuple[str, ...]
    truth: str
    reply: str | None
    predicted: str | None = None

    @property
    def key(self) -> tuple[str, str, frozenset[str]]:
        """What makes it the same question in another file: the order of the options may differ."""
        return self.image, self.truth, frozenset(self.options)


@dataclass(frozen=True)
class PredictionFile:
    """A file of replies.

    Attributes:
        name: of the file.
        data: the data set that the file says it is of; else the file's name without its ending.
        items: in the file's order; no question twice.
        letters: that name the options in their order.
        reported: the accuracy that the file says it has; None where it says none.
    """

    name: str
    data: str
    items: tuple[Prediction, ...]
    letters: str
    reported: float | None


def read_predictions(file: str | Path) -> PredictionFile:
    """Read a file of replies.

    Raises:
        FinedeficsError: there is no such file (exit code 2), or it is malformed: the message names the row,
            what is wrong with it and what a right one looks like.
    """
    path = Path(file).expanduser()
    whole, rows = _rows(_content(path), str(path))
    items: list[Prediction] = []
    first: dict[Any, str] = {}
    for place, row in rows:
        item = _item(row, place)
        if item.key in first:
            raise FinedeficsError(
                f"the question on {item.image} is answered twice, in {first[item.key]} as well",
                place=place,
                cure="keep one of the two replies",
            )
        first[item.key] = place.rpartition(", ")[2]
        items.append(item)
    if not items:
        raise FinedeficsError("there is no prediction in this file", place=str(path), cure=_CURE)
    most = max(len(item.options) for item in items)
    config, metrics = _table(whole, "config"), _table(whole, "metrics")
    reported = metrics.get("accuracy")
    return PredictionFile(
        path.name,
        str(config.get("dataset") or path.stem),
        tuple(items),
        _letters(config.get("choice_enumeration"), most, str(path)),
        float(reported) if isinstance(reported, int | float) and not isinstance(reported, bool) else None,
    )


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise wrong_use(
            f"cannot be read ({error.strerror})", place=str(path), cure="give the path of a predictions file"
        ) from error
    except UnicodeDecodeError as error:
        raise FinedeficsError("the file is not UTF-8", place=str(path), cure=_CURE) from error


def _rows(text: str, place: str) -> tuple[Any, Iterator[tuple[str, Any]]]:
    """The document as a whole, where it is one, and every row with its place."""
    try:
        whole = json.loads(text)
    except RecursionError as error:
        raise FinedeficsError("nested too deeply", place=place, cure=_CURE) from error
    except ValueError as error:
        lines = [line.strip() for line in text.strip().split("\n")]
        # of pretty-printed JSON neither the first line nor the last is an object of its own
        if len(lines) < 2 or not any(line[:1] + line[-1:] == "{}" for line in (lines[0], lines[-1])):
            line = f"{place}, line {getattr(error, 'lineno', 1)}"
            raise FinedeficsError("not valid JSON", place=line, cure=_CURE) from error
        return None, _lines(text, place)
    if isinstance(whole, dict) and "predictions" in whole:
        rows = whole["predictions"]
        if not isinstance(rows, list):
            raise FinedeficsError("`predictions` is no list", place=place, cure=_CURE)
    elif isinstance(whole, list):
        rows = whole
    elif isinstance(whole, dict) and "options" in whole:
        rows = [whole]  # JSON lines of one line
    elif isinstance(whole, dict) and whole and all(isinstance(part, list) for part in whole.values()):
        raise FinedeficsError(
            "a file of questions: there are no replies in it",
            place=place,
            cure="ask a model with `finedefics evaluate MODEL --options FILE`, or give a predictions file",
        )
    else:
        raise FinedeficsError("no `predictions` in this file", place=place, cure=_CURE)
    return whole, ((f"{place}, prediction {number}", row) for number, row in enumerate(rows, start=1))


def _lines(text: str, place: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{place}, line {number}"
            try:
                yield where, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise FinedeficsError("not valid JSON", place=where, cure=_CURE) from error


def _item(row: Any, place: str) -> Prediction:
    def refused(thing: str, cure: str = _CURE) -> FinedeficsError:
        return FinedeficsError(thing, place=place, cure=cure)

    if not isinstance(row, dict):
        raise refused("not a prediction")
    image, truth, options = _first(row, "image"), _first(row, "correct"), row.get("options")
    if not isinstance(image, str) or not image:
        raise refused("no `image`")
    if not isinstance(options, list) or not all(isinstance(option, str) and option for option in options):
        raise refused("`options` is no list of names")
    if not 2 <= len(options) <= len(string.ascii_uppercase):
        raise refused(f"{len(options)} options, and letters tell 2 to 26 apart")
    if len(set(options)) < len(options):
        twice = next(option for option in options if options.count(option) > 1)
        raise refused(f"the option {twice!r} stands there twice, so two letters mean it")
    if truth not in options:
        missing = "no `correct`" if truth is None else f"the truth {truth!r} is none of the options"
        raise refused(missing, "write the right option as `correct`, spelled as in `options`")
    reply, predicted = _reply(row, options, refused)
    return Prediction(image, tuple(options), truth, reply, predicted)


def _reply(row: dict[str, Any], options: list[str], refused: Any) -> tuple[str | None, str | None]:
    for key in ALIASES["predicted_raw"]:
        if key in row:
            reply = "" if row[key] is None else row[key]  # the model said nothing
            if not isinstance(reply, str):
                raise refused(f"`{key}` is no text", "write what the model replied, as it did")
            return reply, None
    if "predicted" not in row:
        cure = "add `predicted_raw` to every row: what the model wrote, and the options as they were shown"
        raise refused("no reply (a file of questions?)", cure)
    predicted = row["predicted"]
    if predicted is not None and predicted not in options:
        raise refused(
            f"`predicted` is {predicted!r}, which is none of the options",
            "add `predicted_raw`, what the model wrote; or write the option, or null where it named none",
        )
    return None, predicted


def _first(row: dict[str, Any], name: str) -> Any:
    return next((row[key] for key in ALIASES[name] if row.get(key) is not None), None)


def _table(whole: Any, name: str) -> dict[str, Any]:
    found = whole.get(name) if isinstance(whole, dict) else None
    return found if isinstance(found, dict) else {}


def _letters(told: Any, most: int, place: str) -> str:
    """The letters that the file says it asked with, else A, B, C …"""
    if told is None:
        return string.ascii_uppercase[:most]
    several = isinstance(told, str | list) and all(isinstance(one, str) for one in told)
    letters = "".join(told).upper() if several else ""
    right = letters.isascii() and letters.isalpha() and len(set(letters)) == len(letters) >= most
    if not right:
        raise FinedeficsError(
            f"`choice_enumeration` is {told!r}, which gives {most} options no letter each",
            place=f"{place}, config",
            cure="write the letters in the order of the options, such as ABCD",
        )
    return letters
