"""A tiny model of random weights whose tokenizer knows the letters, and a few drawn birds."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch

from finedefics.backbones import Backbone
from finedefics.base_model import untrained_backbone
from finedefics.data.generated import random_birds
from finedefics.scoring import ANSWERS


@pytest.fixture(scope="session")
def lettered() -> Backbone:
    torch.manual_seed(0)
    backbone = untrained_backbone()
    weight = backbone.model.get_output_embeddings().weight
    torch.nn.init.normal_(weight, std=0.2)
    # what it writes is words: neither pieces by which others are spelled, nor pictures or ends of turns
    vocabulary = backbone.processor.tokenizer.get_vocab()
    pieces = [i for word, i in vocabulary.items() if word.startswith(("##", "<"))]
    with torch.no_grad():
        weight[pieces] = 0
    return backbone.eval()


@pytest.fixture
def short_descriptions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight are drawn of every picture, and such a model ends none of them before their limit."""
    drawn: Any = ANSWERS["describe_sampled"]
    monkeypatch.setitem(ANSWERS._entries, "describe_sampled", replace(drawn, limit=24))


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
