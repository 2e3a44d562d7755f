"""From a folder or a hub name to a `Backbone`, without code from the checkpoint and without torchvision.

Image processors use their PIL backend, which needs nothing beyond Pillow. Processors that also take films
(LLaVA-OneVision, Qwen2.5-VL, SmolVLM) would demand torchvision for that, so they are made of their image
processor and tokenizer alone, whether it is installed or not. The checkpoint's ``processor_config.json`` is
still read, so token counts are its own.
"""

import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from finedefics.backbones.attention import check_attention
from finedefics.backbones.base import Backbone
from finedefics.backbones.family import FAMILIES
from finedefics.backbones.precision import torch_dtype
from finedefics.errors import FinedeficsError, reason_of, wrong_use


def load_backbone(
    path: str | Path,
    *,
    dtype: str = "float32",
    train: Iterable[str] = ("text", "connector"),
    quantization: Any | None = None,
    processor: Mapping[str, Any] | None = None,
    attention: str | None = None,
    device_map: Mapping[str, int | str] | None = None,
) -> Backbone:
    """Load a model by hub name or folder, as Transformers would, without running code from the checkpoint.

    Args:
        path: a folder or a hub name.
        dtype: of weights and activations (`finedefics.backbones.precision.DTYPES`).
        train: the parts whose weights are tuned.
        quantization: how the weights are held (transformers' ``quantization_config``); none of them is tuned
            then, only adapters beside them.
        processor: settings of the image processor that differ from the checkpoint's (``do_image_splitting``,
            ``max_pixels``, …); they are saved with the model.
        attention: the kernel by which packed rows attend; default: transformers' choice. Not saved.
        device_map: the device of each module, by its dotted name; default: all of it on the CPU.

    Raises:
        FinedeficsError: the folder or name does not hold a loadable image-text-to-text model, lacks some of
            its weights, or holds one of an unknown family or a processor without such a setting (exit code
            2), ``quantization`` needs a package that cannot be used, or the attention cannot be computed so
            (`finedefics.backbones.attention.check_attention`).
    """
    config = known_config(path)
    if attention is not None:
        check_attention(attention, config, dtype)
    model = load_weights(path, dtype, quantization=quantization, device_map=device_map)
    with as_one_line(path):
        made = load_processor(path, processor)
    if quantization:
        _keep_unpacked(model)
    return Backbone(model, made, () if quantization else train, attention)


def load_weights(
    path: str | Path,
    dtype: str,
    *,
    quantization: Any | None = None,
    device_map: Mapping[str, int | str] | None = None,
) -> Any:
    """A model of transformers with all its weights, of whatever family; raises as `load_backbone`."""
    from transformers import AutoModelForImageTextToText

    try:
        with as_one_line(path):
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                str(path),
                output_loading_info=True,
                dtype=torch_dtype(dtype),
                use_safetensors=True,
                trust_remote_code=False,
                quantization_config=quantization,
                device_map=None if device_map is None else dict(device_map),
            )
    except ImportError as error:
        if quantization is None:
            raise
        raise FinedeficsError(
            f"quantized weights cannot be used ({' '.join(str(error).split())[:160]})",
            place="adapters.kind",
            cure="pip install bitsandbytes, or use lora",
        ) from error
    model, read = loaded
    if missing := sorted(read["missing_keys"]):
        raise FinedeficsError(
            f"{len(missing)} of the model's weights are not in the checkpoint, {missing[0]} first",
            place=str(path),
            cure="give the whole checkpoint: they would be random numbers",
        )
    return model


def known_config(path: str | Path) -> Any:
    """The configuration of a model whose family is known; raises as `load_backbone`."""
    from transformers import AutoConfig

    with as_one_line(path):
        config = AutoConfig.from_pretrained(str(path), trust_remote_code=False)
    _check_family(config, path)
    return config


@contextmanager
def as_one_line(path: str | Path) -> Iterator[None]:
    """Within it, what transformers cannot load is an error that a user can act on."""
    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        if isinstance(error, FinedeficsError):
            raise
        raise FinedeficsError(
            f"no loadable image-text-to-text model ({reason_of(error)})",
            place=str(path),
            cure="give a folder with config.json and safetensors, or a hub name",
        ) from error


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


def load_processor(path: str | Path, settings: Mapping[str, Any] | None = None) -> Any:
    """The model's processor, with the PIL image backend: torchvision is not needed.

    Args:
        path: a folder or a hub name.
        settings: of its image processor, where they shall differ from the checkpoint's.

    Raises:
        FinedeficsError: the checkpoint has no image processor or tokenizer, or the image processor no such
            setting (exit code 2).
    """
    from transformers import AutoConfig, AutoProcessor

    kind = AutoConfig.from_pretrained(str(path), trust_remote_code=False).model_type
    if kind not in FAMILIES or not FAMILIES[kind].films:
        processor = AutoProcessor.from_pretrained(str(path), trust_remote_code=False, backend="pil")
    else:
        processor = _pictures_only(path, FAMILIES[kind].processor)
    if settings:
        processor.image_processor = _with_settings(processor.image_processor, settings)
    return processor


def _with_settings(images: Any, settings: Mapping[str, Any]) -> Any:
    """An image processor like the given one, but for some settings.

    Raises:
        FinedeficsError: it has no such setting, or not with such a value (exit code 2).
    """
    stored = images.to_dict()
    # what the weights were made for is no setting
    fixed = {"image_processor_type", "image_seq_length", "patch_size", "merge_size", "temporal_patch_size"}
    also = {"min_pixels", "max_pixels"} & set(getattr(images.valid_kwargs, "__annotations__", ()))
    known = sorted((stored.keys() | also) - fixed)
    for name in settings:
        if name not in known:
            raise wrong_use(
                f"{type(images).__name__.removesuffix('Pil')} has no setting {name!r}",
                place="model.processor",
                cure=f"use one of {', '.join(known)}",
            )
    try:
        return type(images).from_dict({**stored, **settings})
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        told = ", ".join(f"{name}: {value}" for name, value in settings.items())
        raise wrong_use(
            f"{type(images).__name__.removesuffix('Pil')} refuses {told} ({reason_of(error)})",
            place="model.processor",
            cure="give values of the kind that the checkpoint's preprocessor_config.json has",
        ) from error


def _pictures_only(path: str | Path, name: str) -> Any:
    """A processor of an image processor and a tokenizer, for families whose own also takes films."""
    import transformers

    kind = without_films(getattr(transformers, name))
    images = transformers.AutoImageProcessor.from_pretrained(
        str(path), trust_remote_code=False, backend="pil"
    )
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
