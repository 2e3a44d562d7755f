"""Saved adapters go into the model they were trained on, or the model stays as it was."""

from pathlib import Path

import pytest
import torch

from finedefics.adapters import AdapterSettings, adapted, apply, load_adapters, save_adapters
from finedefics.backbones import Backbone
from finedefics.base_model import untrained_backbone
from finedefics.errors import FinedeficsError


def backbone_of(layers: int) -> Backbone:
    torch.manual_seed(0)
    backbone = untrained_backbone()
    del backbone.model.model.text_model.layers[layers:]
    return backbone


def saved(folder: Path, layers: int) -> Path:
    save_adapters(apply(backbone_of(layers), AdapterSettings("lora")), folder)
    return folder


@pytest.mark.parametrize(("stored", "layers"), [(1, 2), (2, 1)], ids=["deeper", "shallower"])
def test_adapters_of_another_depth_are_refused(tmp_path: Path, stored: int, layers: int) -> None:
    saved(tmp_path, stored)
    other = backbone_of(layers)
    before = {name: (p.clone(), p.requires_grad) for name, p in other.model.named_parameters()}
    with pytest.raises(FinedeficsError, match=r"do not fit the model .*layers") as caught:
        load_adapters(other, tmp_path)
    assert caught.value.place == str(tmp_path)
    assert_unchanged(other, before)
    apply(other, AdapterSettings("lora"))  # as a model that never saw them


def test_adapters_of_another_width_are_refused(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    config = tmp_path / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 8', '"r": 4'))
    other = backbone_of(1)
    before = {name: (p.clone(), p.requires_grad) for name, p in other.model.named_parameters()}
    with pytest.raises(FinedeficsError, match="do not fit the model"):
        load_adapters(other, tmp_path)
    assert_unchanged(other, before)


def assert_unchanged(backbone: Backbone, before: dict[str, tuple[torch.Tensor, bool]]) -> None:
    assert not adapted(backbone)
    after = dict(backbone.model.named_parameters())
    assert list(after) == list(before)
    assert all(after[name].equal(value) for name, (value, _) in before.items())
    assert {name: p.requires_grad for name, p in after.items()} == {n: t for n, (_, t) in before.items()}


@pytest.mark.parametrize("missing", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_folder_without_adapters_is_refused(tmp_path: Path, missing: str) -> None:
    (saved(tmp_path, 1) / missing).unlink()
    with pytest.raises(FinedeficsError, match=f"no adapters here: {missing} is missing; give a folder with"):
        load_adapters(backbone_of(1), tmp_path)


def test_adapters_are_not_loaded_over_others(tmp_path: Path) -> None:
    backbone = apply(backbone_of(1), AdapterSettings("lora"))
    with pytest.raises(ValueError, match="already"):
        load_adapters(backbone, saved(tmp_path, 1))
