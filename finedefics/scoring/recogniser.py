"""A classifier is a model, a list of categories and an answer."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from finedefics.backbones import load_backbone
from finedefics.errors import FinedeficsError, wrong_use
from finedefics.pictures import as_rgb, decode_image
from finedefics.records import Category
from finedefics.scoring.answers import ANSWERS, Answered
from finedefics.scoring.asked import AskedModel
from finedefics.scoring.index import CategoryIndex
from finedefics.scoring.language import UNUSABLE, NotANumber


class Recogniser(AskedModel):
    """A model with the categories it may name, answering by the name of an answer (see `AskedModel`)."""

    @staticmethod
    def load(model_folder: str | Path, index_folder: str | Path) -> "Recogniser":
        """A recogniser from a model folder and the index stored with it, on the GPU where there is one."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        index = CategoryIndex.load(Path(index_folder))
        return Recogniser(load_backbone(model_folder).to(device), index.categories, index=index)

    def add(self, categories: Sequence[Category]) -> "Recogniser":
        """This model with more categories, known from their texts alone.

        Raises:
            FinedeficsError: an id or a name is known already (exit code 2).
        """
        index = self.index.add(self.language, categories)
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
            sample_ids: decide the order of the options and what is drawn by chance; default: the content of
                each picture.

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
        encoded = replace(self.encode(pictures), options=options, sample_ids=sample_ids)
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


def _not_a_number(answer: str, picture: int) -> FinedeficsError:
    return FinedeficsError(
        f"the model's numbers for the answer `{answer}` are not numbers (NaN)",
        place=f"picture {picture}",
        cure=UNUSABLE,
    )
