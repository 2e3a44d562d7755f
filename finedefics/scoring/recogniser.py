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
from finedefics.errors import FinedeficsError, wrong_use
from finedefics.pictures import ImageEncoder, as_rgb, decode_image
from finedefics.readout import DEFAULT, Readout
from finedefics.records import Category, check_distinct
from finedefics.scoring.answers import ANSWERS, Answered, Pictures
from finedefics.scoring.ensemble import EnsembleWeight
from finedefics.scoring.index import CategoryIndex
from finedefics.scoring.language import UNUSABLE, Language, NotANumber


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
        FinedeficsError: there is no category, one has no name, or two have one id or name; or the index is of
            other categories (exit code 2).
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
        check_distinct(categories)
        if index is not None:
            _check_index(index, categories)
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
            FinedeficsError: the answer is unknown, a picture is damaged, an option is no position of a
                category, the answer cannot be asked of this model, or the model gives no numbers.
        """
        strategy = ANSWERS[answer]
        if options is not None:
            self._check_options(options, len(images))
        if len(images) == 0:
            return Answered(torch.empty(0, len(self.categories)), 0)
        pictures = [
            decode_image(x, str(i)) if isinstance(x, bytes) else as_rgb(x) for i, x in enumerate(images)
        ]
        if strategy.asks_options:
            options = options or [range(len(self.categories))] * len(pictures)
            sample_ids = sample_ids or [hashlib.sha256(p.tobytes()).hexdigest() for p in pictures]
        encoded = replace(self.encode(pictures), options=options, sample_ids=sample_ids or ())
        # one transfer from the device, not one a picture
        finite = torch.stack([tokens.isfinite().all() for tokens in encoded.tokens]).tolist()
        if not all(finite):
            raise FinedeficsError(
                f"the model's tokens of the picture are not finite, so `{answer}` has nothing to read",
                place=f"picture {finite.index(False)}",
                cure=UNUSABLE,
            )
        try:
            answered = strategy(self, encoded)
        except NotANumber as error:
            raise _not_a_number(answer, error.row) from error
        # -inf is a score: the model answered with something else
        if unknown := answered.scores.isnan().any(1).nonzero().flatten().tolist():
            raise _not_a_number(answer, unknown[0])
        return answered

    def _check_options(self, options: Sequence[Sequence[int]], pictures: int) -> None:
        if len(options) != pictures:
            raise wrong_use(
                f"options for {len(options)} pictures, {pictures} were given",
                place="multiple choice",
                cure="give one list of options a picture",
            )
        count = len(self.categories)
        for number, offered in enumerate(options):
            wrong = [position for position in offered if not 0 <= position < count]
            if wrong or not len(offered):
                what = f"the position {wrong[0]} is none of {count} categories" if wrong else "no option"
                cure = f"offer positions from 0 to {count - 1}"
                raise wrong_use(what, place=f"picture {number}", cure=cure)

    def encode(self, pictures: Sequence[Image.Image]) -> Pictures:
        """Pictures through processor, vision tower and connector."""
        tensors, blocks = self.encoder(pictures)
        device = self.backbone.device
        return Pictures(self.backbone.encode_images({k: v.to(device) for k, v in tensors.items()}), blocks)

    def embed_objects(self, pictures: Pictures) -> tuple[Tensor, int]:
        """Object embeddings [pictures, dim], normalised, and the tokens forwarded for them.

        Raises:
            FinedeficsError: an embedding is not finite.
        """
        if self.index.object_readout == "eos":
            sequences = [(*self.encoder.object_block(b), self.render.eos) for b in pictures.blocks]
        else:
            before = self.render.prompt(self.render.templates.question).before
            sequences = [(*before, *block) for block in pictures.blocks]
        embeddings = self.language.embed(sequences, pictures.tokens)
        if unknown := (~embeddings.isfinite().all(1)).nonzero().flatten().tolist():
            raise FinedeficsError(
                "the model's embedding of the picture is not finite",
                place=f"picture {unknown[0]}",
                cure=UNUSABLE,
            )
        return embeddings, sum(map(len, sequences))

    def prompted(self, pictures: Pictures, question: str) -> list[tuple[int, ...]]:
        """Token ids of a question about each picture."""
        prompt = self.render.prompt(question)
        return [(*prompt.before, *block, *prompt.after) for block in pictures.blocks]

    def name_scores(
        self,
        prefixes: Sequence[Sequence[int]],
        names: Sequence[Sequence[int]],
        image_tokens: list[Tensor] | None = None,
    ) -> Tensor:
        """Log-likelihood [prefixes, categories] of each name after each prefix of token ids.

        Args:
            names: `answered_names` after prompts, `completed_names` after words that a name completes.
        """
        called = [category.name for category in self.categories]
        return self.language.completion_scores(prefixes, names, image_tokens, called)

    @cached_property
    def answered_names(self) -> list[tuple[int, ...]]:
        """Each category's name as an answer to a question: its tokens and end of sequence."""
        return [self.render.answer(category.name) for category in self.categories]

    @cached_property
    def completed_names(self) -> list[tuple[int, ...]]:
        """Each category's name as the end of a statement about a description."""
        return [self.render.named(category.name) for category in self.categories]

    @cached_property
    def name_priors(self) -> Tensor:
        """Log-likelihood [categories] of each name as the answer to the question without a picture.

        A property of the model and its names, like the index: computed once, whatever is asked later.
        """
        prompt = self.render.prompt(self.render.templates.question)
        return self.name_scores([(*prompt.before, *prompt.after)], self.answered_names)[0]


def _check_index(index: CategoryIndex, categories: Sequence[Category]) -> None:
    """FinedeficsError where the rows of an index are not these categories: scores would go to other names."""
    cure = "give the index's own categories in its order, or build an index of these"
    if len(index.categories) != len(categories):
        raise wrong_use(
            f"the index has {len(index.categories)} categories, and {len(categories)} were given",
            place="category index",
            cure=cure,
        )
    for number, (own, given) in enumerate(zip(index.categories, categories, strict=True)):
        if own.category_id != given.category_id:
            raise wrong_use(
                f"category {number} of the index is {own.category_id!r}, the one given {given.category_id!r}",
                place="category index",
                cure=cure,
            )


def _not_a_number(answer: str, picture: int) -> FinedeficsError:
    return FinedeficsError(
        f"the model's numbers for the answer `{answer}` are not numbers (NaN)",
        place=f"picture {picture}",
        cure=UNUSABLE,
    )
