"""The generated world's base model: a tiny Idefics2 with the diagnosis the method starts from.

It is not random weights, but a model that sees the attributes (it was taught to caption birds of no species),
knows the categories (it was taught their texts), and has never connected the two. It is saved as an ordinary
Hugging Face folder and used everywhere as any other checkpoint would be.
"""

import math
import string
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finedefics.backbones import Backbone
from finedefics.conversation import Renderer, Templates, pad_right
from finedefics.data.birds import ATTRIBUTE_VALUES, describe
from finedefics.data.captions import some
from finedefics.data.generated import World, random_birds
from finedefics.data.generated_names import FEW, words_of

CHAT_TEMPLATE = (
    "{% for message in messages %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<end_of_utterance>{% endfor %}"
)
Watch = Callable[[str, int, int], None]  # what is being done, steps done, steps in all


@dataclass(frozen=True)
class Sizes:
    """Widths and depths of a tiny Idefics2; the defaults are the demo's (0.7 M parameters)."""

    image_edge: int = 64
    patch: int = 8
    latents: int = 8
    vision_hidden: int = 64
    vision_layers: int = 3
    text_hidden: int = 96
    text_layers: int = 3
    heads: int = 4


SIZES = Sizes()


@dataclass(frozen=True)
class BaseRecipe:
    """How the base model is taught; the defaults are what the demo uses.

    ``begins``: its tokenizer puts a beginning of sequence before every text, as Idefics2's does.
    ``caption_attributes``: its captions tell so many of the visible attributes; None tells all.
    """

    birds: int = 3000
    vision_steps: int = 600
    vision_batch: int = 32
    vision_rate: float = 3e-3
    language_steps: int = 450
    language_batch: int = 24
    language_rate: float = 2e-3
    begins: bool = False
    caption_attributes: int | None = None


def build_base(
    world: World,
    folder: Path,
    recipe: BaseRecipe | None = None,
    *,
    sizes: Sizes = SIZES,
    seed: int = 0,
    watch: Watch | None = None,
) -> None:
    """Teach the base model of a world and save it as a Hugging Face folder.

    Args:
        world: its species' names and descriptions are what the model knows from text.
        folder: where `config.json`, `model.safetensors` and the processor are written.
        recipe: steps and rates.
        sizes: of the model.
        seed: of weights, birds and order.
        watch: told of the progress.
    """
    recipe, watch = recipe or BaseRecipe(), watch or (lambda *_: None)
    torch.manual_seed(seed)
    backbone = untrained_backbone(sizes, begins=recipe.begins, species=len(world.species))
    pixels, seen = _birds(recipe.birds, seed, sizes.image_edge, backbone.processor, watch)
    generator = torch.Generator().manual_seed(seed)
    with _one_thread():
        _teach_to_see(backbone, pixels, seen, recipe, generator, watch)
        told = [some(each, recipe.caption_attributes, [seed, 6, i]) for i, each in enumerate(seen)]
        _teach_to_speak(backbone, pixels, told, world, recipe, generator, watch)
    backbone.save_pretrained(folder)


@contextmanager
def _one_thread() -> Iterator[None]:
    """A model this small gains nothing from a second thread, and loses much where that waits for a core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def untrained_backbone(sizes: Sizes = SIZES, *, begins: bool = False, species: int = FEW) -> Backbone:
    """A tiny Idefics2 of random weights, with its own tokenizer and processor.

    Args:
        begins: the tokenizer puts a beginning of sequence before every text.
        species: the words that name so many are words of its vocabulary; others are spelled.
    """
    from transformers import Idefics2Config, Idefics2ForConditionalGeneration

    processor = _processor(sizes, begins, species)
    tokenizer = processor.tokenizer
    config = Idefics2Config(
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
        vision_config={
            "hidden_size": sizes.vision_hidden,
            "intermediate_size": 2 * sizes.vision_hidden,
            "num_hidden_layers": sizes.vision_layers,
            "num_attention_heads": sizes.heads,
            "image_size": sizes.image_edge,
            "patch_size": sizes.patch,
            # with the default 0.02 a tower this narrow ignores the picture for hundreds of steps
            "initializer_range": 0.7 / math.sqrt(sizes.vision_hidden),
        },
        perceiver_config={
            "resampler_n_latents": sizes.latents,
            "resampler_depth": 2,
            "resampler_n_heads": sizes.heads,
            "resampler_head_dim": sizes.text_hidden // sizes.heads,
            "num_key_value_heads": sizes.heads,
            "hidden_size": sizes.text_hidden,
        },
        text_config={
            "model_type": "mistral",
            "vocab_size": len(tokenizer),
            "hidden_size": sizes.text_hidden,
            "intermediate_size": 2 * sizes.text_hidden,
            "num_hidden_layers": sizes.text_layers,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.heads,
            "max_position_embeddings": 1024,
            "initializer_range": 0.7 / math.sqrt(sizes.text_hidden),
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
    )
    model = Idefics2ForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    latents = model.model.connector.perceiver_resampler.latents
    # the library starts all latents equal, and equal latents get equal gradients: they would never part
    nn.init.normal_(latents, std=1.0)
    return Backbone(model, processor, train=("vision", "connector", "text"))


def _processor(sizes: Sizes, begins: bool, species: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import Idefics2Processor, PreTrainedTokenizerFast
    from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

    special = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "<fake_token_around_image>", "<end_of_utterance>"]
    first, second = words_of(species)
    words = [*first, *second, *ATTRIBUTE_VALUES, "bar"]
    words += [value for values in ATTRIBUTE_VALUES.values() for value in values]
    templates = Templates()
    spoken = " ".join([templates.question, templates.request, *templates.statements])
    words += [w for w, _ in pre_tokenizers.Whitespace().pre_tokenize_str(spoken)]
    # Words of other worlds are spelled, so that two names are never one text.
    letters = [*string.ascii_letters, *string.digits, *string.punctuation]
    spelled = [*letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*special, *words, *spelled]))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    tokenizer.normalizer = normalizers.Replace(",", "")
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if begins:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", vocabulary["<s>"])]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
    )
    fast.add_special_tokens({"additional_special_tokens": special[4:]})
    size = {"shortest_edge": sizes.image_edge, "longest_edge": sizes.image_edge}
    images = Idefics2ImageProcessorPil(size=size, do_image_splitting=False)
    return Idefics2Processor(images, fast, image_seq_len=sizes.latents, chat_template=CHAT_TEMPLATE)


def _birds(
    count: int, seed: int, edge: int, processor: Any, watch: Watch
) -> tuple[Tensor, list[dict[str, str]]]:
    pixels = torch.empty(count, 3, edge, edge)
    seen = []
    for number, (image, visible) in enumerate(random_birds(count, seed)):
        pixels[number] = torch.as_tensor(
            np.asarray(processor.image_processor([[image]], return_tensors="np")["pixel_values"])[0, 0]
        )
        seen.append(visible)
        if number % 50 == 49 or number == count - 1:
            watch("drawing birds", number + 1, count)
    return pixels, seen


def _vision_features(backbone: Backbone, pixels: Tensor) -> Tensor:
    vision = backbone.part("vision")
    edge = vision.config.image_size // vision.config.patch_size
    mask = torch.ones(len(pixels), edge, edge, dtype=torch.bool)
    return vision(pixel_values=pixels, patch_attention_mask=mask).last_hidden_state


class _AttributeHeads(nn.Module):
    """One attention-pooled classifier an attribute, so that small parts are found wherever they are."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(len(ATTRIBUTE_VALUES), hidden) * hidden**-0.5)
        self.classify = nn.ModuleList(nn.Linear(hidden, len(v)) for v in ATTRIBUTE_VALUES.values())

    def forward(self, features: Tensor) -> list[Tensor]:
        weights = (features @ self.queries.T).softmax(1)  # [batch, patches, attributes]
        pooled = torch.einsum("bpa,bph->abh", weights, features)
        return [head(vector) for head, vector in zip(self.classify, pooled, strict=True)]


def _teach_to_see(
    backbone: Backbone,
    pixels: Tensor,
    seen: list[dict[str, str]],
    recipe: BaseRecipe,
    generator: torch.Generator,
    watch: Watch,
) -> None:
    heads = _AttributeHeads(backbone.part("vision").config.hidden_size)
    table = list(ATTRIBUTE_VALUES.items())
    codes = [[v.index(s[n]) if n in s else -100 for n, v in table] for s in seen]
    truth = torch.tensor(codes).T  # [attributes, birds]; hidden ones are not learned
    parameters = [*backbone.part("vision").parameters(), *heads.parameters()]
    optimizer, schedule = _optimizer(parameters, recipe.vision_rate, recipe.vision_steps)
    order = _order(len(pixels), recipe.vision_batch, generator)
    for step in range(recipe.vision_steps):
        chosen = next(order)
        answers = heads(_vision_features(backbone, pixels[chosen]))
        losses = [
            F.cross_entropy(a, t[chosen], ignore_index=-100) for a, t in zip(answers, truth, strict=True)
        ]
        _update(torch.stack(losses).sum(), parameters, optimizer, schedule)
        watch("learning to see attributes", step + 1, recipe.vision_steps)


@torch.no_grad()
def _standardised_features(backbone: Backbone, pixels: Tensor) -> Tensor:
    """Features of every bird, after folding their mean and deviation into the tower's last layer norm."""
    features = torch.cat([_vision_features(backbone, part) for part in pixels.split(100)])
    mean, deviation = features.mean((0, 1)), features.std((0, 1))
    norm = backbone.part("vision").post_layernorm
    norm.bias.copy_((norm.bias - mean) / deviation)
    norm.weight.div_(deviation)
    return (features - mean) / deviation


def _teach_to_speak(
    backbone: Backbone,
    pixels: Tensor,
    told: list[dict[str, str]],
    world: World,
    recipe: BaseRecipe,
    generator: torch.Generator,
    watch: Watch,
) -> None:
    features = _standardised_features(backbone, pixels)
    render = Renderer(backbone.processor)
    prompt = render.prompt(render.templates.request)
    block = [backbone.image_token_id] * backbone.processor.image_seq_len
    fake = render.tokenizer.convert_tokens_to_ids("<fake_token_around_image>")
    head = [*prompt.before, fake, *block, fake, *prompt.after]
    captions = [(*head, *render.answer(describe(t))) for t in told]
    sentences = [t for s in world.species for t in render.statement_tokens(s.name, s.description)]
    backbone.train_parts(("connector", "text"))
    parameters = [p for p in backbone.parameters() if p.requires_grad]
    optimizer, schedule = _optimizer(parameters, recipe.language_rate, recipe.language_steps)
    birds = _order(len(captions), recipe.language_batch, generator)
    texts = _order(len(sentences), recipe.language_batch, generator)
    for step in range(recipe.language_steps):
        chosen = next(birds)
        rows = [(captions[i], len(head)) for i in chosen] + [(sentences[i], 1) for i in next(texts)]
        mask = torch.ones(len(chosen), features.shape[1], dtype=torch.bool)
        image_tokens = backbone.part("connector")(features[chosen], attention_mask=mask)
        _update(
            _next_token_loss(backbone, rows, list(image_tokens), render.pad), parameters, optimizer, schedule
        )
        watch("learning to describe and to know the species' texts", step + 1, recipe.language_steps)


def _next_token_loss(
    backbone: Backbone, rows: list[tuple[tuple[int, ...], int]], image_tokens: list[Tensor], pad: int
) -> Tensor:
    ids = torch.tensor(pad_right([r for r, _ in rows], pad))
    lengths = torch.tensor([len(r) for r, _ in rows])
    places = torch.arange(ids.shape[1])
    mask = (places < lengths[:, None]).long()
    learned = (mask.bool() & (places >= torch.tensor([start for _, start in rows])[:, None]))[:, 1:]
    hidden = backbone.hidden_states(backbone.embed_tokens(ids, image_tokens), mask)
    return F.cross_entropy(backbone.logits(hidden[:, :-1][learned]), ids[:, 1:][learned])


def _optimizer(parameters: list[nn.Parameter], rate: float, steps: int) -> tuple[Any, Any]:
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    warm = max(1, min(50, steps // 10))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warm, 0.02 + 0.98 * (steps - s) / max(1, steps - warm))
    )
    return optimizer, schedule


def _update(loss: Tensor, parameters: list[nn.Parameter], optimizer: Any, schedule: Any) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    schedule.step()


def _order(count: int, batch: int, generator: torch.Generator) -> Iterator[list[int]]:
    queue: list[int] = []
    while True:
        while len(queue) < batch:
            queue += torch.randperm(count, generator=generator).tolist()
        yield queue[:batch]
        queue = queue[batch:]
