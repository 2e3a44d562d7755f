"""From a folder or a hub name to a `Backbone`, without code from the checkpoint and without torchvision.

Image processors use their PIL backend, which needs nothing beyond Pillow. Processors that also take films
(LLaVA-OneVision, Qwen2.5-VL, SmolVLM) would demand torchvision for that, so they are made of their image
processor and tokenizer alone, whether it is installed or not. The checkpoint's ``processor_config.json`` is
still read, so token counts are its own.
"""

import inspect
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from finedefics.backbones.base import Backbone
from finedefics.backbones.family import FAMILIES
from finedefics.backbones.precision import check_dtype, stored_dtype, torch_dtype
from finedefics.errors import FinedeficsError, wrong_use


def load_backbone(
    path: str | Path,
    *,
    dtype: str = "float32",
    train: Iterable[str] = ("text", "connector"),
    quantization: Any | None = None,
) -> Backbone:
    """Load a model by hub name or folder, as Transformers would, without running code from the checkpoint.

    Args:
        path: a folder or a hub name.
        dtype: of weights and activations (`finedefics.backbones.precision.DTYPES`).
        train: the parts whose weights are tuned.
        quantization: how the weights are held (transformers' ``quantization_config``); none of them is tuned
            then, only adapters beside them.

    Raises:
        FinedeficsError: the folder or name does not hold a loadable image-text-to-text model, lacks some of
            its weights, or holds one of an unknown family (exit code 2), or ``quantization`` needs a package
            that cannot be used.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    try:
        config = AutoConfig.from_pretrained(str(path), trust_remote_code=False)
        _check_family(config, path)
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            str(path),
            output_loading_info=True,
            dtype=torch_dtype(dtype),
            trust_remote_code=False,
            quantization_config=quantization,
        )
        processor = load_processor(path)
    except ImportError as error:
        if quantization is None:
            raise
        raise FinedeficsError(
            f"quantized weights cannot be used ({' '.join(str(error).split())[:160]})",
            place="adapters.kind",
            cure="pip install bitsandbytes, or use lora",
        ) from error
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, FinedeficsError):
            raise
        reason = str(error).splitlines()[0][:160]
        raise FinedeficsError(
            f"no loadable image-text-to-text model ({reason})",
            place=str(path),
            cure="give a folder with config.json and safetensors, or a hub name",
        ) from error
    model, read = loaded
    if missing := sorted(read["missing_keys"]):
        raise FinedeficsError(
            f"{len(missing)} of the model's weights are not in the checkpoint, {missing[0]} first",
            place=str(path),
            cure="give the whole checkpoint: they would be random numbers",
        )
    if quantization:
        _keep_unpacked(model)
    return Backbone(model, processor, () if quantization else train)


def load_placed(path: str | Path, device: str, dtype: str | None = None) -> Backbone:
    """A model to be asked: nothing of it is trained, and it stands on a device.

    Args:
        path: a folder or a hub name.
        device: ``cpu`` or ``cuda``.
        dtype: of weights and activations; default: what the model was trained and is stored in.

    Raises:
        FinedeficsError: as `load_backbone`, or the device does not compute in the dtype.
    """
    wanted = dtype or stored_dtype(path)
    check_dtype(wanted, device)
    return load_backbone(path, dtype=wanted, train=()).to(device)


def _keep_unpacked(model: Any) -> None:
    """Leave weights in four bits as they were stored, on every processor.

    On a CPU with AVX512-BF16, bitsandbytes re-packs a layer at its first pass without gradient. That needs
    widths of whole blocks (outputs of 32, inputs of 64), computes in bfloat16 whatever was asked for, and is
    never undone: a model that was evaluated once between steps would pass no gradient on.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _check_family(config: Any, path: str | Path) -> None:
    """Refuse before the weights are read."""
    if config.model_type in FAMILIES:
        return
    if not hasattr(config, "vision_config"):
        raise FinedeficsError(
            f"a {config.model_type} has no vision tower", place=str(path), cure="use a multimodal checkpoint"
        )
    raise wrong_use(
        f"unknown model family {config.model_type!r}",
        place=str(path),
        cure=f"use one of {', '.join(FAMILIES)}, or add a module to finedefics/backbones/",
    )


def load_processor(path: str | Path) -> Any:
    """The model's processor, with the PIL image backend: torchvision is not needed.

    Raises:
        FinedeficsError: the checkpoint has no image processor or tokenizer.
    """
    from transformers import AutoConfig, AutoProcessor

    kind = AutoConfig.from_pretrained(str(path), trust_remote_code=False).model_type
    if kind not in FAMILIES or not FAMILIES[kind].films:
        return AutoProcessor.from_pretrained(str(path), trust_remote_code=False, backend="pil")
    return _pictures_only(path, FAMILIES[kind].processor)


def _pictures_only(path: str | Path, name: str) -> Any:
    """A processor of an image processor and a tokenizer, for families whose own also takes films."""
    import transformers

    kind = without_films(getattr(transformers, name))
    images = transformers.AutoImageProcessor.from_pretrained(str(path), backend="pil")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    stored, _ = kind.get_processor_dict(str(path))
    settings = set(inspect.signature(kind).parameters) - {"image_processor", "tokenizer", "kwargs"}
    return kind(images, tokenizer, **{key: value for key, value in stored.items() if key in settings})


def without_films(kind: Any) -> Any:
    """A processor class without its part for films, under its own name, which is saved with it."""

    def __init__(self: Any, image_processor: Any, tokenizer: Any, **settings: Any) -> None:
        kind.__init__(self, image_processor, tokenizer, **settings)

    # its signature is where a processor reads which parts it has, and which settings it saves
    full = inspect.signature(kind.__init__)
    kept = [parameter for name, parameter in full.parameters.items() if name != "video_processor"]
    __init__.__signature__ = full.replace(parameters=kept)  # type: ignore[attr-defined]
    return type(kind.__name__, (kind,), {"__init__": __init__, "__module__": kind.__module__})


def model_type(path: str | Path) -> str | None:
    """``model_type`` of a checkpoint folder, None where there is none."""
    config = Path(path) / "config.json"
    return json.loads(config.read_text()).get("model_type") if config.is_file() else None
