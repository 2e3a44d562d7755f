"""A step holds no more tokens at a time than its budget, and what alone is larger is refused."""

from typing import Any

import pytest
import torch

from benchmarks.samples import make_data
from benchmarks.stage_one import STAGE_ONE
from finedefics.backbones import Backbone
from finedefics.base_model import untrained_backbone
from finedefics.collation import Collator
from finedefics.errors import FinedeficsError
from finedefics.objective import Objective

BUDGET = 512


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(0)
    return untrained_backbone()


@pytest.mark.parametrize("negatives", [0, 3, 15])
def test_every_forward_keeps_within_the_budget(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, negatives: int
) -> None:
    data = make_data()
    near = {
        c.category_id: [o.category_id for o in data.categories if o is not c][:15] for c in data.categories
    }
    samples = [
        type(s)(
            s.sample_id,
            s.image,
            s.category_id,
            s.description,
            negatives=tuple(near[s.category_id or ""][:negatives]),
        )
        for s in data.random_batch(8)
    ]
    collate = Collator(
        backbone.processor, data.categories, STAGE_ONE, negatives=negatives, micro_tokens=BUDGET
    )
    batch = collate({"labelled": samples}, step=0)
    text, images = [], []
    hidden, encode = Backbone.hidden_states, Backbone.encode_images

    def counted(self: Backbone, embeddings: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        text.append(embeddings.shape[:2].numel())
        return hidden(self, embeddings, *rest, **options)

    def seen(self: Backbone, part: Any) -> Any:
        images.append(self.patches(part) * len(part["pixel_values"]))
        return encode(self, part)

    monkeypatch.setattr(Backbone, "hidden_states", counted)
    monkeypatch.setattr(Backbone, "encode_images", seen)
    with torch.no_grad():
        Objective(backbone, STAGE_ONE, micro_tokens=BUDGET)(batch)
    assert max(text) <= BUDGET
    assert max(images) <= BUDGET
    assert sum(text) == batch.forwarded_tokens
    assert len(text) >= batch.forwarded_tokens / BUDGET


def test_a_trained_tower_holds_its_patches_within_the_budget_too(backbone: Backbone) -> None:
    data = make_data()
    batch = Collator(backbone.processor, data.categories, STAGE_ONE, negatives=0)(
        {"labelled": data.random_batch(2)}, step=0
    )
    texts = batch.forwarded_tokens
    budget = texts + backbone.patches(batch.images)  # the texts and one of the two pictures

    def step(parts: tuple[str, ...], micro_tokens: int | None) -> tuple[int, torch.Tensor]:
        tower = Backbone(backbone.model, backbone.processor, parts)
        runs: list[int] = []
        layer = tower.part("vision").encoder.layers[0]
        watch = layer.register_forward_pre_hook(lambda *_: runs.append(1))
        try:
            objective = Objective(tower, STAGE_ONE, micro_tokens=micro_tokens)
            objective.zero_grad()
            objective(batch).loss.backward()
        finally:
            watch.remove()
        return len(runs), torch.cat([p.grad.flatten() for p in tower.parameters() if p.grad is not None])

    every = ("vision", "connector", "text")
    runs, whole = step(every, None)
    assert runs == 1
    runs, divided = step(every, budget)
    assert runs == 2  # forward, and again in the backward pass: nothing of it was held beside the texts
    torch.testing.assert_close(divided, whole, rtol=1e-4, atol=1e-6)
    assert step(every, budget + backbone.patches(batch.images))[0] == 1
    assert step(("connector", "text"), budget)[0] == 1  # frozen it holds nothing
    backbone.train_parts(("connector", "text"))


def test_a_sequence_beyond_the_budget_is_refused_with_its_sample(backbone: Backbone) -> None:
    data = make_data()
    sample = data.sample(0)
    collate = Collator(backbone.processor, data.categories, STAGE_ONE, negatives=3, micro_tokens=16)
    with pytest.raises(FinedeficsError, match=r"compute\.micro_tokens=16; raise") as refused:
        collate({"labelled": [sample]}, step=0)
    assert refused.value.exit_code == 2
    assert sample.sample_id in str(refused.value)


def test_layers_are_run_again_in_training_alone(backbone: Backbone) -> None:
    data, runs = make_data(), 0
    batch = Collator(backbone.processor, data.categories, STAGE_ONE, negatives=3)(
        {"labelled": data.random_batch(2)}, step=0
    )
    objective = Objective(backbone, STAGE_ONE, checkpointing=True)

    def count(*_: Any) -> None:
        nonlocal runs
        runs += 1

    # within the layer: hooks of the layer itself stay outside of what is run again
    watch = backbone.part("text").layers[0].self_attn.register_forward_pre_hook(count)
    try:
        objective.train()(batch).loss.backward()
        assert runs == 4  # two passes, each once again
        runs = 0
        objective.eval()(batch).loss.backward()
        assert runs == 2
    finally:
        watch.remove()
