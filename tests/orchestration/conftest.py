"""A small dataset of drawn birds, written straight into a dataset store."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from finedefics.data.birds import describe
from finedefics.data.generated import Species, make_world, picture
from finedefics.records import SAMPLES, TABLES, attributes_to_arrow
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.data.parquet import row_groups, write_parquet
from finedefics_platform.data.store import Dataset
from finedefics_platform.data.versions import Draft, new_version


@pytest.fixture(scope="session")
def drawn_workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return open_workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="session")
def drawn_dataset(drawn_workspace: Workspace) -> Dataset:
    """Six species, two of them known from captioned pictures and a text only; eight rows a row group."""
    world = make_world(11, families=2, species_per_family=3)
    rng = np.random.default_rng(11)
    samples, descriptions, negatives = [], [], []
    for split, count in (("train", 8), ("val", 2)):
        for species in world.species:
            label = None if split == "train" and species.name in world.new else slug(species)
            for number in range(count):
                image, visible = picture(species.attributes, rng)
                sample_id = f"{split}-{slug(species)}-{number}"
                samples.append(sample_row(sample_id, image, label, split))
                descriptions.append(
                    {
                        "sample_id": sample_id,
                        "attributes": attributes_to_arrow(visible),
                        "description": describe(visible),
                        "describer_id": "drawn",
                    }
                )
                wrong = [slug(other) for other in world.species if other is not species]
                negatives.append(
                    {
                        "sample_id": sample_id,
                        "candidates": [{"category_id": w, "similarity": 0.5} for w in wrong],
                        "miner_id": "drawn",
                    }
                )
    categories = [
        {
            "category_id": slug(species),
            "name": species.name,
            "super_category": species.family,
            "description": species.description,
            "attributes": attributes_to_arrow(species.attributes),
        }
        for species in world.species
    ]
    small = {"categories": categories, "descriptions": descriptions, "negatives": negatives}
    draft = new_version(drawn_workspace, "drawn")
    write_samples(draft, samples)
    for name, rows in small.items():
        draft.write(name, pa.Table.from_pylist(rows, TABLES[name]), {})
    return draft.publish("drawn")


def write_samples(draft: Draft, samples: list[dict]) -> None:
    """One file a (split, labelled) pair, because a row group mixes neither."""
    parts = []
    for split in ("train", "val"):
        for labelled in (True, False):
            rows = [r for r in samples if r["split"] == split and (r["category_id"] is not None) == labelled]
            parts += [pa.Table.from_pylist(rows, SAMPLES)] if rows else []
    names = [f"part-{number:05}.parquet" for number in range(len(parts))]
    folder = draft.declare("samples", pa.concat_tables(parts), {}, names)
    for name, part in zip(names, parts, strict=True):
        write_parquet(folder / name, SAMPLES, row_groups(part, 8))


def sample_row(sample_id: str, image: bytes, category_id: str | None, split: str) -> dict:
    return {
        "sample_id": sample_id,
        "image": image,
        "category_id": category_id,
        "split": split,
        "width": 64,
        "height": 64,
        "content_hash": hashlib.sha256(image).hexdigest(),
        "source": f"{sample_id}.jpg",
    }


def slug(species: Species) -> str:
    return species.name.replace(" ", "-")


@pytest.fixture(scope="session")
def tiny_model(drawn_workspace: Workspace) -> Path:
    """A Hugging Face folder of a tiny Idefics2 with random weights."""
    import torch

    from finedefics.base_model import untrained_backbone

    torch.manual_seed(0)
    assert drawn_workspace.models.local is not None
    folder = drawn_workspace.models.local / "tiny"
    untrained_backbone().save_pretrained(folder)
    return folder
