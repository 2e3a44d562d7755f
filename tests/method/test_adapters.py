"""Adapters: where they stand, what is trained, and that a merged model is an ordinary checkpoint again."""

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from finedefics.adapters import (
    AdapterSettings,
    adapted,
    apply,
    export,
    load_adapters,
    merge,
    quantization,
    save_adapters,
    target_names,
)
from finedefics.backbones import PARTS, Backbone, load_backbone
from finedefics.base_model import Sizes, untrained_backbone
from finedefics.collation import Collator
from finedefics.data.generated import random_birds
from finedefics.errors import FinedeficsError
from finedefics.objective import Objective
from finedefics.pictures import ImageEncoder
from finedefics.records import Category, Sample
from finedefics.terms import ObjectiveSettings, TermSettings

CATEGORIES = [
    Category("alba-tern", "alba tern", "tern", "a white wing and a long bill", {"wing": "white"}),
    Category("corva-wren", "corva wren", "wren", "a brown wing and a short bill", {"wing": "brown"}),
]
SETTINGS = ObjectiveSettings(
    terms={
        "answer": TermSettings(1.0, ("labelled",)),
        "object_category": TermSettings(0.5, ("labelled",)),
    },
    learnable_temperatures=True,
)
KINDS = ("lora", "dora")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A model this small gains nothing from a second."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base")
    untrained_backbone().save_pretrained(folder)
    return folder


def step_batch(backbone: Backbone) -> Any:
    samples = []
    for number, category in enumerate(CATEGORIES):
        buffer = io.BytesIO()
        Image.new("RGB", (64, 64), (60 + 150 * number, 90, 200 - 150 * number)).save(buffer, format="PNG")
        samples.append(
            Sample(
                category.category_id, buffer.getvalue(), category.category_id, category.description, {}, ()
            )
        )
    return Collator(backbone.processor, CATEGORIES, SETTINGS, negatives=0)({"labelled": samples}, step=0)


def trained(backbone: Backbone, steps: int = 3) -> Objective:
    torch.manual_seed(1)
    objective = Objective(backbone, SETTINGS)
    batch = step_batch(backbone)
    parameters = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        objective(batch).loss.backward()
        optimizer.step()
    return objective


@torch.no_grad()
def logits(backbone: Backbone) -> Tensor:
    backbone.eval()
    batch = step_batch(backbone)
    images = backbone.encode_images(batch.images)
    rows = batch.sequences
    embeddings = backbone.embed_tokens(rows.ids, [images[i] for i in rows.images.tolist()])
    return backbone.logits(backbone.packed_states(embeddings, rows.segments, rows.positions))


def state(backbone: Backbone) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}


@pytest.mark.parametrize("kind", KINDS)
def test_fresh_adapters_change_nothing(base: Path, kind: Any) -> None:
    plain = logits(load_backbone(base))
    backbone = apply(load_backbone(base), AdapterSettings(kind))
    torch.testing.assert_close(logits(backbone), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_only_adapters_and_temperatures_are_trained(base: Path, kind: Any) -> None:
    backbone = apply(load_backbone(base), AdapterSettings(kind, init="gaussian"))
    before = {name: parameter.clone() for name, parameter in backbone.model.named_parameters()}
    objective = trained(backbone)
    moved = {name for name, p in backbone.model.named_parameters() if not p.equal(before[name])}
    assert moved
    assert all("lora_" in name for name in moved)
    assert any("lora_A" in name for name in moved)
    assert any("perceiver_resampler" in name for name in moved)
    assert any("modality_projection" in name for name in moved)
    assert not any("vision_model" in name for name in moved)
    assert objective.log_temperatures.grad is not None


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_model_answers_as_the_adapted_one(base: Path, kind: Any) -> None:
    backbone = load_backbone(base)
    names, plain = list(state(backbone)), logits(backbone)
    trained(apply(backbone, AdapterSettings(kind, rank=4, alpha=16)))
    expected = logits(backbone)
    assert (expected - plain).abs().max() > 1e-3
    assert adapted(backbone)
    assert not adapted(merge(backbone))
    torch.testing.assert_close(logits(backbone), expected, rtol=1e-4, atol=1e-5)
    assert list(state(backbone)) == names
    assert {type(m) for n, m in backbone.model.named_modules() if n.endswith("q_proj")} == {nn.Linear}
    apply(backbone, AdapterSettings(kind))  # another stage begins on the merged weights
    torch.testing.assert_close(logits(backbone), expected, rtol=1e-4, atol=1e-5)


PLAIN = """
import sys, torch
from transformers import AutoModelForImageTextToText
assert "finedefics" not in sys.modules
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
with torch.no_grad():
    torch.save(model(**torch.load(sys.argv[2])).logits, sys.argv[3])
assert "peft" not in sys.modules and not any(name.startswith("finedefics") for name in sys.modules)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_plain_transformers_loads_what_is_exported(base: Path, tmp_path: Path, kind: Any) -> None:
    backbone = apply(load_backbone(base), AdapterSettings(kind, init="gaussian"))
    trained(backbone)
    batch = step_batch(backbone)
    inputs = {**batch.images, "input_ids": batch.sequences.ids}
    inputs["attention_mask"] = (batch.sequences.segments > 0).long()
    backbone.eval()
    with torch.no_grad():
        expected = backbone.model(**inputs).logits
    export(backbone, tmp_path / "model")
    assert not list((tmp_path / "model").glob("adapter*"))
    torch.save(inputs, tmp_path / "inputs.pt")
    arguments = [tmp_path / name for name in ("model", "inputs.pt", "logits.pt")]
    # -I: neither this folder nor the environment adds to the path
    done = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN, *map(str, arguments)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = torch.load(tmp_path / "logits.pt")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_are_saved_and_loaded(base: Path, tmp_path: Path, kind: Any) -> None:
    from peft import PeftModel

    backbone = apply(load_backbone(base), AdapterSettings(kind))
    trained(backbone)
    save_adapters(backbone, tmp_path)
    again = load_adapters(load_backbone(base), tmp_path)
    torch.testing.assert_close(logits(again), logits(backbone), rtol=0, atol=0)
    assert all("lora_" in name for name, p in again.model.named_parameters() if p.requires_grad)
    other = load_backbone(base)
    PeftModel.from_pretrained(other.model, str(tmp_path))  # the field's own reader
    torch.testing.assert_close(logits(other), logits(backbone), rtol=0, atol=0)


def test_targets_are_where_they_say(base: Path) -> None:
    backbone = load_backbone(base)
    found = {
        target: target_names(backbone, [target]) for target in ("text", "projection", "resampler", "vision")
    }
    assert all(found.values())
    parts = {
        "text": "model.text_model.",
        "projection": "model.connector.modality_projection.",
        "resampler": "model.connector.perceiver_resampler.",
        "vision": "model.vision_model.",
    }
    for target, names in found.items():
        assert all(name.startswith(parts[target]) for name in names)
    every = [name for names in found.values() for name in names]
    assert len(set(every)) == len(every)
    linear = {name for name, m in backbone.model.named_modules() if type(m) is nn.Linear}
    assert linear - set(every) == {"lm_head"}


def test_equal_seeds_give_equal_adapters_and_leave_the_random_state(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)  # no device's state is asked for
    first = state(apply(load_backbone(base), AdapterSettings("lora"), seed=3))
    torch.manual_seed(9)
    second = state(apply(load_backbone(base), AdapterSettings("lora"), seed=3))
    assert all(first[name].equal(second[name]) for name in first)
    backbone = load_backbone(base)
    torch.manual_seed(9)
    expected = torch.rand(1)
    torch.manual_seed(9)
    third = state(apply(backbone, AdapterSettings("lora"), seed=4))
    assert torch.rand(1).equal(expected)
    assert any(not first[name].equal(third[name]) for name in first)


def test_full_tuning_adds_nothing(base: Path) -> None:
    backbone = load_backbone(base)
    before = {name: p.requires_grad for name, p in backbone.model.named_parameters()}
    assert apply(backbone, AdapterSettings()) is backbone
    assert {name: p.requires_grad for name, p in backbone.model.named_parameters()} == before
    assert merge(backbone) is backbone
    with pytest.raises(ValueError, match="no adapters"):
        save_adapters(backbone, base)


def test_what_cannot_be_adapted_is_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_backbone(base)
    with pytest.raises(FinedeficsError, match="not quantized"):
        apply(backbone, AdapterSettings("qlora"))
    with pytest.raises(FinedeficsError, match="no linear layer"):
        apply(backbone, AdapterSettings("lora", targets=()))
    monkeypatch.setattr("finedefics.adapters.find_spec", lambda name: None)
    with pytest.raises(
        FinedeficsError, match=r"bitsandbytes, which is not installed; pip install bitsandbytes"
    ):
        quantization(AdapterSettings("qlora"))
    assert quantization(AdapterSettings("lora")) is None
    with pytest.raises(ValueError, match="already"):
        apply(apply(backbone, AdapterSettings("lora")), AdapterSettings("lora"))


@pytest.mark.parametrize("kind", [*KINDS, "qlora"])
def test_a_diverged_adapter_is_found_before_anything_is_merged(base: Path, kind: Any) -> None:
    settings = AdapterSettings(kind, targets=("text",), init="gaussian")
    backbone = apply(load_backbone(base, quantization=quantization(settings)), settings)
    factors = [p for name, p in backbone.model.named_parameters() if "lora_B" in name]
    for factor in factors:
        nn.init.normal_(factor)
    factors[-1].data.view(-1)[0] = float("nan")
    before = state(backbone)
    with pytest.raises(FinedeficsError, match="NaN or infinity; lower the learning rate"):
        merge(backbone)
    after = state(backbone)
    assert after.keys() == before.keys()
    assert all(after[name].nan_to_num().equal(before[name].nan_to_num()) for name in before)


@pytest.mark.parametrize("training", [False, True])
def test_dropout_is_where_the_model_trains(base: Path, tmp_path: Path, training: bool) -> None:
    settings = AdapterSettings("lora", dropout=0.5)
    backbone = load_backbone(base)
    backbone.model.train(training)
    save_adapters(apply(backbone, settings), tmp_path)
    again = load_backbone(base)
    again.model.train(training)
    load_adapters(again, tmp_path)
    for each in (backbone, again):
        dropouts = [m for name, m in each.model.named_modules() if name.endswith("lora_dropout.default")]
        assert dropouts
        assert {m.training for m in dropouts} == {training}


def test_an_unusable_bitsandbytes_is_named(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # what transformers answers for a version below its minimum
    monkeypatch.setattr(
        "transformers.quantizers.quantizer_bnb_4bit.is_bitsandbytes_available", lambda *_, **__: False
    )
    with pytest.raises(FinedeficsError, match=r"pip install bitsandbytes") as caught:
        load_backbone(base, quantization=quantization(AdapterSettings("qlora")))
    assert caught.value.place == "adapters.kind"
    assert "\n" not in str(caught.value)


@torch.no_grad()
def answer_logits(backbone: Backbone, picture: Image.Image) -> Tensor:
    """Logits along a picture and the end of sequence, whatever the family."""
    encode = ImageEncoder(backbone.processor)
    images, (block,) = encode([picture])
    tokens = backbone.eval().encode_images(images)
    ids = torch.tensor([[*block, backbone.processor.tokenizer.eos_token_id]])
    positions = backbone.positions(torch.arange(ids.shape[1])[None], ids, tokens)
    mask = torch.ones_like(ids)
    hidden = backbone.hidden_states(backbone.embed_tokens(ids, tokens), mask, position_ids=positions)
    return backbone.logits(hidden)


def test_every_family_is_adapted_everywhere_and_merged(tiny_folder: Path, tmp_path: Path) -> None:
    backbone = load_backbone(tiny_folder)
    picture = next(iter(random_birds(1, seed=3)))[0]
    plain = answer_logits(backbone, picture)
    apply(backbone, AdapterSettings("lora", targets=("text", "projection", "resampler", "vision")))
    torch.testing.assert_close(answer_logits(backbone, picture), plain)
    torch.manual_seed(2)
    touched = set()
    for name, parameter in backbone.model.named_parameters():
        if "lora_B" in name:  # as if trained
            nn.init.normal_(parameter, std=0.02)
            touched |= {part for part in PARTS if f"{getattr(backbone.family, part)}." in name}
    assert touched == set(PARTS)
    expected = answer_logits(backbone, picture)
    assert (expected - plain).abs().max() > 1e-3
    export(backbone, tmp_path)
    found = answer_logits(load_backbone(tmp_path), picture)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(params=[False, True], ids=["no AVX512-BF16", "AVX512-BF16"])
def processor_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What bitsandbytes believes of the CPU when it makes a layer, whatever the CPU is."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: request.param)


@pytest.fixture(scope="module")
def in_blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose widths are whole blocks, so that bitsandbytes could pack every layer."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("in_blocks")
    untrained_backbone(Sizes(vision_hidden=64, text_hidden=128)).save_pretrained(folder)
    return folder


@pytest.mark.usefixtures("processor_kind")
def test_adapters_beside_weights_in_four_bits_merge_into_ordinary_ones(base: Path, tmp_path: Path) -> None:
    settings = AdapterSettings("qlora", rank=4, alpha=16)
    backbone = load_backbone(base, quantization=quantization(settings))
    plain = logits(backbone)
    trained(apply(backbone, settings))
    assert torch.uint8 in {p.dtype for p in backbone.model.parameters()}
    expected = logits(backbone)
    assert (expected - plain).abs().max() > 1e-3
    export(backbone, tmp_path)
    torch.testing.assert_close(logits(backbone), expected, rtol=1e-3, atol=1e-4)
    again = load_backbone(tmp_path)
    assert {p.dtype for p in again.model.parameters()} == {torch.float32}
    torch.testing.assert_close(logits(again), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("processor_kind")
def test_weights_in_four_bits_are_the_same_before_and_after_an_evaluation(in_blocks: Path) -> None:
    settings = AdapterSettings("qlora", rank=4, alpha=16)

    def gradients(evaluated: bool) -> dict[str, Tensor]:
        backbone = apply(load_backbone(in_blocks, quantization=quantization(settings)), settings, seed=1)
        torch.manual_seed(1)
        for name, parameter in backbone.model.named_parameters():
            if "lora_B" in name:  # zero at first, and half of the gradients with it
                nn.init.normal_(parameter, std=0.02)
        if evaluated:
            logits(backbone)
        backbone.train()
        Objective(backbone, SETTINGS)(step_batch(backbone)).loss.backward()
        return {name: p.grad for name, p in backbone.model.named_parameters() if p.grad is not None}

    plain, found = gradients(False), gradients(True)
    assert found.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(found[name], gradient, msg=name)
