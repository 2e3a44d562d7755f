"""A multimodal model's own embeddings: its objects, names and descriptions, as contrast trains them."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from finedefics.embedders._base import EMBEDDERS, Array, Settings, needs_argument
from finedefics.embedders._models import model_identity
from finedefics.records import Category
from finedefics.scoring import AskedModel

# an asked model has something to name; for embeddings alone it does not matter what
_NOBODY = (Category("object", "object"),)


class ObjectEmbedder:
    """Embeds with a model that is in memory, as the answer `alignment` does.

    Args:
        asked: the model; its templates and readout decide where it embeds.
        embedder_id: all that determines the embeddings.
        batch_size: pictures or texts at a time.
    """

    def __init__(self, asked: AskedModel, embedder_id: str, batch_size: int = 32) -> None:
        self._asked, self.embedder_id, self._batch_size = asked, embedder_id, batch_size

    @property
    def dim(self) -> int:
        """Width of the language model."""
        return int(self._asked.index.names.shape[1])

    @torch.no_grad()
    def embed_pictures(self, images: Sequence[bytes]) -> Array:
        """Object embeddings [pictures, dim], normalised."""
        from finedefics.pictures import decode_image

        found = []
        for start in range(0, len(images), self._batch_size):
            part = images[start : start + self._batch_size]
            pictures = [decode_image(image, str(start + i)) for i, image in enumerate(part)]
            objects, _ = self._asked.embed_objects(self._asked.encode(pictures))
            found.append(objects.float().cpu().numpy())
        return np.concatenate(found)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Array:
        """Embeddings [texts, dim] as those of the category index, normalised."""
        language = self._asked.language
        closed = [language.render.closed(text) for text in texts]
        # by length, so that a few long texts do not make every batch long
        order = sorted(range(len(closed)), key=lambda i: len(closed[i]))
        rows: Array = np.zeros((len(texts), self.dim), np.float32)
        for start in range(0, len(order), self._batch_size):
            part = order[start : start + self._batch_size]
            rows[part] = language.embed([closed[i] for i in part]).float().cpu().numpy()
        return rows


@EMBEDDERS.register("tuned")
class TunedEmbedder:
    """The model of a folder, with the templates and the readout that its training wrote beside it."""

    def __init__(self, argument: str | None, settings: Settings) -> None:
        self.model = needs_argument("tuned", argument, "path/of/a/model")
        self.settings = settings

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model, "settings": self.settings}  # weights do not travel

    @cached_property
    def embedder_id(self) -> str:
        """``tuned:`` with the model's content, and its precision."""
        return f"tuned:{model_identity(self.model)}-{self.settings.of_model(self.model)}"

    @property
    def dim(self) -> int:
        """Width of the language model."""
        return self._loaded.dim

    def embed_pictures(self, images: Sequence[bytes]) -> Array:
        """Object embeddings [pictures, dim], normalised."""
        return self._loaded.embed_pictures(images)

    def embed_texts(self, texts: Sequence[str]) -> Array:
        """[texts, dim], normalised."""
        return self._loaded.embed_texts(texts)

    @cached_property
    def _loaded(self) -> ObjectEmbedder:
        from finedefics.conversation import Templates
        from finedefics.placing import load_placed
        from finedefics.readout import load_readout

        placed = load_placed(self.model, self.settings.device, self.settings.dtype)
        asked = AskedModel(
            placed.backbone,
            _NOBODY,
            micro_tokens=placed.micro_tokens,
            templates=Templates.load(self.model),
            object_readout=load_readout(self.model),
        )
        return ObjectEmbedder(asked, self.embedder_id, self.settings.batch_size)
