"""The schedule of the method's released code, written anew: six padded language-model passes a step.

Object, attribute, category, negative attributes, negative categories and generation each make a pass of their
own, padded to its longest text; repeated texts are encoded again; logits are computed at every position. The
losses are those of the same batch (masks aside), so that only the schedule is compared.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finedefics.backbones import Backbone
from finedefics.conversation import Renderer, pad_right
from finedefics.losses import alignment_losses
from finedefics.pictures import ImageEncoder, decode_image
from finedefics.records import Category, Sample

PASSES = ("object", "attribute", "category", "negative_attribute", "negative_category", "generation")


class ReleasedSchedule(nn.Module):
    """Stage I as six passes over one micro-batch.

    Args:
        backbone: the model.
        categories: the category table.
        negatives: hard negatives a sample.
    """

    def __init__(self, backbone: Backbone, categories: Sequence[Category], negatives: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.render = Renderer(backbone.processor)
        self.encode_images = ImageEncoder(backbone.processor)
        self.table = {category.category_id: category for category in categories}
        self.negatives = negatives

    def collate(self, samples: Sequence[Sample]) -> dict[str, object]:
        """Token ids of the six passes and the pictures' tensors."""
        images, blocks = self.encode_images([decode_image(s.image, s.sample_id) for s in samples])
        closed, question = self.render.closed, self.render.prompt(self.render.templates.question)
        own = [self.table[s.category_id or ""] for s in samples]
        wrong = [self.table[i] for s in samples for i in s.negatives[: self.negatives]]
        answers = [self.render.answer(category.name) for category in own]
        prompts = [(*question.before, *block, *question.after) for block in blocks]
        return {
            "images": images,
            "object": [(*self.encode_images.object_block(block), self.render.eos) for block in blocks],
            "attribute": [closed(s.description or "") for s in samples],
            "category": [closed(category.name) for category in own],
            "negative_attribute": [closed(category.description or "") for category in wrong],
            "negative_category": [closed(category.name) for category in wrong],
            "generation": [(*p, *a) for p, a in zip(prompts, answers, strict=True)],
            "answer_lengths": [len(answer) for answer in answers],
        }

    @staticmethod
    def forwarded_tokens(batch: dict) -> int:
        """Positions that the language model computes in all passes, padding included."""
        return sum(len(batch[name]) * max(map(len, batch[name])) for name in PASSES)

    def forward(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss (weights 1, 0.5, 0.5, 0.5) and its terms."""
        device = self.backbone.device
        pictures = self.backbone.encode_images({k: v.to(device) for k, v in batch["images"].items()})
        objects = self._embed(batch["object"], pictures)
        attributes, categories, wrong_attributes, wrong_categories = (
            self._embed(batch[name]) for name in PASSES[1:5]
        )
        losses = alignment_losses(
            objects,
            attributes,
            categories,
            negative_attributes=wrong_attributes,
            negative_categories=wrong_categories,
            object_attribute_temperature=0.07,
            attribute_category_temperature=0.07,
        )
        answer = self._generate(batch["generation"], batch["answer_lengths"], pictures)
        terms = {
            "answer": answer,
            "object_attribute": losses.object_attribute,
            "attribute_category": losses.attribute_category,
            "category_category": losses.category_category,
        }
        return answer + losses.total(), terms

    def _pass(self, sequences: list, pictures: list[Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        device = self.backbone.device
        ids = torch.tensor(pad_right(sequences, self.render.pad), device=device)
        mask = torch.tensor(pad_right([[1] * len(s) for s in sequences], 0), device=device)
        return ids, mask, self.backbone.hidden_states(self.backbone.embed_tokens(ids, pictures), mask)

    def _embed(self, sequences: list, pictures: list[Tensor] | None = None) -> Tensor:
        _, mask, hidden = self._pass(sequences, pictures)
        return hidden[torch.arange(len(mask), device=mask.device), mask.sum(1) - 1].float()

    def _generate(self, sequences: list, answer_lengths: list[int], pictures: list[Tensor]) -> Tensor:
        ids, mask, hidden = self._pass(sequences, pictures)
        logits = self.backbone.logits(hidden).float()
        length, answer = mask.sum(1, keepdim=True), torch.tensor(answer_lengths, device=ids.device)[:, None]
        place = torch.arange(ids.shape[1], device=ids.device)
        targets = torch.where((place >= length - answer) & (place < length), ids, -100)
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())
