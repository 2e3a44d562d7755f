"""A folder of pictures to ingest."""

import io
import json
import random
from pathlib import Path
from typing import Any

from PIL import Image

SPECIES = {"wren": "brown", "lark": "brown", "crow": "black"}


def encoded(number: int, kind: str = "PNG") -> bytes:
    noise = random.Random(number).randbytes(16 * 16 * 3)
    file = io.BytesIO()
    Image.frombytes("RGB", (16, 16), noise).save(file, format=kind)
    return file.getvalue()


def put(root: Path, source: str, content: bytes) -> None:
    (root / source).parent.mkdir(parents=True, exist_ok=True)
    (root / source).write_bytes(content)


def write_birds(root: Path) -> Path:
    """Three species in three splits, two captioned pictures without a label, a species without a picture."""
    number = 0
    notes: list[dict[str, Any]] = []
    for species, crown in SPECIES.items():
        for split, count in (("train", 4), ("val", 1), ("test", 2)):
            for index in range(count):
                kind = "JPEG" if index % 2 else "PNG"
                source = f"images/{split}/{number:03}.{kind.lower()}"
                put(root, source, encoded(number, kind))
                attributes = {"crown": crown, "tail": species}
                note = {"image": source, "split": split, "category": species, "attributes": attributes}
                notes.append(note)
                number += 1
    for index in range(2):
        put(root, f"images/train/caption{index}.png", encoded(900 + index))
        notes.append(
            {
                "image": f"images/train/caption{index}.png",
                "split": "train",
                "category": None,
                "description": "a black bird",
                "attributes": {"crown": "black"},
            }
        )
    known: list[dict[str, Any]] = [
        {"name": s, "attributes": {"crown": c, "tail": s}} for s, c in SPECIES.items()
    ]
    known.append({"name": "dodo", "description": "grey and gone"})
    (root / "annotations.jsonl").write_text("".join(json.dumps(note) + "\n" for note in notes))
    (root / "categories.jsonl").write_text("".join(json.dumps(one) + "\n" for one in known))
    return root
