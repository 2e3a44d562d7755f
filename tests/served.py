"""A tiny model with a category index, and pictures of what it was made for."""

import io
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from finedefics.base_model import untrained_backbone
from finedefics.data.generated import random_birds
from finedefics.records import Category
from finedefics.scoring import Recogniser

CATEGORIES = [
    Category("tern", "Tern", description="white belly and black crown"),
    Category("auk", "Auk", description="black back"),
    Category("gull", "Gull"),
]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``model/`` and ``index/``."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    made = tmp_path_factory.mktemp("served")
    backbone = untrained_backbone()
    backbone.save_pretrained(made / "model")
    Recogniser(backbone, CATEGORIES).index.save(made / "index")
    return made


@pytest.fixture(scope="session")
def recogniser(model_folder: Path) -> Recogniser:
    return Recogniser.load(model_folder / "model", model_folder / "index")


@pytest.fixture(scope="session")
def pictures() -> Sequence[bytes]:
    """PNG files of birds."""
    found = []
    for image, _ in random_birds(5, seed=2):
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        found.append(buffer.getvalue())
    return found
