"""Worlds and base models of the default settings: byte for byte what figures were published from."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from finedefics.base_model import untrained_backbone
from finedefics.data.generated import WorldPlan, make_world, write_world


def digest(*parts: bytes | str) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part if isinstance(part, bytes) else part.encode())
    return found.hexdigest()[:16]


@pytest.mark.parametrize(
    ("seed", "shape", "expected"),
    [
        (0, {}, "dc2b42bcb59144fd"),
        (7, {}, "64435c00e3e68904"),
        (2, {"families": 2}, "14933f594a88284a"),
        (5, {"families": 2, "species_per_family": 3}, "565509a5deb7cf07"),
    ],
)
def test_species(seed: int, shape: dict[str, int], expected: str) -> None:
    world = make_world(seed, **shape)
    species = [[each.name, each.family, each.attributes] for each in world.species]
    assert digest(json.dumps(species), json.dumps(sorted(world.new))) == expected


def test_folder(tmp_path: Path) -> None:
    write_world(make_world(5, families=2), tmp_path, WorldPlan(labelled=1, captioned=2, val=1, test=1))
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    told = [tmp_path / name for name in ("annotations.jsonl", "categories.jsonl")]
    assert digest(*(path.read_bytes() for path in told)) == "12c972143e432c35"
    everything = (path.relative_to(tmp_path).as_posix().encode() + path.read_bytes() for path in files)
    assert digest(*everything) == "c163c957aa6c6b59"


@pytest.mark.parametrize(("begins", "expected"), [(False, "5c1211bf68b22cbf"), (True, "b2cfb9fabe880b49")])
def test_base(begins: bool, expected: str) -> None:
    torch.manual_seed(0)
    backbone = untrained_backbone(begins=begins)
    assert digest(backbone.processor.tokenizer.backend_tokenizer.to_str()) == expected
    drawn = digest(*(each.detach().numpy().tobytes() for each in backbone.parameters()))
    assert drawn == "23448f8a9ad28e50"
