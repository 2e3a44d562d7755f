"""What a labeller is shown of a picture, what it says, and the registry it is found in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from finedefics.errors import FinedeficsError, wrong_use
from finedefics.records import Category
from finedefics.registry import Registry

if TYPE_CHECKING:
    from finedefics.embedders import Settings


@dataclass(frozen=True)
class Given:
    """What a labeller is made from.

    Attributes:
        argument: what stands behind the colon of its name (``reading:MODEL``), None without one.
        categories: those that compete: the category table, sorted by id.
        settings: how its model runs.
    """

    argument: str | None
    categories: Sequence[Category]
    settings: "Settings"


@dataclass(frozen=True)
class Unnamed:
    """A picture whose category is sought. Nothing here says it: neither its label nor its place.

    Attributes:
        description: what is said of it; None unless the labeller reads descriptions and there is one.
        image: encoded; None unless the labeller reads images.
    """

    sample_id: str
    description: str | None = None
    image: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Inferred:
    """What pictures are taken for.

    Attributes:
        positions: int32 [pictures], among the categories; -1 where nothing is inferred.
        probability: float32 [pictures], that the labeller gives it; 0 where nothing is inferred.
        margin: float32 [pictures], over the second likeliest.
    """

    positions: npt.NDArray[np.int32]
    probability: npt.NDArray[np.float32]
    margin: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.positions)

    def take(self, rows: npt.NDArray[np.int64]) -> "Inferred":
        """Those of some rows, which may repeat."""
        return Inferred(self.positions[rows], self.probability[rows], self.margin[rows])

    @staticmethod
    def of_scores(logits: npt.NDArray[np.floating]) -> "Inferred":
        """The likeliest category by the softmax of scores [pictures, categories]."""
        wide = np.asarray(logits, np.float64)
        if not wide.size:
            return Inferred.nothing(len(wide))
        shares = np.exp(wide - wide.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        best = shares.argmax(1)
        highest = np.take_along_axis(shares, best[:, None], 1)[:, 0]
        np.put_along_axis(shares, best[:, None], 0.0, 1)
        margin = highest - shares.max(1)
        return Inferred(best.astype(np.int32), highest.astype(np.float32), margin.astype(np.float32))

    @staticmethod
    def nothing(pictures: int) -> "Inferred":
        """Of so many pictures nothing is inferred."""
        zero = np.zeros(pictures, np.float32)
        return Inferred(np.full(pictures, -1, np.int32), zero, zero)


class Labeller(Protocol):
    """Names the category of pictures without a label.

    Making one is cheap: weights are loaded at the first call, and do not travel to other processes.
    """

    @property
    def reads(self) -> Sequence[str]:
        """Of ``description`` and ``image``; nothing else of a picture is shown.

        One that reads descriptions is never shown a picture without one.
        """
        ...

    @property
    def splits(self) -> Sequence[str]:
        """Whose labelled pictures it may be scored on, of ``train`` and ``val``.

        A model that may have learned the labels of training pictures is scored on val alone.
        """
        ...

    @property
    def labeller_id(self) -> str:
        """Name, models by content or commit, and settings: all that determines what it infers."""
        ...

    def __call__(self, pictures: Sequence[Unnamed]) -> Inferred:
        """What the pictures are taken for, all categories competing."""
        ...


LABELLERS: Registry[Callable[[Given], Labeller]] = Registry(
    "labeller", package="finedefics.labellers", group="finedefics.labellers"
)


def needs_argument(name: str, argument: str | None, example: str) -> str:
    """The argument; FinedeficsError (exit code 2) with an example where there is none."""
    if not argument:
        raise wrong_use("it does not say which", place=f"labeller {name!r}", cure=f"write {name}:{example}")
    return argument


def check_finite(scores: npt.NDArray[np.floating], pictures: Sequence[Unnamed], name: str) -> None:
    """FinedeficsError naming the first sample whose scores [pictures, categories] are not numbers."""
    wrong = np.isnan(scores).any(1) | np.isneginf(scores).all(1)
    if wrong.any():
        raise FinedeficsError(
            f"the labeller {name} gives no number for any category or NaN for one",
            place=f"sample {pictures[int(wrong.argmax())].sample_id}",
            cure="use weights from before training diverged, in bfloat16 or float32 rather than float16",
        )
