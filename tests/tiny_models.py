"""Tiny models of random weights, one a family, saved as ordinary Hugging Face folders.

Every family has its own tower, connector, language model and processor here, only small: what is tested on
them is the path from pictures and texts to embeddings and answers, not what a model knows.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = (
    "what is this ? describe . a bird has and brown red white crown bill wing long short alba corva tern wren"
)
CAPITALS = "What Describe A B C D Choices Reply with the letter of right choice , nothing else : { } name"
HIDDEN, VOCABULARY, EDGE, PATCH = 32, 128, 32, 8
TURNS = (
    "{{% for message in messages %}}{{% for part in message.content %}}"
    "{{% if part.type == 'image' %}}{image}{{% else %}}{{{{ part.text }}}}{{% endif %}}"
    "{{% endfor %}}{end}{{% endfor %}}"
)


def tokenizer(*special: str) -> PreTrainedTokenizerFast:
    """A word tokenizer that knows the family's special tokens."""
    basic = ["<pad>", "<s>", "</s>", "<unk>"]
    words = dict.fromkeys([*basic, *special, *WORDS.split(), *CAPITALS.split()])
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    fast.add_special_tokens({"additional_special_tokens": list(special)})
    return fast


def language(kind: str) -> dict[str, Any]:
    """Configuration of a language model of two layers."""
    return {
        "model_type": kind,
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": HIDDEN // 4,
        "max_position_embeddings": 128,
        "initializer_range": 0.15,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def tower(kind: str | None = None) -> dict[str, Any]:
    """Configuration of a vision tower of two layers over 4 x 4 patches."""
    config = {
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": EDGE,
        "patch_size": PATCH,
        "initializer_range": 0.15,
    }
    return config | ({"model_type": kind} if kind else {})


def idefics2(image_processors: Any) -> tuple[Any, Any]:
    """Perceiver resampler, Mistral."""
    words = tokenizer("<image>", "<fake_token_around_image>", "<end_of_utterance>")
    config = transformers.Idefics2Config(
        image_token_id=words.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
        vision_config=tower(),
        perceiver_config={
            "resampler_n_latents": 4,
            "resampler_depth": 1,
            "resampler_n_heads": 4,
            "resampler_head_dim": 8,
            "num_key_value_heads": 2,
            "hidden_size": HIDDEN,
        },
        text_config=language("mistral"),
    )
    images = image_processors.Idefics2ImageProcessorPil(
        size={"shortest_edge": EDGE, "longest_edge": EDGE}, do_image_splitting=False
    )
    turns = TURNS.format(image="<image>", end="<end_of_utterance>")
    processor = transformers.Idefics2Processor(images, words, image_seq_len=4, chat_template=turns)
    return transformers.Idefics2ForConditionalGeneration(config), processor


def idefics2_like_the_release(corpus: Sequence[str]) -> tuple[Any, Any]:
    """Idefics2 that converses as its checkpoint does, with a tokenizer of its kind, learned from a corpus.

    As in Mistral's tokenizer, pieces of words are merged; a blank belongs to the word behind it, and every
    text, also one behind a special token, begins with one; a beginning of sequence stands before all.
    """
    from tokenizers import decoders, normalizers, processors, trainers

    model, processor = idefics2(_ImageProcessors())
    added = ["<image>", "<fake_token_around_image>", "<end_of_utterance>"]
    special = ["<pad>", "<s>", "</s>", "<unk>", *added]
    raw = Tokenizer(models.BPE(unk_token="<unk>"))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # no merge goes over a blank
    raw.decoder = decoders.Metaspace()
    raw.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special))
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", raw.token_to_id("<s>"))]
    )
    words = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    words.add_special_tokens({"additional_special_tokens": added})
    model.config.image_token_id = words.convert_tokens_to_ids("<image>")
    turns = (
        "{% for turn in messages %}{{ turn.role.capitalize() }}:"
        "{{ '' if turn.content[0].type == 'image' else ' ' }}"
        "{% for part in turn.content %}{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}"
        "{{ '<end_of_utterance>\n' }}{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
    )
    kind = type(processor)
    return model, kind(processor.image_processor, words, image_seq_len=4, chat_template=turns)


def idefics3(image_processors: Any) -> tuple[Any, Any]:
    """Pixel shuffle, Llama; pictures are cut into tiles and stand beside a view of the whole."""
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 3) for column in range(1, 3)]
    words = tokenizer("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *tiles)
    config = transformers.Idefics3Config(
        image_token_id=words.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
        scale_factor=2,
        vision_config=tower(),
        text_config=language("llama"),
    )
    images = image_processors.Idefics3ImageProcessorPil(
        size={"longest_edge": 2 * EDGE}, max_image_size={"longest_edge": EDGE}
    )
    turns = TURNS.format(image="<image>", end="<end_of_utterance>")
    processor = transformers.Idefics3Processor(images, words, image_seq_len=4, chat_template=turns)
    return transformers.Idefics3ForConditionalGeneration(config), processor


def smolvlm(image_processors: Any) -> tuple[Any, Any]:
    """Idefics3's parts under SmolVLM's name; its own processor needs torchvision."""
    model, processor = idefics3(image_processors)
    config = transformers.SmolVLMConfig(
        image_token_id=model.config.image_token_id,
        tie_word_embeddings=False,
        scale_factor=2,
        vision_config=tower(),
        text_config=language("llama"),
    )
    return transformers.SmolVLMForConditionalGeneration(config), processor


def qwen2_5_vl(image_processors: Any) -> tuple[Any, Any]:
    """Patches in windows, pictures of any shape, positions on three axes."""
    words = tokenizer("<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>", "<|im_end|>")
    text = {k: v for k, v in language("").items() if k not in ("head_dim", "model_type")}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    config = transformers.Qwen2_5_VLConfig(
        image_token_id=words.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=words.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=words.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=words.convert_tokens_to_ids("<|vision_end|>"),
        tie_word_embeddings=False,
        vision_config={
            "depth": 2,
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_heads": 4,
            "patch_size": PATCH,
            "window_size": 4 * PATCH,
            "fullatt_block_indexes": [1],
            "out_hidden_size": HIDDEN,
            "initializer_range": 0.15,
        },
        text_config={**text, "rope_parameters": rope},
    )
    images = image_processors.Qwen2VLImageProcessorPil(
        size={"shortest_edge": (2 * PATCH) ** 2, "longest_edge": (6 * PATCH) ** 2}, patch_size=PATCH
    )
    turns = TURNS.format(image="<|vision_start|><|image_pad|><|vision_end|>", end="<|im_end|>")
    processor = pictures_only(transformers.Qwen2_5_VLProcessor)(images, words, chat_template=turns)
    return transformers.Qwen2_5_VLForConditionalGeneration(config), processor


def llava_onevision(image_processors: Any) -> tuple[Any, Any]:
    """A base view and tiles, ended by a learned token a row."""
    words = tokenizer("<image>", "<video>", "<|im_end|>")
    pinpoints = [[EDGE, EDGE], [EDGE, 2 * EDGE], [2 * EDGE, EDGE]]
    config = transformers.LlavaOnevisionConfig(
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
        vision_config={**tower("siglip_vision_model"), "vision_use_head": False},
        text_config=language("qwen2"),
    )
    images = image_processors.LlavaOnevisionImageProcessorPil(
        size={"height": EDGE, "width": EDGE}, image_grid_pinpoints=pinpoints
    )
    processor = pictures_only(transformers.LlavaOnevisionProcessor)(
        images,
        words,
        num_image_tokens=(EDGE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=TURNS.format(image="<image>", end="<|im_end|>"),
    )
    return transformers.LlavaOnevisionForConditionalGeneration(config), processor


def llava_next(image_processors: Any) -> tuple[Any, Any]:
    """As its successor, with a CLIP tower, whose class token is left out."""
    words = tokenizer("<image>", "<|im_end|>")
    pinpoints = [[EDGE, 2 * EDGE], [2 * EDGE, EDGE], [2 * EDGE, 2 * EDGE]]
    config = transformers.LlavaNextConfig(
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=pinpoints,
        image_seq_length=(EDGE // PATCH) ** 2,
        vision_config={**tower("clip_vision_model"), "projection_dim": HIDDEN},
        text_config=language("llama"),
    )
    images = image_processors.LlavaNextImageProcessorPil(
        size={"shortest_edge": EDGE},
        crop_size={"height": EDGE, "width": EDGE},
        image_grid_pinpoints=pinpoints,
    )
    processor = transformers.LlavaNextProcessor(
        images,
        words,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TURNS.format(image="<image>", end="<|im_end|>"),
    )
    return transformers.LlavaNextForConditionalGeneration(config), processor


def paligemma(image_processors: Any, text: dict[str, Any] | None = None) -> tuple[Any, Any]:
    """SigLIP and Gemma, and no chat template, as the checkpoints have none."""
    words = tokenizer("<image>")
    count = (EDGE // PATCH) ** 2
    images = image_processors.SiglipImageProcessorPil(size={"height": EDGE, "width": EDGE})
    images.image_seq_length = count
    processor = transformers.PaliGemmaProcessor(images, words)
    config = transformers.PaliGemmaConfig(
        image_token_index=words.convert_tokens_to_ids("<image>"),
        projection_dim=HIDDEN,
        hidden_size=HIDDEN,
        vision_config={**tower("siglip_vision_model"), "vision_use_head": False, "projection_dim": HIDDEN},
        text_config=(text or language("gemma")) | {"vocab_size": len(words)},
    )
    return transformers.PaliGemmaForConditionalGeneration(config), processor


def paligemma2(image_processors: Any) -> tuple[Any, Any]:
    """PaliGemma over Gemma 2, whose logits are capped; the model's type is the same."""
    capped = {"query_pre_attn_scalar": HIDDEN // 4, "sliding_window": 64, "final_logit_softcapping": 1.0}
    return paligemma(image_processors, language("gemma2") | capped)


def pictures_only(kind: Any) -> Any:
    """What loading makes of a processor that also takes films."""
    from finedefics.backbones.loading import without_films

    return without_films(kind)


FAMILIES: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    build.__name__: build
    for build in (idefics2, idefics3, smolvlm, qwen2_5_vl, llava_next, llava_onevision, paligemma, paligemma2)
}


class _ImageProcessors:
    """The PIL image processors by name, wherever transformers keeps them."""

    def __getattr__(self, name: str) -> Any:
        from importlib import import_module

        for module in ("idefics2", "idefics3", "qwen2_vl", "llava_next", "llava_onevision", "siglip"):
            found = import_module(f"transformers.models.{module}.image_processing_pil_{module}")
            if hasattr(found, name):
                return getattr(found, name)
        raise AttributeError(name)


def save_tiny(family: str, folder: Path) -> Path:
    """Build one family's model and processor and save them as an ordinary folder."""
    torch.manual_seed(0)
    model, processor = FAMILIES[family](_ImageProcessors())
    for name, parameter in model.named_parameters():
        if name.endswith(("latents", "image_newline", "bias")):  # constant at first, blind to mistakes
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
