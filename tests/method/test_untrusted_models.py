"""A model's folder is data: nothing in it is run, whoever it is from."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_encoders import save_encoder
from tiny_models import save_tiny

from finedefics.backbones import load_backbone
from finedefics.backbones.loading import load_processor
from finedefics.embedders import Settings
from finedefics.embedders._models import load_model
from finedefics.errors import FinedeficsError


class _Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.mark),)


def with_pickled_weights(folder: Path, mark: Path) -> Path:
    (folder / "model.safetensors").unlink()
    torch.save({"weight": _Evil(mark)}, folder / "pytorch_model.bin")
    return folder


def with_code(folder: Path, mark: Path) -> Path:
    """The folder, whose configuration names classes in a file of its own."""
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\nclass Own: pass\n")
    for name in ("config.json", "processor_config.json"):
        document = json.loads((folder / name).read_text())
        document["auto_map"] = {"AutoConfig": "evil.Own", "AutoModel": "evil.Own"}
        document["auto_map"] |= {"AutoImageProcessor": "evil.Own", "AutoProcessor": "evil.Own"}
        (folder / name).write_text(json.dumps(document))
    return folder


def test_weights_that_are_a_pickle_are_refused(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    folder = with_pickled_weights(save_tiny("idefics2", tmp_path / "model"), mark)
    with pytest.raises(FinedeficsError, match=r"no loadable .* with config\.json and safetensors"):
        load_backbone(folder)
    encoder = with_pickled_weights(save_encoder("dinov2", tmp_path / "encoder"), mark)
    with pytest.raises(FinedeficsError, match="no model can be loaded"):
        load_model(str(encoder), Settings())
    assert not mark.exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert mark.exists(), "it is one that would have worked"


def test_code_beside_the_weights_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    folder = with_code(save_tiny("llava_onevision", tmp_path / "model"), mark)
    load_backbone(folder)  # transformers' own classes know the family
    load_processor(folder)
    assert not mark.exists()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "own"}))
    with pytest.raises(FinedeficsError):
        load_backbone(folder)
    assert not mark.exists()
