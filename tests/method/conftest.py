"""A tiny model of random weights whose tokenizer knows the letters, and a few drawn birds."""

import io
from pathlib import Path

import pytest
import tiny_models
import torch

from finedefics.backbones import Backbone
from finedefics.base_model import untrained_backbone
from finedefics.conversation import Templates
from finedefics.data.generated import random_birds


@pytest.fixture(scope="session")
def lettered() -> Backbone:
    torch.manual_seed(0)
    backbone = untrained_backbone()
    words = Templates().multiple_choice(["A", "B", "C", "D"]).replace(".", " .").replace(":", " :").split()
    backbone.processor.tokenizer.add_tokens([*"ABCDEF", *words])
    backbone.model.resize_token_embeddings(len(backbone.processor.tokenizer), mean_resizing=False)
    torch.nn.init.normal_(backbone.model.get_output_embeddings().weight, std=0.2)
    return backbone.eval()


@pytest.fixture(scope="session")
def birds() -> list[bytes]:
    """Seven PNG files."""
    files = []
    for image, _ in random_birds(7, seed=3):
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        files.append(buffer.getvalue())
    return files


@pytest.fixture(scope="session", params=tiny_models.FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Every family of models once."""
    return str(request.param)


@pytest.fixture(scope="session")
def tiny_folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The family's tiny model as an ordinary folder."""
    return tiny_models.save_tiny(family, tmp_path_factory.mktemp(family))
