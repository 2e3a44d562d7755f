"""How a model answers: each answer is one strategy that scores every category for every picture.

``names`` (likelihood of the name), ``alignment`` (similarity with the category index, one forward pass) and
``describe`` (write a description, then name the bird from its own words). A new answer is one function,
registered by name.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from finedefics.backbones import Backbone, load_backbone
from finedefics.batch import ImageEncoder, decode_image
from finedefics.conversation import Renderer, Templates, pad_right
from finedefics.errors import FinedeficsError
from finedefics.records import Category
from finedefics.registry import Registry

MAX_DESCRIPTION_TOKENS = 96


@dataclass(frozen=True)
class Answered:
    """Scores [pictures, categories] (higher is likelier) and what they cost.

    ``descriptions`` holds the model's own words where the strategy writes any.
    """

    scores: Tensor
    forwarded_tokens: int
    generated_tokens: int = 0
    descriptions: tuple[str, ...] = ()


@dataclass(frozen=True)
class CategoryIndex:
    """Embeddings of categories: the sum of the name's and the description's, [categories, dim], normalised.

    Built from texts alone, so a category is added without training and without a picture.
    """

    categories: tuple[Category, ...]
    embeddings: Tensor

    def save(self, folder: Path) -> None:
        """Write ``categories.json`` and ``index.safetensors``."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        rows = [{**vars(c), "attributes": dict(c.attributes)} for c in self.categories]
        (folder / "categories.json").write_text(json.dumps(rows, indent=1))
        save_file({"embeddings": self.embeddings.contiguous()}, str(folder / "index.safetensors"))

    @staticmethod
    def load(folder: Path) -> "CategoryIndex":
        """Read what `save` wrote; FinedeficsError when it is not there."""
        from safetensors.torch import load_file

        if not (folder / "categories.json").is_file():
            raise FinedeficsError(
                "no category index", place=str(folder), cure="evaluate the model to build one"
            )
        rows = json.loads((folder / "categories.json").read_text())
        embeddings = load_file(str(folder / "index.safetensors"))["embeddings"]
        return CategoryIndex(tuple(Category(**row) for row in rows), embeddings)


class Recogniser:
    """A model with the categories it may name.

    Args:
        backbone: the multimodal model.
        categories: what competes; every answer scores all of them, in this order.
        templates: what the model was asked in training.
        index: a stored category index of this model; built from the categories' texts otherwise.
    """

    def __init__(
        self,
        backbone: Backbone,
        categories: Sequence[Category],
        *,
        templates: Templates | None = None,
        index: CategoryIndex | None = None,
    ) -> None:
        if not categories:
            raise FinedeficsError(
                "there is no category to name", place="category table", cure="add categories"
            )
        self.backbone = backbone.eval()
        self.categories = tuple(categories)
        self.render = Renderer(backbone.processor, templates)
        self.encoder = ImageEncoder(backbone.processor)
        self.index = index or self.build_index(self.categories)

    @staticmethod
    def load(model_folder: str | Path, index_folder: str | Path) -> "Recogniser":
        """A recogniser from a model folder and the index stored with it."""
        index = CategoryIndex.load(Path(index_folder))
        return Recogniser(load_backbone(model_folder), index.categories, index=index)

    def recognise(
        self, images: Sequence[bytes | Image.Image], answer: str = "alignment", top: int = 5
    ) -> list[list[tuple[str, str, float]]]:
        """For each picture the ``top`` categories as (id, name, score), best first."""
        answered = self.answer(images, answer)
        best = answered.scores.topk(min(top, len(self.categories)), dim=1)
        return [
            [
                (self.categories[i].category_id, self.categories[i].name, s)
                for i, s in zip(ids, scores, strict=True)
            ]
            for ids, scores in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    @torch.no_grad()
    def answer(self, images: Sequence[bytes | Image.Image], answer: str) -> Answered:
        """Score every category for every picture by the named strategy; FinedeficsError for unknown names."""
        strategy = ANSWERS[answer]
        pictures = [decode_image(x, str(i)) if isinstance(x, bytes) else x for i, x in enumerate(images)]
        tensors, blocks = self.encoder(pictures)
        device = self.backbone.device
        tokens = self.backbone.encode_images({k: v.to(device) for k, v in tensors.items()})
        return strategy(self, tokens, blocks)

    @torch.no_grad()
    def build_index(self, categories: Sequence[Category]) -> CategoryIndex:
        """Embed the names and descriptions of categories."""
        texts = [c.name for c in categories] + [c.description or c.name for c in categories]
        unique = list(dict.fromkeys(texts))
        embedded = self.embed([self.render.closed(text) for text in unique])
        place = {text: i for i, text in enumerate(unique)}
        both = embedded[[place[text] for text in texts]].unflatten(0, (2, len(categories)))
        return CategoryIndex(tuple(categories), F.normalize(both.sum(0), dim=-1).cpu())

    def embed(self, sequences: Sequence[Sequence[int]], image_tokens: list[Tensor] | None = None) -> Tensor:
        """Normalised hidden state at the last token of each sequence, [sequences, dim]."""
        ids, mask = self._padded(sequences)
        hidden = self.backbone.hidden_states(self.backbone.embed_tokens(ids, image_tokens), mask)
        rows = torch.arange(len(ids), device=ids.device)
        return F.normalize(hidden[rows, mask.sum(1) - 1].float(), dim=-1)

    def completion_scores(self, embeddings: Tensor, mask: Tensor, names: Sequence[Sequence[int]]) -> Tensor:
        """Log-likelihood [prefixes, names] of each name after each left-padded prefix.

        The prefix runs once; its key-value cache is shared by all names.
        """
        count, width = len(names), max(map(len, names))
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        out = self.backbone.language_model(embeddings, mask, position_ids=positions, use_cache=True)
        ids = torch.tensor(pad_right(names, self.render.pad), device=mask.device)
        lengths = torch.tensor([len(n) for n in names], device=mask.device)
        real = torch.arange(width, device=mask.device) < lengths[:, None]
        first = self.backbone.logits(out.last_hidden_state[:, -1:]).repeat_interleave(count, 0)
        cache = out.past_key_values
        cache.batch_repeat_interleave(count)
        tiled = ids.repeat(len(mask), 1)
        full_mask = torch.cat([mask.repeat_interleave(count, 0), real.repeat(len(mask), 1).long()], 1)
        steps = mask.sum(1).repeat_interleave(count)[:, None] + torch.arange(width, device=mask.device)
        hidden = self.backbone.language_model(
            self.backbone.embed_tokens(tiled),
            full_mask,
            position_ids=steps,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        logits = torch.cat([first, self.backbone.logits(hidden[:, :-1])], 1).float()
        chosen = logits.log_softmax(-1).gather(-1, tiled[..., None])[..., 0]
        return (chosen * real.repeat(len(mask), 1)).sum(1).unflatten(0, (len(mask), count))

    def prompted(self, blocks: Sequence[Sequence[int]], question: str) -> list[tuple[int, ...]]:
        """Token ids of a question about each picture."""
        prompt = self.render.prompt(question)
        return [(*prompt.before, *block, *prompt.after) for block in blocks]

    def left_padded(self, sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids and mask with padding in front, as continuing a sequence needs it."""
        width = max(map(len, sequences))
        ids = [[self.render.pad] * (width - len(s)) + list(s) for s in sequences]
        mask = [[0] * (width - len(s)) + [1] * len(s) for s in sequences]
        device = self.backbone.device
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)

    def _padded(self, sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        device = self.backbone.device
        ids = torch.tensor(pad_right(sequences, self.render.pad), device=device)
        mask = torch.tensor(pad_right([[1] * len(s) for s in sequences], 0), device=device)
        return ids, mask

    def write(self, image_tokens: list[Tensor], blocks: Sequence[Sequence[int]]) -> tuple[list[str], int]:
        """Greedy descriptions of the pictures, and how many tokens were generated."""
        ids, mask = self.left_padded(self.prompted(blocks, self.render.templates.request))
        embeddings = self.backbone.embed_tokens(ids, image_tokens)
        written: list[list[int]] = [[] for _ in blocks]
        cache, generated = None, 0
        alive = torch.ones(len(blocks), dtype=torch.bool, device=ids.device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        for _ in range(MAX_DESCRIPTION_TOKENS):
            out = self.backbone.language_model(
                embeddings, mask, position_ids=positions, past_key_values=cache, use_cache=True
            )
            cache = out.past_key_values
            token = self.backbone.logits(out.last_hidden_state[:, -1]).argmax(-1)
            generated += int(alive.sum())
            alive = alive & (token != self.render.eos)
            if not alive.any():
                break
            for row in alive.nonzero()[:, 0].tolist():
                written[row].append(int(token[row]))
            embeddings = self.backbone.embed_tokens(token[:, None])
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            positions = positions[:, -1:] + 1
        return [
            self.render.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in written
        ], generated


Answer = Callable[[Recogniser, list[Tensor], Sequence[Sequence[int]]], Answered]
ANSWERS: Registry[Answer] = Registry("answer")


@ANSWERS.register("names")
def likelihood_of_names(
    model: Recogniser, image_tokens: list[Tensor], blocks: Sequence[Sequence[int]]
) -> Answered:
    """Log-likelihood of each category's name as the answer to the question."""
    ids, mask = model.left_padded(model.prompted(blocks, model.render.templates.question))
    names = [model.render.closed(category.name) for category in model.categories]
    scores = model.completion_scores(model.backbone.embed_tokens(ids, image_tokens), mask, names)
    return Answered(scores.cpu(), int(mask.sum()) + len(blocks) * sum(map(len, names)))


@ANSWERS.register("alignment")
def alignment_with_index(
    model: Recogniser, image_tokens: list[Tensor], blocks: Sequence[Sequence[int]]
) -> Answered:
    """Cosine of the object's embedding with the category index: one pass over the picture's tokens."""
    sequences = [(*model.encoder.object_block(block), model.render.eos) for block in blocks]
    objects = model.embed(sequences, image_tokens)
    index = model.index.embeddings.to(objects.device)
    return Answered((objects @ index.T).cpu(), sum(map(len, sequences)))


@ANSWERS.register("describe")
def describe_then_name(
    model: Recogniser, image_tokens: list[Tensor], blocks: Sequence[Sequence[int]]
) -> Answered:
    """Write the description, then the likelihood of each name after those words, without the picture."""
    texts, generated = model.write(image_tokens, blocks)
    prefixes = [model.render.tokens(model.render.templates.naming_prefix(text)) for text in texts]
    ids, mask = model.left_padded(prefixes)
    names = [model.render.closed(category.name) for category in model.categories]
    scores = model.completion_scores(model.backbone.embed_tokens(ids), mask, names)
    forwarded = sum(map(len, blocks)) + int(mask.sum()) + len(blocks) * sum(map(len, names)) + generated
    return Answered(scores.cpu(), forwarded, generated, tuple(texts))


def multiple_choice(scores: Tensor, options: Sequence[Sequence[int]]) -> Tensor:
    """Best option of each picture: positions in the category table, [pictures].

    Args:
        scores: [pictures, categories].
        options: for each picture the positions that may be chosen.
    """
    return torch.tensor(
        [max(choice, key=lambda i: float(scores[row, i])) for row, choice in enumerate(options)]
    )


def as_mapping(ranking: Sequence[tuple[str, str, float]]) -> list[Mapping[str, object]]:
    """A ranking as JSON-able rows."""
    return [{"category_id": i, "name": name, "score": round(score, 6)} for i, name, score in ranking]
