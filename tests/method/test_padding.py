"""An embedding is a function of its own text or picture: not of padding, its side, neighbours or packing."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from finedefics.backbones import Backbone
from finedefics.base_model import untrained_backbone
from finedefics.data.generated import random_birds
from finedefics.packing import pack
from finedefics.pictures import ImageEncoder

TEXTS = ("alba tern", "brown", "a black crown and a long bill", "corva wren", "white wing bar", "red", "dusk")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(0)
    return untrained_backbone().eval()


@pytest.fixture(scope="module")
def sequences(backbone: Backbone) -> list[list[int]]:
    tokenizer = backbone.processor.tokenizer
    return [[*tokenizer(t, add_special_tokens=False).input_ids, tokenizer.eos_token_id] for t in TEXTS]


@pytest.fixture(scope="module")
def pictures(backbone: Backbone) -> tuple[list[Tensor], list[list[int]]]:
    """Image tokens of two birds, and their sequences: image places, then end of sequence."""
    encode = ImageEncoder(backbone.processor)
    images, blocks = encode([image for image, _ in random_birds(2, seed=3)])
    eos = backbone.processor.tokenizer.eos_token_id
    with torch.no_grad():
        return backbone.encode_images(images), [[*encode.object_block(b), eos] for b in blocks]


def embed(
    backbone: Backbone,
    sequences: Sequence[Sequence[int]],
    image_tokens: Sequence[Tensor] = (),
    images: Sequence[int] | None = None,
    *,
    packed: bool,
) -> Tensor:
    pad = backbone.processor.tokenizer.pad_token_id
    layout, _ = pack(sequences, images or [-1] * len(sequences), pad=pad, packed=packed)
    with torch.no_grad():
        inputs = backbone.embed_tokens(layout.ids, [image_tokens[i] for i in layout.images.tolist()])
        hidden = backbone.packed_states(inputs, layout.segments, layout.positions)
    return hidden[layout.reads[:, 0], layout.reads[:, 1]]


def alone(backbone: Backbone, ids: Sequence[int], image: Tensor | None = None) -> Tensor:
    """The embedding without any padding, neighbour or mask to get wrong."""
    with torch.no_grad():
        inputs = backbone.embed_tokens(torch.tensor([list(ids)]), None if image is None else [image])
        return backbone.hidden_states(inputs, torch.ones(1, len(ids), dtype=torch.long))[0, -1]


def assert_close(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_texts_embed_as_if_alone(backbone: Backbone, sequences: list[list[int]], packed: bool) -> None:
    expected = torch.stack([alone(backbone, ids) for ids in sequences])
    assert_close(embed(backbone, sequences, packed=packed), expected)


def test_texts_do_share_rows_when_packed(sequences: list[list[int]]) -> None:
    layout, _ = pack(sequences, [-1] * len(sequences), pad=0)
    assert len(layout.ids) < len(sequences)


@pytest.mark.parametrize("packed", [False, True])
def test_neighbours_do_not_change_an_embedding(
    backbone: Backbone, sequences: list[list[int]], packed: bool
) -> None:
    expected = embed(backbone, sequences, packed=packed)
    turned = embed(backbone, sequences[::-1], packed=packed)
    assert_close(turned.flip(0), expected)
    assert_close(embed(backbone, sequences[:3], packed=packed), expected[:3])
    crowded = embed(backbone, [*sequences, *[s * 3 for s in sequences]], packed=packed)
    assert_close(crowded[: len(sequences)], expected)


@pytest.mark.parametrize("packed", [False, True])
def test_objects_embed_as_if_alone(
    backbone: Backbone,
    sequences: list[list[int]],
    pictures: tuple[list[Tensor], list[list[int]]],
    packed: bool,
) -> None:
    tokens, objects = pictures
    mixed = [sequences[0], objects[1], sequences[2], objects[0]]
    found = embed(backbone, mixed, tokens, [-1, 1, -1, 0], packed=packed)
    assert_close(found[1], alone(backbone, objects[1], tokens[1]))
    assert_close(found[3], alone(backbone, objects[0], tokens[0]))
    assert_close(found[2], alone(backbone, sequences[2]))
    assert (found[1] - found[3]).abs().max() > 1e-2  # two birds, two embeddings


def test_left_padding_gives_the_same_embedding(backbone: Backbone, sequences: list[list[int]]) -> None:
    pad, width = backbone.processor.tokenizer.pad_token_id, max(map(len, sequences))
    ids = torch.tensor([[pad] * (width - len(s)) + s for s in sequences])
    mask = torch.tensor([[0] * (width - len(s)) + [1] * len(s) for s in sequences])
    with torch.no_grad():
        hidden = backbone.hidden_states(backbone.embed_tokens(ids), mask)
    assert_close(hidden[:, -1], embed(backbone, sequences, packed=False))
