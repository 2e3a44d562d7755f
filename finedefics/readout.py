"""Where a model embeds a picture: decided in training, and kept in its folder for whoever asks it later."""

import json
from pathlib import Path
from typing import Literal, get_args

from finedefics.errors import FinedeficsError

Readout = Literal["eos", "prompt"]
"""``eos``: at the end of sequence after the picture's own tokens, in a pass of its own (the paper's).
``prompt``: at the picture's last token within the question's prompt, on the way of the answer's pass."""

DEFAULT: Readout = "eos"
FILE = "finedefics.json"


def save_readout(readout: Readout, folder: Path) -> None:
    """Write ``finedefics.json`` into a model's folder, unless it would say what holds without it."""
    if readout != DEFAULT:
        (folder / FILE).write_text(json.dumps({"object_readout": readout}, indent=1) + "\n")


def load_readout(folder: str | Path) -> Readout:
    """What `save_readout` wrote; ``eos`` for a model that came without.

    Raises:
        FinedeficsError: the file holds something else.
    """
    file = Path(folder) / FILE
    if not file.is_file():
        return DEFAULT
    try:
        found = json.loads(file.read_text())["object_readout"]
        return next(readout for readout in get_args(Readout) if readout == found)
    except (KeyError, TypeError, ValueError, StopIteration) as error:
        raise FinedeficsError(
            f"no `object_readout` of {' or '.join(get_args(Readout))}",
            place=str(file),
            cure="train the model again",
        ) from error
