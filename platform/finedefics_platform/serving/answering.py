"""What a replica does with encoded pictures: decode, answer and embed them together."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from finedefics.errors import FinedeficsError

if TYPE_CHECKING:
    from finedefics.scoring import Pictures, Recogniser

PLACE = "picture"  # what an error calls one that was sent
MOST_PIXELS = 50_000_000  # of one picture; decoded it takes three bytes each


@dataclass(frozen=True, eq=False)
class Reply:
    """What the model says of one picture.

    Attributes:
        ranking: (category id, name, score), best first; empty where it named no category.
        objects: [dim], the picture's normalised embedding; None where it was not asked for.
        error: one line on why nothing can be said of it, else None.
    """

    ranking: tuple[tuple[str, str, float], ...] = ()
    objects: npt.NDArray[np.float32] | None = None
    error: str | None = None


Work = Callable[[list[Image.Image]], list[Reply]]


class Answerer:
    """Answers encoded pictures by one answer; one that is damaged costs the others nothing.

    Args:
        recogniser: the model.
        answer: name in `finedefics.scoring.ANSWERS`.
        top: categories in a ranking, at most.
        embeds: whether pictures are embedded too, for their nearest training pictures.
    """

    def __init__(self, recogniser: "Recogniser", answer: str, top: int, *, embeds: bool) -> None:
        self.recogniser, self.answer, self.top, self.embeds = recogniser, answer, top, embeds

    def replies(self, pictures: Sequence[bytes]) -> list[Reply]:
        """Rankings, and embeddings where they are wanted, in the order of the pictures."""
        return self._of_decodable(pictures, self._answered)

    def embedded(self, pictures: Sequence[bytes]) -> list[Reply]:
        """Embeddings alone."""
        return self._of_decodable(pictures, self._embedded)

    def _of_decodable(self, pictures: Sequence[bytes], work: Work) -> list[Reply]:
        found: list[Reply | None] = []
        images: list[Image.Image] = []
        for data in pictures:
            try:
                images.append(decoded(data))
                found.append(None)
            except FinedeficsError as error:
                found.append(Reply(error=str(error)))
        worked = iter(self._each_alone_if_refused(images, work))
        return [next(worked) if reply is None else reply for reply in found]

    def _each_alone_if_refused(self, images: list[Image.Image], work: Work) -> list[Reply]:
        if not images:
            return []
        try:
            return list(work(images))
        except FinedeficsError as error:
            if len(images) == 1:
                return [Reply(error=f"{PLACE}: {error.thing}; {error.cure}")]
        # the processor refuses a picture for its shape, and says so of the whole batch
        return [reply for image in images for reply in self._each_alone_if_refused([image], work)]

    def _answered(self, images: list[Image.Image]) -> list[Reply]:
        shown = self.recogniser.show(images)
        scores = self.recogniser.ask(shown, [self.answer])[self.answer].scores
        objects: Sequence[npt.NDArray[np.float32] | None] = [None] * len(images)
        if self.embeds:
            objects = self._objects(shown)
        best = scores.topk(min(self.top, scores.shape[1]), dim=1)
        categories = self.recogniser.categories
        return [
            Reply(
                tuple(
                    (categories[position].category_id, categories[position].name, score)
                    for position, score in zip(positions, values, strict=True)
                    if score > -math.inf
                ),
                embedding,
            )
            for positions, values, embedding in zip(
                best.indices.tolist(), best.values.tolist(), objects, strict=True
            )
        ]

    def _embedded(self, images: list[Image.Image]) -> list[Reply]:
        return [Reply(objects=objects) for objects in self._objects(self.recogniser.show(images))]

    def _objects(self, shown: "Pictures") -> list[npt.NDArray[np.float32]]:
        return list(self.recogniser.embed_objects(shown)[0].cpu().numpy())


def decoded(data: bytes) -> Image.Image:
    """A picture that was sent; FinedeficsError where it is none, or has too many pixels to be decoded."""
    from finedefics.pictures import read_picture

    try:
        with Image.open(io.BytesIO(data)) as picture:  # reads the head alone
            width, height = picture.size
    except Exception:
        return read_picture(data, place=PLACE)  # says what is wrong
    if width * height > MOST_PIXELS:
        raise FinedeficsError(
            f"it has {width} x {height} pixels, and {MOST_PIXELS // 10**6} million are decoded at most",
            place=PLACE,
            cure="make it smaller",
        )
    return read_picture(data, place=PLACE)
