"""A classifier is a model, a list of categories and an answer."""

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from finedefics.backbones import ImageTokens
from finedefics.errors import FinedeficsError, wrong_use
from finedefics.pictures import as_rgb, decode_image
from finedefics.placing import load_placed
from finedefics.records import Category
from finedefics.scoring.answers import ANSWERS, Answered
from finedefics.scoring.asked import AskedModel, Pictures
from finedefics.scoring.index import CategoryIndex
from finedefics.scoring.language import UNUSABLE, NotANumber

BATCH = 32  # pictures that go through the model together


class Recogniser(AskedModel):
    """A model with the categories it may name, answering by the name of an answer (see `AskedModel`)."""

    @staticmethod
    def load(
        model_folder: str | Path,
        index_folder: str | Path,
        *,
        dtype: str | None = None,
        micro_tokens: int | None = None,
    ) -> "Recogniser":
        """A recogniser from a model folder and the index stored with it, on GPUs where there are any.

        Args:
            dtype, micro_tokens: as `finedefics.placing.load_placed` takes them.

        Raises:
            FinedeficsError: there is no index, or as `load_placed`.
        """
        device = "cuda" if torch.cuda.is_available() else "cpu"
        index = CategoryIndex.load(Path(index_folder))
        placed = load_placed(model_folder, device, dtype, micro_tokens=micro_tokens)
        return Recogniser(placed.backbone, index.categories, index=index, micro_tokens=placed.micro_tokens)

    def add(self, categories: Sequence[Category]) -> "Recogniser":
        """This model with more categories, known from their texts alone.

        Raises:
            FinedeficsError: an id or a name is known already (exit code 2).
        """
        index = self.index.add(self.language, categories)
        budget = self.language.micro_tokens
        return Recogniser(self.backbone, index.categories, index=index, seed=self.seed, micro_tokens=budget)

    def recognise(
        self, images: Sequence[bytes | Image.Image], answer: str = "alignment", top: int = 5
    ) -> list[list[tuple[str, str, float]]]:
        """For each picture at most ``top`` categories as (id, name, score), best first.

        Empty where the model answered with something else than a category. At most `BATCH` pictures go
        through the model together.
        """
        starts = range(0, max(1, len(images)), BATCH)
        parts = [self.answer(images[start : start + BATCH], answer).scores for start in starts]
        scores = torch.cat(parts)
        best = scores.topk(min(top, len(self.categories)), dim=1)
        return [
            [
                (self.categories[i].category_id, self.categories[i].name, score)
                for i, score in zip(positions, values, strict=True)
                if score > -math.inf
            ]
            for positions, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def answer(
        self,
        images: Sequence[bytes | Image.Image],
        answer: str,
        *,
        options: Sequence[Sequence[int]] | None = None,
        sample_ids: Sequence[str] | None = None,
    ) -> Answered:
        """`answers` of one strategy alone."""
        return self.answers(images, [answer], options=options, sample_ids=sample_ids)[answer]

    def answers(
        self,
        images: Sequence[bytes | Image.Image],
        answers: Sequence[str],
        *,
        options: Sequence[Sequence[int]] | None = None,
        sample_ids: Sequence[str] | None = None,
    ) -> dict[str, Answered]:
        """Score the categories for every picture by the named strategies: `show` the pictures, then `ask`.

        All pictures are one batch: whoever has many gives some at a time.

        Args:
            images: encoded bytes or pictures.
            answers: names in `ANSWERS`.
            options, sample_ids: as `show` takes them.

        Raises:
            FinedeficsError: as `show` and `ask`.
        """
        for answer in answers:
            ANSWERS[answer]  # an unknown one is found before a picture is decoded
        pictures = self.show(images, options=options, sample_ids=sample_ids)
        return self.ask(pictures, answers)

    @torch.no_grad()
    def show(
        self,
        images: Sequence[bytes | Image.Image],
        *,
        options: Sequence[Sequence[int]] | None = None,
        sample_ids: Sequence[str] | None = None,
    ) -> Pictures:
        """Decode pictures and encode them, once for whatever is asked of them.

        Args:
            images: encoded bytes or pictures.
            options: for each picture the positions in ``categories`` that a multiple choice offers; default:
                all of them, where they have letters.
            sample_ids: decide the order of the options and what is drawn by chance; default: the content of
                each picture.

        Raises:
            FinedeficsError: a picture is damaged, or an option is no position of a category.
        """
        if options is not None:
            self._check_options(options, len(images))
        if len(images) == 0:
            return Pictures(ImageTokens([]), [])
        started = time.perf_counter()
        called = sample_ids or [str(number) for number in range(len(images))]
        pictures = [
            decode_image(x, name) if isinstance(x, bytes) else as_rgb(x)
            for x, name in zip(images, called, strict=True)
        ]
        sample_ids = sample_ids or [hashlib.sha256(p.tobytes()).hexdigest() for p in pictures]
        with _named_when_exhausted(f"encoding {len(pictures)} pictures", called, self.language.micro_tokens):
            encoded = self.encode(pictures)
        if self.backbone.device.type == "cuda":
            torch.cuda.synchronize(self.backbone.device)  # else the first answer would pay for it
        seconds = time.perf_counter() - started
        return replace(encoded, options=options, sample_ids=sample_ids, seconds=seconds)

    @torch.no_grad()
    def ask(self, pictures: Pictures, answers: Sequence[str]) -> dict[str, Answered]:
        """Score the categories for pictures that were shown, by the named strategies.

        Args:
            answers: names in `ANSWERS`.

        Raises:
            FinedeficsError: an answer is unknown or cannot be asked of this model, or the model gives no
                numbers.
        """
        if not pictures.tokens:
            return {answer: Answered(torch.empty(0, len(self.categories)), 0) for answer in answers}
        # one transfer from the device, not one a picture
        finite = torch.stack([tokens.isfinite().all() for tokens in pictures.tokens]).tolist()
        if not all(finite):
            asked = ", ".join(f"`{answer}`" for answer in answers)
            raise FinedeficsError(
                f"the model's tokens of the picture are not finite, so nothing can be read for {asked}",
                place=f"picture {finite.index(False)}",
                cure=UNUSABLE,
            )
        return {answer: self._ask(pictures, answer) for answer in answers}

    def _ask(self, pictures: Pictures, answer: str) -> Answered:
        strategy = ANSWERS[answer]
        if strategy.asks_options and pictures.options is None:
            pictures = replace(pictures, options=[range(len(self.categories))] * len(pictures.tokens))
        reused, started = pictures.kept.reused, time.perf_counter()
        held = f"{len(pictures.tokens)} pictures of {sum(map(len, pictures.tokens))} tokens for `{answer}`"
        try:
            with _named_when_exhausted(held, pictures.sample_ids, self.language.micro_tokens):
                answered = pictures.once(answer, partial(strategy, self, pictures))
        except NotANumber as error:
            raise _not_a_number(answer, error.row) from error
        alone = time.perf_counter() - started + pictures.kept.reused - reused
        # -inf is a score: the model answered with something else
        if unknown := answered.scores.isnan().any(1).nonzero().flatten().tolist():
            raise _not_a_number(answer, unknown[0])
        return replace(answered, seconds=pictures.seconds + alone)

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


@contextmanager
def _named_when_exhausted(held: str, sample_ids: Sequence[str], budget: int) -> Iterator[None]:
    """Within it, the accelerator's running out of memory is an error that a user can act on."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        ends = dict.fromkeys((*sample_ids[:1], *sample_ids[-1:]))
        raise FinedeficsError(
            f"out of memory with {held}, at most {budget} at a time",
            place=f"pictures {' to '.join(ends)}",
            cure=f"lower evaluation.micro_tokens (--micro-tokens) below {budget} and run it again: "
            "what an evaluation has answered is kept",
        ) from error


def _not_a_number(answer: str, picture: int) -> FinedeficsError:
    return FinedeficsError(
        f"the model's numbers for the answer `{answer}` are not numbers (NaN)",
        place=f"picture {picture}",
        cure=UNUSABLE,
    )
