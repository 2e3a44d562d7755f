"""The model that is asked: what every strategy takes from a model and its categories."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, TypeVar

from PIL import Image
from torch import Tensor

from finedefics.backbones import Backbone, ImageTokens
from finedefics.backbones.family import Grid
from finedefics.conversation import Renderer, Templates
from finedefics.distributed import largest
from finedefics.errors import FinedeficsError, wrong_use
from finedefics.pictures import ImageEncoder
from finedefics.readout import DEFAULT, Readout
from finedefics.records import Category, check_distinct
from finedefics.scoring.calibration import Calibration
from finedefics.scoring.index import CategoryIndex
from finedefics.scoring.language import UNUSABLE, Language
from finedefics.scoring.weighing import EnsembleWeight

Found = TypeVar("Found")


class Kept:
    """What was computed of some pictures, for whoever asks for it again.

    Attributes:
        reused: seconds that was asked for again had taken; with the time that passed, an answer's time alone.
    """

    def __init__(self) -> None:
        self._found: dict[str, tuple[Any, float]] = {}
        self.reused = 0.0

    def once(self, what: str, compute: Callable[[], Found]) -> Found:
        """The result of ``compute``, which is called only the first time that ``what`` is asked for."""
        if what in self._found:
            found, seconds = self._found[what]
            self.reused += seconds
            return found
        reused, started = self.reused, time.perf_counter()
        computed = compute()
        self._found[what] = computed, time.perf_counter() - started + self.reused - reused
        return computed


@dataclass(frozen=True)
class Pictures:
    """Pictures as the language model takes them, and what may be answered.

    Several answers to the same pictures share what they have in common (`kept`); a copy with anything
    replaced begins with nothing kept.

    Attributes:
        tokens: each picture's tokens after the connector, [tokens, hidden].
        blocks: for each picture the token ids that stand for it in a prompt.
        sample_ids: decide, with the recogniser's seed, in what order options are shown and what is drawn by
            chance; only answers that do either need them.
        options: for each picture the positions in the category table that are offered (multiple choice); None
            where every category competes.
        rotation: how far a multiple choice turns the order in which it shows the options.
        seconds: that it took to decode and encode them.
    """

    tokens: ImageTokens
    blocks: Sequence[Sequence[int]]
    sample_ids: Sequence[str] = ()
    options: Sequence[Sequence[int]] | None = None
    rotation: int = 0
    seconds: float = 0.0
    kept: Kept = field(default_factory=Kept, init=False, repr=False, compare=False)

    def once(self, what: str, compute: Callable[[], Found]) -> Found:
        """What was computed of these pictures, or is now; on the CPU, so that its time is all its own."""
        return self.kept.once(what, compute)

    def first(self) -> "Pictures":
        """The first picture alone, as if it had taken no time."""
        options = None if self.options is None else self.options[:1]
        return Pictures(self.tokens.chosen([0]), self.blocks[:1], self.sample_ids[:1], options)


class AskedModel:
    """A model with the categories it may name.

    Args:
        backbone: the multimodal model.
        categories: what competes; every answer scores all of them, in this order.
        templates: what the model was asked in training; the index's where one is given.
        index: a stored category index of this model; built from the categories' texts otherwise.
        object_readout: where the model was trained to embed a picture; the index's where one is given.
        ensemble: weight of the ensemble answer; the index's where one is given.
        calibration: of the index; the index's own where one is given.
        seed: of the order in which a multiple choice shows its options.
        micro_tokens: most tokens that go through the language model together (see `Language`), and most
            patches that go through the vision tower.

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
        calibration: Calibration | None = None,
        seed: int = 0,
        micro_tokens: int | None = None,
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
        self.language = Language(backbone, self.render, micro_tokens)
        self.encoder = ImageEncoder(backbone.processor)
        self.index = index or CategoryIndex.build(self.language, self.categories, object_readout)
        if ensemble is not None:
            self.index = replace(self.index, ensemble=ensemble)
        if calibration is not None:
            self.index = replace(self.index, calibration=calibration)

    def encode(self, pictures: Sequence[Image.Image]) -> Pictures:
        """Pictures through processor, vision tower and connector, in the model's dtype on its device.

        Of the tower's patches as many go through together as tokens of the language model; a picture that
        alone has more goes alone.
        """
        tensors, blocks = self.encoder(pictures)
        count = len(pictures)
        together = max(1, self.language.micro_tokens // self.backbone.patches(tensors))
        # ranks that hold shards of the model gather them in each call, so all make as many
        (pieces,) = largest([-(-count // together)], self.backbone.device)
        found: list[Tensor] = []
        grids: list[Grid] = []
        for piece in range(pieces):
            first, last = piece * count // pieces, (piece + 1) * count // pieces
            some = self.backbone.encode_images(self._placed(tensors, slice(first, max(last, first + 1))))
            found += some[: last - first]
            grids += (some.grids or [])[: last - first]
        return Pictures(ImageTokens(found, grids or None), blocks)

    def _placed(self, tensors: Mapping[str, Tensor], part: slice) -> dict[str, Tensor]:
        device, dtype = self.backbone.device, self.backbone.dtype
        return {
            name: tensor[part].to(device, dtype) if tensor.is_floating_point() else tensor[part].to(device)
            for name, tensor in tensors.items()
        }

    def embed_objects(self, pictures: Pictures, names: Sequence[str] | None = None) -> tuple[Tensor, int]:
        """Object embeddings [pictures, dim] in float32, normalised, and the tokens forwarded for them.

        Args:
            pictures: embedded once, whatever asks for it.
            names: what an error calls each picture; its number by default.

        Raises:
            FinedeficsError: an embedding is not finite.
        """
        return pictures.once("object embeddings", partial(self._embed_objects, pictures, names))

    def _embed_objects(self, pictures: Pictures, names: Sequence[str] | None) -> tuple[Tensor, int]:
        if self.index.object_readout == "eos":
            sequences = [(*self.encoder.object_block(b), self.render.eos) for b in pictures.blocks]
        else:
            before = self.render.prompt(self.render.templates.question).before
            sequences = [(*before, *block) for block in pictures.blocks]
        embeddings = self.language.embed(sequences, pictures.tokens)
        if unknown := (~embeddings.isfinite().all(1)).nonzero().flatten().tolist():
            raise FinedeficsError(
                "the model's embedding of the picture is not finite",
                place=names[unknown[0]] if names else f"picture {unknown[0]}",
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
        image_tokens: ImageTokens | None = None,
    ) -> Tensor:
        """Log-likelihood [prefixes, categories] of each name after each prefix of token ids.

        Args:
            names: `answered_names` after prompts, `completed_names` after words that a name completes.
        """
        called = [category.name for category in self.categories]
        return self.language.completion_scores(prefixes, names, image_tokens, called)

    @cached_property
    def answered_names(self) -> list[tuple[int, ...]]:
        """Each category's name as an answer to a question: its tokens and the end of the turn."""
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
