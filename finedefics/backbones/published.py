"""Public facts of checkpoints that the experiments here name, for arithmetic where the hub is out of reach.

Sizes of the ``config.json`` and ``preprocessor_config.json`` of the repositories of these names on the
Hugging Face hub, written down by hand and checked by the parameter counts that follow, which are those that
the model cards give: 8.4e9 and 8.3e9. Nothing is loaded or trained by them, and a checkpoint that is at hand
is always asked itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Published:
    """What a checkpoint says of itself: its configuration, and the settings of its image processor."""

    config: Mapping[str, Any]
    processor: Mapping[str, Any]


PUBLISHED: dict[str, Published] = {
    "HuggingFaceM4/idefics2-8b": Published(
        config={
            "model_type": "idefics2",
            "image_token_id": 32001,
            "tie_word_embeddings": False,
            "vision_config": {
                "hidden_size": 1152,
                "intermediate_size": 4304,
                "num_hidden_layers": 27,
                "num_attention_heads": 16,
                "image_size": 980,
                "patch_size": 14,
            },
            "perceiver_config": {
                "hidden_size": 4096,
                "resampler_n_latents": 64,
                "resampler_depth": 3,
                "resampler_n_heads": 16,
                "resampler_head_dim": 96,
                "num_key_value_heads": 4,
            },
            "text_config": {
                "model_type": "mistral",
                "vocab_size": 32003,
                "hidden_size": 4096,
                "intermediate_size": 14336,
                "num_hidden_layers": 32,
                "num_attention_heads": 32,
                "num_key_value_heads": 8,
                "max_position_embeddings": 32768,
                "sliding_window": None,
                "pad_token_id": 0,
            },
        },
        processor={"size": {"shortest_edge": 378, "longest_edge": 980}, "do_image_splitting": True},
    ),
    "Qwen/Qwen2.5-VL-7B-Instruct": Published(
        config={
            "model_type": "qwen2_5_vl",
            "image_token_id": 151655,
            "video_token_id": 151656,
            "vision_start_token_id": 151652,
            "tie_word_embeddings": False,
            "vision_config": {
                "depth": 32,
                "hidden_size": 1280,
                "intermediate_size": 3420,
                "num_heads": 16,
                "out_hidden_size": 3584,
                "patch_size": 14,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
                "window_size": 112,
                "fullatt_block_indexes": [7, 15, 23, 31],
            },
            "text_config": {
                "vocab_size": 152064,
                "hidden_size": 3584,
                "intermediate_size": 18944,
                "num_hidden_layers": 28,
                "num_attention_heads": 28,
                "num_key_value_heads": 4,
                "max_position_embeddings": 128000,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 1000000.0,
                    "mrope_section": [16, 24, 24],
                },
            },
        },
        processor={"size": {"shortest_edge": 3136, "longest_edge": 12845056}},
    ),
}


def published_config(name: str) -> Any | None:
    """The configuration of a checkpoint by its hub name, made of these facts; None where there are none."""
    from transformers import AutoConfig

    if name not in PUBLISHED:
        return None
    facts = dict(PUBLISHED[name].config)
    return AutoConfig.for_model(facts.pop("model_type"), **facts)
