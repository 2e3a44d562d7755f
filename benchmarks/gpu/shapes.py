"""Models of random weights in the size of real ones, built where they stay; nothing is downloaded."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from finedefics.adapters import AdapterSettings, apply
from finedefics.backbones import Backbone
from finedefics.backbones.loading import without_films
from finedefics.base_model import Sizes, untrained_backbone

LORA = AdapterSettings("lora", init="gaussian", targets=("text",))  # rank 8
TRAINED = ("text", "connector")  # of whole weights, as the platform has it by default


@dataclass(frozen=True)
class Shape:
    """Sizes of a model. ``window`` is the edge of the vision tower's windows in patches (0: it has none), and
    ``whole`` says how many of its layers see the whole picture."""

    patch: int
    vision_hidden: int
    vision_intermediate: int
    vision_layers: int
    heads: int
    text_hidden: int
    text_intermediate: int
    text_layers: int
    text_heads: int
    key_value_heads: int
    vocabulary: int
    largest: int = 980  # edge of the largest picture
    latents: int = 64
    resampler_heads: int = 16
    resampler_head_dim: int = 96
    resampler_depth: int = 3
    window: int = 0
    whole: tuple[int, ...] = ()


SHAPES = {  # those of the public checkpoints' configurations
    "idefics2": Shape(14, 1152, 4304, 27, 16, 4096, 14336, 32, 32, 8, 32003),
    "qwen2_5_vl": Shape(
        14, 1280, 3420, 32, 16, 3584, 18944, 28, 28, 4, 152064, window=8, whole=(7, 15, 23, 31)
    ),
}
TINY = {
    "idefics2": Shape(8, 64, 128, 3, 4, 128, 256, 4, 4, 2, 320, 96, 16, 4, 32, 2),
    "qwen2_5_vl": Shape(8, 64, 128, 2, 4, 128, 256, 4, 4, 2, 320, 96, window=4, whole=(1,)),
}


def untrained(
    model: str, shape: Shape, edge: int, device: str, dtype: torch.dtype, attention: str
) -> Backbone:
    """A model of random weights on the device, nothing of it trained.

    Args:
        model: key of `SHAPES`.
        edge: of the pictures, in pixels.
        attention: the kernel by which the language model's packed rows attend.
    """
    from transformers import AutoModelForImageTextToText

    # the tokenizer of a tiny Idefics2, which spells whatever it does not know; its model is thrown away
    processor = untrained_backbone(Sizes(edge, shape.patch, shape.latents, vision_layers=1)).processor
    made = {"idefics2": _idefics2, "qwen2_5_vl": _qwen}[model]
    config, processor = made(shape, edge, processor)
    with torch.device(device):  # made where it stays: its weights need not pass through this machine's memory
        built = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    return Backbone(built, processor, train=(), attention=attention)


def prepared(backbone: Backbone, tuning: str) -> Backbone:
    """The model as it is tuned: ``lora`` and ``qlora`` (rank 8, language model), or ``full``."""
    if tuning == "full":
        backbone.train_parts(TRAINED)
        return backbone
    if tuning == "qlora":
        hold_in_four_bits(backbone)
    apply(backbone, LORA)
    for name, parameter in backbone.named_parameters():
        if "lora_B" in name:  # zero at the start, which would hide half of the adapters' gradients
            nn.init.normal_(parameter, std=0.02)
    return backbone


def hold_in_four_bits(backbone: Backbone) -> None:
    """Put NF4 layers in the place of all linear ones but the output head, as loading a checkpoint would.

    Raises:
        ImportError: bitsandbytes is not installed.
    """
    import bitsandbytes

    model, device = backbone.model, backbone.device
    head = model.get_output_embeddings()
    for name, layer in list(model.named_modules()):
        if type(layer) is not nn.Linear or layer is head:
            continue
        held = bitsandbytes.nn.Linear4bit(
            layer.in_features,
            layer.out_features,
            layer.bias is not None,
            compute_dtype=layer.weight.dtype,
            quant_type="nf4",
            device="meta",
        )
        held.weight = bitsandbytes.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
        held.bias = layer.bias
        held.support_avx512bf16_for_cpu = False  # see `finedefics.backbones.loading`
        model.set_submodule(name, held.to(device))  # which is when its weights are quantized
    model.is_loaded_in_4bit = True


def _idefics2(shape: Shape, edge: int, processor: Any) -> tuple[Any, Any]:
    from transformers import Idefics2Config

    tokenizer = processor.tokenizer
    config = Idefics2Config(
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
        vision_config={
            "hidden_size": shape.vision_hidden,
            "intermediate_size": shape.vision_intermediate,
            "num_hidden_layers": shape.vision_layers,
            "num_attention_heads": shape.heads,
            "image_size": shape.largest,
            "patch_size": shape.patch,
        },
        perceiver_config={
            "hidden_size": shape.text_hidden,
            "resampler_n_latents": shape.latents,
            "resampler_depth": shape.resampler_depth,
            "resampler_n_heads": shape.resampler_heads,
            "resampler_head_dim": shape.resampler_head_dim,
            "num_key_value_heads": 4,
        },
        text_config={"model_type": "mistral", **_text(shape, tokenizer)},
    )
    processor.image_processor.size = {"shortest_edge": edge, "longest_edge": edge}
    return config, processor


def _qwen(shape: Shape, edge: int, processor: Any) -> tuple[Any, Any]:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = processor.tokenizer
    names = {
        "vision_start_token_id": "<|vision_start|>",
        "image_token_id": "<|image_pad|>",
        "vision_end_token_id": "<|vision_end|>",
        "video_token_id": "<|video_pad|>",
    }
    tokenizer.add_special_tokens({"additional_special_tokens": [*names.values(), "<|im_end|>"]})
    rope = {"rope_type": "default", "rope_theta": 1e6}
    eighth = shape.text_hidden // shape.text_heads // 8  # as the checkpoint's [16, 24, 24] of 64
    config = Qwen2_5_VLConfig(
        **{key: tokenizer.convert_tokens_to_ids(token) for key, token in names.items()},
        tie_word_embeddings=False,
        vision_config={
            "depth": shape.vision_layers,
            "hidden_size": shape.vision_hidden,
            "intermediate_size": shape.vision_intermediate,
            "num_heads": shape.heads,
            "patch_size": shape.patch,
            "window_size": shape.window * shape.patch,
            "fullatt_block_indexes": list(shape.whole),
            "out_hidden_size": shape.text_hidden,
        },
        text_config={
            **_text(shape, tokenizer),
            "rope_parameters": {**rope, "mrope_section": [eighth, eighth * 3 // 2, eighth * 3 // 2]},
        },
    )
    pixels = edge * edge
    images = Qwen2VLImageProcessorPil(
        size={"shortest_edge": pixels, "longest_edge": pixels}, patch_size=shape.patch
    )
    turns = processor.chat_template.replace("<image>", "<|vision_start|><|image_pad|><|vision_end|>")
    turns = turns.replace("<end_of_utterance>", "<|im_end|>")
    return config, without_films(Qwen2_5_VLProcessor)(images, tokenizer, chat_template=turns)


def _text(shape: Shape, tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": max(shape.vocabulary, len(tokenizer)),
        "hidden_size": shape.text_hidden,
        "intermediate_size": shape.text_intermediate,
        "num_hidden_layers": shape.text_layers,
        "num_attention_heads": shape.text_heads,
        "num_key_value_heads": shape.key_value_heads,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
