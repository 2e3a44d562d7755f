"""Low-rank adapters (through PEFT): what is trained where the weights are too many or too precious.

An adapter adds ``scale * B A`` of a low rank to a linear layer's weight (LoRA, Hu et al. 2022), with the
weight's length learned apart (DoRA, Liu et al. 2024), or beside weights held in four bits (QLoRA, Dettmers et
al. 2023). The backbone stays what it was to everything else; temperatures live in the objective and are not
touched. Merged, a model is an ordinary checkpoint again.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from finedefics.backbones import Backbone
from finedefics.errors import FinedeficsError, wrong_use

Kind = Literal["full", "lora", "dora", "qlora"]
Target = Literal["text", "projection", "resampler", "vision"]
Initial = Literal["kaiming", "gaussian"]
Gather = Callable[[Sequence[nn.Parameter]], AbstractContextManager[Any]]
_LINEAR = ("Linear", "Linear4bit")  # exactly: a subclass may be read by its owner without being called
_PREFIX = "base_model.model."  # of PEFT's files, whose keys count from the model that PEFT wraps
_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True)
class AdapterSettings:
    """What is adapted, and how.

    Attributes:
        kind: ``full`` (no adapters), ``lora``, ``dora``, or ``qlora``: LoRA beside weights in NF4.
        rank: of the update.
        alpha: the update is scaled by ``alpha / rank``.
        dropout: on the adapters' input.
        init: of A; B starts at zero, so that training starts from the model as it is.
        targets: where adapters stand: the linear layers of the language model (``text``), of the connector's
            projection, of its resampler (in families that have one) and of the vision tower.

    Raises:
        FinedeficsError: a value is unknown or out of range (exit code 2).
    """

    kind: Kind = "full"
    rank: int = 8
    alpha: float = 8.0
    dropout: float = 0.0
    init: Initial = "kaiming"
    targets: tuple[Target, ...] = ("text", "projection", "resampler")

    def __post_init__(self) -> None:
        choices = (("kind", (self.kind,), Kind), ("init", (self.init,), Initial))
        for name, given, known in (*choices, ("targets", self.targets, Target)):
            if unknown := [value for value in given if value not in get_args(known)]:
                raise wrong_use(
                    f"unknown value {unknown[0]!r}",
                    place=f"adapters.{name}",
                    cure=f"choose of {', '.join(get_args(known))}",
                )
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise wrong_use(
                f"rank {self.rank}, alpha {self.alpha:g}, dropout {self.dropout:g}",
                place="adapters",
                cure="use a rank of at least 1, an alpha above 0 and a dropout from 0 to below 1",
            )


def quantization(settings: AdapterSettings, dtype: str = "float32") -> Any | None:
    """What `load_backbone` takes as ``quantization``: NF4 for ``qlora``, None for the other kinds.

    Args:
        dtype: in which the dequantized weights are multiplied.

    Raises:
        FinedeficsError: bitsandbytes is not installed.
    """
    if settings.kind != "qlora":
        return None
    if find_spec("bitsandbytes") is None:
        raise FinedeficsError(
            "qlora needs bitsandbytes, which is not installed",
            place="adapters.kind",
            cure="pip install bitsandbytes, or use lora",
        )
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, dtype)
    )


def apply(
    backbone: Backbone, settings: AdapterSettings, *, seed: int = 0, gather: Gather | None = None
) -> Backbone:
    """Put fresh adapters into the backbone; everything but them is frozen from here on.

    Args:
        backbone: changed in place, and returned. With kind ``full`` nothing changes.
        seed: of the adapters, so that every rank starts from the same.
        gather: makes the given parameters whole inside (ZeRO 3); DoRA measures the weights it starts from.

    Raises:
        FinedeficsError: the targets hold no linear layer, or qlora meets weights that are not quantized.
        ValueError: there are adapters already.
    """
    if settings.kind == "full":
        return backbone
    _refuse_adapted(backbone)
    if settings.kind == "qlora" and not quantized(backbone):
        raise wrong_use(
            "the weights are not quantized",
            place="adapters.kind",
            cure="load the backbone with quantization=quantization(settings)",
        )
    from peft import LoraConfig, inject_adapter_in_model

    names = target_names(backbone, settings.targets)
    if not names:
        raise wrong_use(
            f"this model has no linear layer in {', '.join(settings.targets)}",
            place="adapters.targets",
            cure=f"choose of {', '.join(get_args(Target))}",
        )
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        init_lora_weights=True if settings.init == "kaiming" else "gaussian",
        use_dora=settings.kind == "dora",
        target_modules=names,
    )
    # adapters are drawn on the CPU, wherever they go then: no device's random state is touched
    with torch.random.fork_rng(devices=[]), _measured(backbone, config, gather):
        torch.default_generator.manual_seed(seed)
        inject_adapter_in_model(config, backbone.model)
    backbone.model.train(backbone.model.training)  # PEFT's dropout comes in training mode
    return backbone


def target_names(backbone: Backbone, targets: Sequence[str]) -> list[str]:
    """Dotted names, within the model, of the linear layers in the targets."""
    inside = {part: set(map(id, backbone.part(part).modules())) for part in ("connector", "text", "vision")}

    def place(name: str, module: nn.Module) -> str | None:
        # the connector first: it may stand inside the vision tower
        part = next((part for part, modules in inside.items() if id(module) in modules), None)
        if part != "connector":
            return part
        return "resampler" if "resampler" in name else "projection"

    return [
        name
        for name, module in backbone.model.named_modules()
        if type(module).__name__ in _LINEAR and place(name, module) in targets
    ]


def adapted(backbone: Backbone) -> bool:
    """Whether there are adapters in the backbone."""
    return bool(_layers(backbone))


def merge(backbone: Backbone, *, gather: Gather | None = None) -> Backbone:
    """Add the adapters to the weights and take them out: the model is an ordinary one again.

    Weights in four bits become ordinary ones of the model's dtype, with the adapters added to them: to
    quantize the sum anew would add NF4's noise once more.

    Args:
        backbone: changed in place, and returned; all weights are frozen afterwards.
        gather: makes the given parameters whole inside, and keeps what is written to them (ZeRO 3).

    Raises:
        FinedeficsError: an adapter holds NaN or infinity; nothing has changed then.
    """
    layers = _layers(backbone)
    if not layers:
        return backbone
    for name, layer in layers.items():
        own = [parameter for key, parameter in layer.named_parameters() if "lora_" in key]
        with gather(own) if gather else nullcontext():
            if not all(parameter.isfinite().all() for parameter in own):
                raise _diverged(name)
    in_four_bits, model = quantized(backbone), backbone.model
    for name, layer in layers.items():
        if not in_four_bits:
            with gather(list(layer.parameters())) if gather else nullcontext():
                try:
                    layer.merge(safe_merge=True)
                except ValueError as error:
                    raise _diverged(name) from error
    _take_out(backbone)
    if in_four_bits:
        model.dequantize()
        for name, layer in layers.items():
            (adapter,) = layer.active_adapters
            weight = model.get_submodule(name).weight
            weight.data += layer.get_delta_weight(adapter).to(weight)
    model.requires_grad_(False)
    return backbone


def export(backbone: Backbone, folder: str | Path) -> None:
    """Merge, and write an ordinary Hugging Face folder that plain transformers loads."""
    merge(backbone).save_pretrained(folder)


def save_adapters(
    backbone: Backbone, folder: str | Path, state_dict: Mapping[str, Tensor] | None = None
) -> None:
    """Write the adapters alone, in PEFT's format: ``PeftModel.from_pretrained(base, folder)`` reads them.

    Args:
        state_dict: the model's consolidated weights where they are sharded over ranks.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    if not adapted(backbone):
        raise ValueError("the backbone has no adapters")
    folder = Path(folder)
    state = get_peft_model_state_dict(backbone.model, state_dict=state_dict)
    (config,) = backbone.model.peft_config.values()
    config.save_pretrained(str(folder))
    tensors = {_PREFIX + name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(tensors, str(folder / _WEIGHTS), metadata={"format": "pt"})


def load_adapters(backbone: Backbone, folder: str | Path, *, gather: Gather | None = None) -> Backbone:
    """Put saved adapters into a backbone of the model they were trained on; they can be trained on.

    Args:
        gather: as in `apply`.

    Raises:
        FinedeficsError: the folder holds no adapters, or adapters of another model; nothing has changed then.
        ValueError: there are adapters already.
    """
    from peft import (
        PeftConfig,
        get_peft_model_state_dict,
        inject_adapter_in_model,
        set_peft_model_state_dict,
    )
    from safetensors.torch import load_file

    _refuse_adapted(backbone)
    folder, model = Path(folder), backbone.model
    if missing := [name for name in (_WEIGHTS, _CONFIG) if not (folder / name).is_file()]:
        raise FinedeficsError(
            f"no adapters here: {missing[0]} is missing",
            place=str(folder),
            cure=f"give a folder with {_WEIGHTS} and {_CONFIG}",
        )
    stored = load_file(str(folder / _WEIGHTS))
    state = {name.removeprefix(_PREFIX): tensor for name, tensor in stored.items()}
    tuned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        config = PeftConfig.from_pretrained(str(folder))
        with _measured(backbone, config, gather):
            inject_adapter_in_model(config, model)
        # PEFT would leave adapters without stored weights as they come: a deeper model's further layers
        if apart := sorted(get_peft_model_state_dict(model).keys() ^ state.keys()):
            raise ValueError(f"{apart[0]} is {'not in it' if apart[0] in state else 'not among them'}")
        set_peft_model_state_dict(model, state)
    except (RuntimeError, ValueError) as error:
        _take_out(backbone)
        for parameter in tuned:
            parameter.requires_grad_(True)
        raise FinedeficsError(
            f"these adapters do not fit the model ({str(error).splitlines()[0][:120]})",
            place=str(folder),
            cure="load them into the model they were trained on",
        ) from error
    model.train(model.training)  # as in `apply`
    return backbone


def _measured(backbone: Backbone, config: Any, gather: Gather | None) -> AbstractContextManager[Any]:
    """Inside, the weights that adapters of this configuration start from are whole: DoRA takes their norm."""
    if gather is None or not config.use_dora:
        return nullcontext()
    ends = tuple(f".{name}" for name in config.target_modules)  # PEFT shortens the names it has stored
    return gather([m.weight for name, m in backbone.model.named_modules() if f".{name}".endswith(ends)])


def _refuse_adapted(backbone: Backbone) -> None:
    if adapted(backbone):
        raise ValueError("the backbone has adapters already: merge them first")


def _take_out(backbone: Backbone) -> None:
    """Put the layers that were adapted back in the adapters' place."""
    for name, layer in _layers(backbone).items():
        backbone.model.set_submodule(name, layer.get_base_layer())
    if hasattr(backbone.model, "peft_config"):
        del backbone.model.peft_config


def _diverged(name: str) -> FinedeficsError:
    return FinedeficsError("the adapter holds NaN or infinity", place=name, cure="lower the learning rate")


def _layers(backbone: Backbone) -> dict[str, Any]:
    """The adapted layers by their names within the model."""
    from peft.tuners.lora import LoraLayer

    return {name: m for name, m in backbone.model.named_modules() if isinstance(m, LoraLayer)}


def quantized(backbone: Backbone) -> bool:
    """Whether the weights are held in four bits."""
    return bool(getattr(backbone.model, "is_loaded_in_4bit", False))
