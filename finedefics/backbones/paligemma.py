"""PaliGemma: positions count from 1, and attention that departs from the pre-training.

PaliGemma was trained as a prefix language model: picture and question see each other in both directions,
only the answer is causal. Here everything is causal, picture tokens included: an embedding of a text and the
same text as an answer are then one function, a packed row needs one kind of mask, and a cached prefix serves
every completion. That equals the model's own forward where ``token_type_ids`` say that everything is answer
(all 1); it differs from ``generate``, so a checkpoint has to be tuned before its answers mean anything.

The checkpoints bring no chat template, so a prompt is written as the processor would: the picture, beginning
of sequence, the question, a line break. What the processor appends is no part of a picture's block.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from finedefics.backbones.family import FAMILIES, Family

# the line break is written as an expression: a template drops one that stands right behind a tag
CHAT_TEMPLATE = (
    "{% for message in messages %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{{ bos_token }}{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% if message.role == 'user' %}{{ '\n' }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class PaliGemma(Family):
    """Causal layers, blocks without what the processor appends, positions from 1."""

    def prepare(self, model: Any) -> None:
        """Make every layer causal (in memory: the saved checkpoint is unchanged).

        Without it a layer that gets no mask, because nothing is padded, attends in both directions.
        """
        for layer in model.get_submodule(self.text).layers:
            layer.self_attn.is_causal = True

    def block(self, ids: Sequence[int], image_token_id: int) -> tuple[int, ...]:
        """The image tokens alone."""
        return tuple(int(token) for token in ids if token == image_token_id)

    def positions(
        self, positions: Tensor, places: Tensor, image_tokens: Sequence[Tensor] | None = None
    ) -> Tensor:
        """[rows, width], from 1."""
        return positions + 1


FAMILIES.register("paligemma")(
    PaliGemma(
        "PaliGemmaProcessor",
        "model.vision_tower",
        "model.multi_modal_projector",
        "model.language_model",
        chat_template=CHAT_TEMPLATE,
    )
)
