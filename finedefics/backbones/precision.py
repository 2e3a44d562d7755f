"""In which dtype a model computes: what its weights are stored in, if nothing else is said."""

import json
from pathlib import Path
from typing import Any

import torch

from finedefics.errors import FinedeficsError, wrong_use
from finedefics.model_paths import check_there

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def stored_dtype(path: str | Path) -> str:
    """The dtype that a model was trained in and is stored in, as its configuration says.

    Args:
        path: a folder or a hub name; float32 where its configuration does not say, as it is for the oldest.

    Raises:
        FinedeficsError: it is none that a model is asked in here, or there is no model.
    """
    stored = _configuration(path)
    said = stored.get("dtype") or stored.get("torch_dtype") or "float32"
    name = str(said).removeprefix("torch.")
    if name not in DTYPES:
        raise FinedeficsError(
            f"its weights are stored in {name}, in which no model is asked here",
            place=str(path),
            cure=f"ask for one of {', '.join(DTYPES)}",
        )
    return name


def _configuration(path: str | Path) -> dict[str, Any]:
    check_there(str(path))
    file = Path(path).expanduser() / "config.json"
    try:
        if file.is_file():
            return dict(json.loads(file.read_text()))
        from transformers import PretrainedConfig

        return dict(PretrainedConfig.get_config_dict(str(path))[0])
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise FinedeficsError(
            f"no configuration of a model ({reason})",
            place=str(path),
            cure="give a folder with config.json and safetensors, or a hub name",
        ) from error


def torch_dtype(name: str) -> torch.dtype:
    """The dtype of a name; FinedeficsError (exit code 2) where it is none a model computes in."""
    if name not in DTYPES:
        raise wrong_use(f"unknown dtype {name!r}", place="dtype", cure=f"use one of {', '.join(DTYPES)}")
    return DTYPES[name]


def check_dtype(name: str, device: str) -> None:
    """FinedeficsError where the device does not compute in the dtype, which would be emulated or fail."""
    torch_dtype(name)
    lacks = name == "bfloat16" and device.startswith("cuda")
    if lacks and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise FinedeficsError(
            "the card does not compute in bfloat16",
            place=torch.cuda.get_device_name(),
            cure="ask for float32, or take a card of compute capability 8.0 or newer",
        )
