"""Models of transformers as embedders load them: safetensors only, no code from a checkpoint, by content."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError

from finedefics.embedders._base import Array, Settings, normalised
from finedefics.errors import FinedeficsError, reason_of
from finedefics.model_paths import check_there
from finedefics.pictures import decode_image

_FILES = (".json", ".safetensors", ".txt", ".model", ".jinja")
_BLOCK = 1 << 20


def model_identity(model: str) -> str:
    """Digest of a folder's content, or ``name@commit`` of a hub model.

    Raises:
        FinedeficsError: no such model can be had.
    """
    check_there(model)
    folder = Path(model).expanduser()
    if folder.is_dir():
        sha = hashlib.sha256()
        for file in sorted(folder.iterdir()):
            if file.suffix in _FILES and file.is_file():
                sha.update(file.name.encode() + b"\0")
                with file.open("rb") as stream:
                    while block := stream.read(_BLOCK):
                        sha.update(block)
        return sha.hexdigest()[:16]
    from transformers import AutoConfig

    config = loaded(model, lambda: AutoConfig.from_pretrained(model, trust_remote_code=False))
    return f"{model}@{config._commit_hash}"


def load_model(model: str, settings: Settings, *, may_lack: str | None = None) -> Any:
    """The model, in evaluation, on the settings' device.

    Args:
        model: a folder or a hub name.
        may_lack: part of the names of weights that a checkpoint may be without, as nobody reads them.

    Raises:
        FinedeficsError: it cannot be loaded, or its checkpoint lacks weights.
    """
    from transformers import AutoModel

    found, report = loaded(
        model,
        lambda: AutoModel.from_pretrained(
            model,
            dtype=getattr(torch, settings.of_encoder),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        ),
    )
    missing = sorted(key for key in report["missing_keys"] if may_lack is None or may_lack not in key)
    if missing:
        raise FinedeficsError(
            f"{len(missing)} of the model's weights are not in the checkpoint, {missing[0]} first",
            place=model,
            cure="give the whole checkpoint: they would be random numbers",
        )
    return found.eval().to(settings.device)


def load_image_processor(model: str) -> Any:
    """The checkpoint's own preprocessing, by Pillow; raises as `load_model`."""
    from transformers import AutoImageProcessor

    return loaded(
        model,
        lambda: AutoImageProcessor.from_pretrained(model, trust_remote_code=False, backend="pil"),
    )


def loaded(model: str, load: Callable[[], Any]) -> Any:
    """What ``load`` returns; what it fails with as one line."""
    check_there(model)
    try:
        return load()
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        if isinstance(error, FinedeficsError):
            raise
        raise FinedeficsError(
            f"no model can be loaded here ({reason_of(error)})",
            place=model,
            cure="give a folder with config.json and safetensors, or a hub name",
        ) from error


@torch.no_grad()
def embed_in_batches(
    images: Sequence[bytes],
    settings: Settings,
    process: Callable[[list[Image.Image]], Any],
    embed: Callable[[dict[str, torch.Tensor]], torch.Tensor],
) -> Array:
    """Pictures through ``process`` and ``embed``, a batch at a time; [pictures, dim], normalised."""
    found = []
    for start in range(0, len(images), settings.batch_size):
        part = images[start : start + settings.batch_size]
        pictures = [decode_image(image, str(start + i)) for i, image in enumerate(part)]
        inputs = {
            key: value.to(settings.device, getattr(torch, settings.of_encoder))
            if value.is_floating_point()
            else value.to(settings.device)
            for key, value in process(pictures).items()
        }
        found.append(embed(inputs).float().cpu())
    return normalised(torch.cat(found).numpy())


def features(output: Any) -> torch.Tensor:
    """The tensor of a model's features, whichever way its class hands them out."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output
