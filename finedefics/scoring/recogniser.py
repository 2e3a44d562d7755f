"""A classifier is a model, a list of categories and an answer."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from finedefics.backbones import Backbone, load_backbone
from finedefics.conversation import Renderer, Templates
from finedefics.errors import FinedeficsError
from finedefics.pictures import ImageEncoder, as_rgb, decode_image
from finedefics.readout import DEFAULT, Readout
from finedefics.records import Category
from finedefics.scoring.answers import ANSWERS, Answered, Pictures
from finedefics.scoring.ensemble import EnsembleWeight
from finedefics.scoring.index import CategoryIndex
from finedefics.scoring.language import Language


class Recogniser:
    """A model with the categories it may name.

    Args:
        backbone: the multimodal model.
        categories: what competes; every answer scores all of them, in this order.
        templates: what the model was asked in training; the index's where one is given.
        index: a stored category index of this model; built from the categories' texts otherwise.
        object_readout: where the model was trained to embed a picture; the index's where one is given.
        ensemble: weight of the ensemble answer; the index's where one is given.
        seed: of the order in which a multiple choice shows its options.

    Raises:
        FinedeficsError: there is no category, or two have one id or name.
    """

    def __init__(
        self,
        backbone: Backbone,
        categories: Sequence[Category],
        *,
        templates: Templates | None = None,
        index: CategoryIndex | None = None,
        object_readout: Readout = DEFAULT,
        ensemble: EnsembleWeight | None = None,
        seed: int = 0,
    ) -> None:
        if not categories:
            raise FinedeficsError(
                "there is no category to name", place="category table", cure="add categories"
            )
        self.backbone = backbone.eval()
        self.categories = tuple(categories)
        self.seed = seed
        self.render = Renderer(backbone.processor, templates or (index.templates if index else None))
        self.language = Language(backbone, self.render)
        self.encoder = ImageEncoder(backbone.processor)
        self.index = index or CategoryIndex.build(self.language, self.categories, object_readout)
        if ensemble is not None:
            self.index = replace(self.index, ensemble=ensemble)

    @staticmethod
    def load(model_folder: str | Path, index_folder: str | Path) -> "Recogniser":
        """A recogniser from a model folder and the index stored with it."""
        index = CategoryIndex.load(Path(index_folder))
        return Recogniser(load_backbone(model_folder), index.categories, index=index)

    def add(self, categories: Sequence[Category]) -> "Recogniser":
        """This model with more categories, known from their texts alone.

        Raises:
            FinedeficsError: an id or a name is known already (exit code 2).
        """
        index = self.index.add(self, categories)
        return Recogniser(self.backbone, index.categories, index=index, seed=self.seed)

    def recognise(
        self, images: Sequence[bytes | Image.Image], answer: str = "alignment", top: int = 5
    ) -> list[list[tuple[str, str, float]]]:
        """For each picture at most ``top`` categories as (id, name, score), best first.

        Empty where the model answered with something else than a category.
        """
        scores = self.answer(images, answer).scores
        best = scores.topk(min(top, len(self.categories)), dim=1)
        return [
            [
                (self.categories[i].category_id, self.categories[i].name, score)
                for i, score in zip(positions, values, strict=True)
                if score > -math.inf
            ]
            for positions, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    @torch.no_grad()
    def answer(
        self,
        images: Sequence[bytes | Image.Image],
        answer: str,
        *,
        options: Sequence[Sequence[int]] | None = None,
        sample_ids: Sequence[str] | None = None,
    ) -> Answered:
        """Score the categories for every picture by the named strategy.

        Args:
            images: encoded bytes or pictures.
            answer: a name in `ANSWERS`.
            options: for each picture the positions in ``categories`` that a multiple choice offers; default:
                all of them, where they have letters.
            sample_ids: decide the order of the options; default: the content of each picture.

        Raises:
            FinedeficsError: the answer is unknown, a picture is damaged, or the answer cannot be asked of
                this model.
        """
        strategy = ANSWERS[answer]
        pictures = [
            decode_image(x, str(i)) if isinstance(x, bytes) else as_rgb(x) for i, x in enumerate(images)
        ]
        if strategy.asks_options:
            options = options or [range(len(self.categories))] * len(pictures)
            sample_ids = sample_ids or [hashlib.sha256(p.tobytes()).hexdigest() for p in pictures]
        return strategy(self, replace(self.encode(pictures), options=options, sample_ids=sample_ids or ()))

    def encode(self, pictures: Sequence[Image.Image]) -> Pictures:
        """Pictures through processor, vision tower and connector."""
        tensors, blocks = self.encoder(pictures)
        device = self.backbone.device
        return Pictures(self.backbone.encode_images({k: v.to(device) for k, v in tensors.items()}), blocks)

    def embed_objects(self, pictures: Pictures) -> tuple[Tensor, int]:
        """Object embeddings [pictures, dim], normalised, and the tokens forwarded for them."""
        if self.index.object_readout == "eos":
            sequences = [(*self.encoder.object_block(b), self.render.eos) for b in pictures.blocks]
        else:
            before = self.render.prompt(self.render.templates.question).before
            sequences = [(*before, *block) for block in pictures.blocks]
        return self.language.embed(sequences, pictures.tokens), sum(map(len, sequences))

    def prompted(self, pictures: Pictures, question: str) -> list[tuple[int, ...]]:
        """Token ids of a question about each picture."""
        prompt = self.render.prompt(question)
        return [(*prompt.before, *block, *prompt.after) for block in pictures.blocks]

    @cached_property
    def closed_names(self) -> list[tuple[int, ...]]:
        """Each category's name as an answer: its tokens and end of sequence."""
        return [self.render.closed(category.name) for category in self.categories]

    @cached_property
    def name_priors(self) -> Tensor:
        """Log-likelihood [categories] of each name as the answer to the question without a picture.

        A property of the model and its names, like the index: computed once, whatever is asked later.
        """
        prompt = self.render.prompt(self.render.templates.question)
        return self.language.completion_scores([(*prompt.before, *prompt.after)], self.closed_names)[0]
