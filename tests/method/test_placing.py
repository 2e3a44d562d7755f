"""A model stands on as few cards as hold it, or is refused by arithmetic before a weight is read."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_models import FAMILIES, save_tiny
from torch import Tensor, nn

from finedefics import placing
from finedefics.backbones import Backbone, load_backbone, load_processor
from finedefics.errors import FinedeficsError
from finedefics.placing import (
    CARDS_OWN,
    GIB,
    LEAST,
    MICRO_TOKENS,
    Needs,
    answer_where_asked,
    load_placed,
    memory_of,
    needs_of,
    planned,
    spread,
)

QWEN = "Qwen/Qwen2.5-VL-7B-Instruct"


def published(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> Needs:
    from finedefics.backbones.published import published_config

    monkeypatch.setattr("finedefics.backbones.loading.known_config", published_config)
    return needs_of(name, dtype)


def test_arithmetic_of_a_real_model_by_a_table_of_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = published("HuggingFaceM4/idefics2-8b", "bfloat16", monkeypatch)
    assert needs.parameters == pytest.approx(8.40e9, rel=1e-3)
    assert needs.weights == 2 * needs.parameters
    assert needs.cache == 2 * 32 * 8 * 128 * 2  # keys and values, layers, heads, width, bytes
    assert needs.working == (6 * 4096 + 3 * 14336) * 2
    everything = needs.weights + needs.beside(MICRO_TOKENS)
    assert needs.beside(MICRO_TOKENS) == CARDS_OWN + MICRO_TOKENS * (needs.cache + needs.working)
    assert planned(needs, "cuda", [everything]) == (None, MICRO_TOKENS)
    # one byte less, and fewer tokens go through together; two cards make room for all of them
    assert planned(needs, "cuda", [everything - 1]) == (None, MICRO_TOKENS // 2)
    two = planned(needs, "cuda", [24 * GIB] * 2)
    assert two.micro_tokens == MICRO_TOKENS
    assert two.cards is not None
    layers = {name: card for name, card in two.cards.items() if ".layers." in name}
    assert sorted(layers) == sorted(f"model.text_model.layers.{n}" for n in range(32))
    assert 10 <= sum(layers.values()) <= 22  # about half of them on each
    # what was asked for has to fit, and the answer says what would
    with pytest.raises(FinedeficsError) as asked:
        planned(needs, "cuda", [24 * GIB], MICRO_TOKENS)
    said = str(asked.value)
    assert "8.4e9 parameters x 2 bytes = 15.7 GiB, and 18.2 beside them for 65536 tokens" in said
    assert "of 1 GPU with 24.0 GiB free" in said
    assert "lower evaluation.micro_tokens (--micro-tokens) to 16384" in said
    assert "give each process 2 such cards (--gpus-per-worker 2)" in said
    assert planned(needs, "cuda", [24 * GIB], 16384) == (None, 16384)
    assert len(said.splitlines()) == 1


def test_a_model_that_fits_nowhere_is_refused_with_what_would_hold_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needs = published(QWEN, "float32", monkeypatch)
    with pytest.raises(FinedeficsError) as few:
        planned(needs, "cuda", [16 * GIB])
    assert "x 4 bytes = 30.9 GiB" in str(few.value)
    assert "ask it in bfloat16 (evaluation.dtype, --dtype)" in str(few.value)
    assert "give each process 3 such cards" in str(few.value)
    assert planned(needs, "cuda", [16 * GIB] * 3).cards is not None
    with pytest.raises(FinedeficsError, match="take larger cards: 16 such do not hold it"):
        planned(needs, "cuda", [3 * GIB])
    with pytest.raises(FinedeficsError, match=r"30\.9 GiB of a machine that has 16\.0; ask it in bfloat16"):
        planned(needs, "cpu", [16 * GIB])
    assert planned(needs, "cpu", [64 * GIB]) == (None, MICRO_TOKENS)


def test_it_is_refused_before_a_weight_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny("idefics2", tmp_path)
    monkeypatch.setattr(placing, "memory_of", lambda device: [1000])
    monkeypatch.setattr(placing, "load_backbone", lambda *_, **__: pytest.fail("weights are read"))
    with pytest.raises(FinedeficsError, match="parameters x 4 bytes"):
        load_placed(tmp_path, "cpu")
    with pytest.raises(FinedeficsError, match=f"beside them for {LEAST} tokens"):
        load_placed(tmp_path, "cuda")


def test_the_cards_of_a_process_are_those_that_it_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: None)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda card: ([70, 80][card], 100))
    assert memory_of("cuda") == [70, 80]
    assert memory_of("cuda:1") == [80]
    assert memory_of("cpu")[0] > GIB


def fake(backbone: Backbone, cards: dict[str, int]) -> None:
    """Put weights and buffers on devices that are made up, as the map says; they hold nothing."""
    for name, module in backbone.model.named_modules():
        for held in (module._parameters, module._buffers):
            for key, tensor in held.items():
                whole = f"{name}.{key}" if name else key
                on = [part for part in cards if part == "" or whole == part or whole.startswith(f"{part}.")]
                if tensor is None:
                    continue
                made: Tensor = torch.empty(tensor.shape, dtype=tensor.dtype, device=f"cpu:{cards[on[0]]}")
                held[key] = nn.Parameter(made, False) if isinstance(tensor, nn.Parameter) else made


@pytest.mark.parametrize("family", ["idefics2", "qwen2_5_vl", "llava_next", "paligemma"])
def test_every_part_of_a_spread_model_answers_where_it_was_asked(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On tensors that hold nothing: torch refuses an operation between two cards there as elsewhere."""
    from accelerate import dispatch_model
    from torch._subclasses.fake_tensor import FakeTensorMode

    save_tiny(family, tmp_path)
    monkeypatch.setattr(placing, "CARDS_OWN", 0)
    needs = needs_of(tmp_path, "float32")
    cards = next(
        found
        for percent in range(55, 200, 5)
        if (found := spread(needs, [needs.weights * percent // 100 + needs.beside(16)] * 2, 16))
    )
    assert set(cards.values()) == {0, 1}
    backbone = Backbone(copy.deepcopy(needs.model), load_processor(tmp_path), train=()).eval()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        fake(backbone, cards)
        dispatch_model(backbone.model, {name: f"cpu:{card}" for name, card in cards.items()})
        answer_where_asked(backbone)
        asked = backbone.device
        hidden = torch.empty(2, 6, backbone.model.config.get_text_config().hidden_size, device=asked)
        ids = torch.ones(2, 6, dtype=torch.long, device=asked)
        mask, places = torch.ones_like(ids), torch.zeros_like(ids)
        positions = backbone.family.positions(places, places == 1)
        embedded = backbone.embed_tokens(ids)
        out = backbone.language_model(embedded, None, position_ids=positions, use_cache=False)
        states = backbone.hidden_states(
            hidden, mask if family == "idefics2" else None, position_ids=positions
        )
        given = {embedded.device, out.last_hidden_state.device, states.device, backbone.logits(states).device}
    assert given == {asked}
    where = {p.device.index for p in backbone.parameters()}
    assert where == {0, 1}


def test_a_spread_model_says_what_a_whole_one_says(tmp_path: Path) -> None:
    """Over the CPU and the disk, which are all the devices that every machine has."""
    from finedefics.records import Category
    from finedefics.scoring import Recogniser

    save_tiny("idefics2", tmp_path / "model")
    cards: dict[str, Any] = {"model.text_model.layers.1": "disk", "lm_head": "disk"}
    cards |= {"model.vision_model": "cpu", "model.connector": "cpu", "model.text_model.layers.0": "cpu"}
    cards |= dict.fromkeys(("model.text_model.embed_tokens", "model.text_model.norm"), "cpu")
    cards |= {"model.text_model.rotary_emb": "cpu"}
    parts = load_backbone(tmp_path / "model", train=(), device_map=cards)
    answer_where_asked(parts)
    assert {p.device.type for p in parts.parameters()} == {"cpu", "meta"}
    assert parts.device.type == "cpu"
    categories = [Category(name, name, description=f"{name} wing") for name in ("red", "brown", "white")]
    whole = Recogniser(load_backbone(tmp_path / "model", train=()), categories)
    images = [Image.new("RGB", (40 + 9 * number, 50), (90 * number, 80, 40)) for number in range(2)]
    for answer in ("names", "alignment", "describe"):
        spread_out = Recogniser(parts, categories).answer(images, answer)
        torch.testing.assert_close(spread_out.scores, whole.answer(images, answer).scores)


def test_every_family_can_be_planned(tmp_path: Path) -> None:
    for family in FAMILIES:
        needs = needs_of(save_tiny(family, tmp_path / family), "float32")
        assert needs.weights == 4 * needs.parameters
        assert needs.cache > 0 < needs.working
