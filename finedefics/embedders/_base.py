"""What an embedder is, the registry it is found in, and how categories are put to it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from finedefics.errors import FinedeficsError, wrong_use
from finedefics.records import Category
from finedefics.registry import Registry, split_spec

Array = npt.NDArray[np.float32]
Mode = Literal["texts", "centroids", "descriptions"]
Variant = Literal["names", "descriptions", "sum"]


@dataclass(frozen=True)
class Settings:
    """How an embedder runs.

    Attributes:
        dtype: of its weights and activations: float32, bfloat16 or float16; default: of a multimodal model
            what it is stored in, as an evaluation has it, of an encoder float32.
        batch_size: pictures or texts that go through it together; changes no embedding beyond rounding.
        device: where its weights lie; default: ``cuda`` where this process sees a GPU, else ``cpu``.
    """

    dtype: str | None = None
    batch_size: int = 32
    device: str = ""

    def __post_init__(self) -> None:
        if self.dtype not in (None, "float32", "bfloat16", "float16") or self.batch_size < 1:
            raise wrong_use(
                f"dtype {self.dtype!r} with a batch size of {self.batch_size}",
                place="embedder",
                cure="use float32, bfloat16 or float16, and batches of one or more",
            )

        if not self.device:
            import torch

            object.__setattr__(self, "device", "cuda" if torch.cuda.is_available() else "cpu")

    @property
    def of_encoder(self) -> str:
        """The dtype of an encoder."""
        return self.dtype or "float32"

    def of_model(self, model: str) -> str:
        """The dtype of a multimodal model, by its folder or hub name."""
        from finedefics.backbones import stored_dtype

        return self.dtype or stored_dtype(model)


class Embedder(Protocol):
    """Embeds pictures, texts, or both: at least one of the two methods is there.

    Made of what follows the name's colon (None without one) and of `Settings`. Making one is cheap: weights
    are loaded at the first call, so that one can be named, and sent to another process, without them.

    An embedder may have ``template``, a wording of a category's name such as ``a photo of a {name}.``, and
    ``fit(texts)``, which returns the embedder that has seen these texts of the categories.
    """

    @property
    def embedder_id(self) -> str:
        """Name, model by content or commit, and settings: all that determines the embeddings."""
        ...

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        ...

    def embed_pictures(self, images: Sequence[bytes]) -> Array:
        """Embeddings [pictures, dim] of encoded pictures, normalised; of texts alone: absent."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> Array:
        """Embeddings [texts, dim], normalised; of pictures alone: absent."""
        ...


EMBEDDERS: Registry[Callable[[str | None, Settings], Any]] = Registry(
    "embedder", package="finedefics.embedders", group="finedefics.embedders"
)


def make_embedder(spec: str, settings: Settings | None = None) -> Any:
    """The embedder that ``name`` or ``name:argument`` or a ``.py`` file stands for; no weights are read yet.

    Raises:
        FinedeficsError: the name is unknown, or the argument is missing or not wanted.
    """
    name, argument = (spec, None) if spec.endswith(".py") else split_spec(spec)
    return EMBEDDERS[name](argument, settings or Settings())


def mode_of(embedder: Any) -> Mode:
    """What a picture is compared with: ``texts``, ``centroids`` or ``descriptions`` (see the package).

    Raises:
        FinedeficsError: it embeds neither pictures nor texts.
    """
    pictures, texts = (hasattr(embedder, f"embed_{what}") for what in ("pictures", "texts"))
    if not pictures and not texts:
        raise wrong_use(
            "it has neither embed_pictures nor embed_texts",
            place=f"embedder {embedder.embedder_id}",
            cure="give it one of them",
        )
    return "texts" if pictures and texts else "centroids" if pictures else "descriptions"


def embed_categories(embedder: Any, categories: Sequence[Category], variant: Variant = "sum") -> Array:
    """Embeddings [categories, dim] of what is said of categories, normalised.

    Args:
        embedder: one that embeds texts.
        variant: ``names`` in the embedder's template; ``descriptions``, a category without one having its
            name's; or the direction of the ``sum`` of both, as the category index of a tuned model.

    Raises:
        FinedeficsError: a text's embedding is not finite, or has no direction; its category is named.
    """
    template = getattr(embedder, "template", "{name}")
    names = [template.format(name=category.name.replace("_", " ")) for category in categories]
    told = [c.description or name for c, name in zip(categories, names, strict=True)]
    unique = list(dict.fromkeys(told if variant == "descriptions" else [*names, *told]))
    if variant == "names":
        unique = list(dict.fromkeys(names))
    made = np.asarray(embedder.embed_texts(unique), np.float32)
    place = {text: row for row, text in enumerate(unique)}
    rows = np.zeros((len(categories), made.shape[1]), np.float32)
    for texts in {"names": (names,), "descriptions": (told,), "sum": (names, told)}[variant]:
        rows += made[[place[text] for text in texts]]
    rows = normalised(rows)
    for category, finite in zip(categories, np.isfinite(rows).all(1) & (rows != 0).any(1), strict=True):
        if not finite:
            raise FinedeficsError(
                f"the embedding of the texts of {category.name!r} has no direction",
                place=f"category {category.category_id}",
                cure="give it a name in words that the embedder knows, or choose another embedder",
            )
    return rows


def normalised(rows: npt.NDArray[np.floating]) -> Array:
    """Rows [n, dim] at length 1; a row of zeros stays one, and one that is not finite stays so."""
    wide = np.asarray(rows, np.float64)
    size = np.linalg.norm(wide, axis=1, keepdims=True)
    return (wide / np.where(size == 0, 1, size)).astype(np.float32)


def needs_argument(name: str, argument: str | None, example: str) -> str:
    """The argument; FinedeficsError (exit code 2) with an example where there is none."""
    if not argument:
        raise wrong_use(
            "it does not say which model", place=f"embedder {name!r}", cure=f"write {name}:{example}"
        )
    return argument
