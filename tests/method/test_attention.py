"""Every kernel of packed rows computes the same; one that cannot is refused before weights are read."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
import transformers.modeling_flash_attention_utils as flash
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

from finedefics.backbones import PARTS, Backbone, load_backbone
from finedefics.backbones.attention import KERNELS, block_mask, dense_mask, first_seen, sequence_ends
from finedefics.collation import Collator
from finedefics.errors import FinedeficsError
from finedefics.objective import Objective
from finedefics.packing import Packed, pack
from finedefics.records import Category, Sample
from finedefics.scoring import Recogniser
from finedefics.terms import ObjectiveSettings, TermSettings

CATEGORIES = (
    Category("alba", "alba tern", None, "a bird has brown wing", {"wing": "brown"}),
    Category("corva", "corva wren", None, "a bird has red wing and long bill", {"wing": "red"}),
    Category("white", "white tern", None, "a bird has white wing", {"wing": "white"}),
)
SETTINGS = ObjectiveSettings(
    terms={
        "answer": TermSettings(1.0, ("labelled",)),
        "caption": TermSettings(1.0, ("labelled",)),
        "text": TermSettings(1.0, ("text",)),
        "object_attribute": TermSettings(1.0, ("labelled",)),
        "attribute_category": TermSettings(1.0, ("labelled", "text")),
    }
)
LENGTHS = st.lists(st.integers(1, 30), min_size=2, max_size=40)


def sees(layout: Packed, window: int | None) -> Tensor:
    """What each position may see, by definition: [rows, width, width]."""
    places = torch.arange(layout.ids.shape[1])
    back = places[:, None] - places
    same = layout.segments[:, :, None] == layout.segments[:, None, :]
    return same & (back >= 0) & (back < (window or len(places)))


@given(LENGTHS, st.sampled_from([None, 3, 200]), st.sampled_from([4, 16, 128]))
@settings(max_examples=20, deadline=None)
def test_each_form_of_mask_says_that_a_position_sees_its_own_past(
    lengths: list[int], window: int | None, block: int
) -> None:
    layout, _ = pack([[1] * n for n in lengths], [-1] * len(lengths), pad=0)
    expected = sees(layout, window)
    first = first_seen(layout.segments, window)
    assert (dense_mask(first, torch.float32)[:, 0] == 0).equal(expected)
    found = block_mask(first, block)
    rows, width = layout.ids.shape
    defined = create_block_mask(
        lambda b, h, q, k: expected[b, q, k], rows, None, width, width, device="cpu", BLOCK_SIZE=block
    )
    assert found.shape == (rows, 1, width, width)
    for name in ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices", "q_num_blocks"):
        assert getattr(found, name).equal(getattr(defined, name)), name
    row, query, key = torch.meshgrid(*map(torch.arange, expected.shape), indexing="ij")
    assert found.mask_mod(row, torch.tensor(0), query, key).equal(expected)


@given(LENGTHS)
@settings(max_examples=30, deadline=None)
def test_flash_attention_is_told_where_sequences_end(lengths: list[int]) -> None:
    layout, owners = pack([[1] * n for n in lengths], [-1] * len(lengths), pad=0)
    told = sequence_ends(layout.segments)
    ends = told["cu_seq_lens_q"]
    assert ends.dtype == torch.int32
    assert told["cu_seq_lens_k"].equal(ends)
    runs = [owners.flatten()[a:b].unique().tolist() for a, b in pairwise(ends.tolist())]
    assert all(len(run) == 1 for run in runs)
    assert sorted(run[0] for run in runs if run[0] >= 0) == list(range(len(lengths)))
    assert told["max_length_q"] == told["max_length_k"] == int(ends.diff().max())
    assert int(ends[-1]) == owners.numel()


def varlen_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
) -> Tensor:
    """What flash-attn's ``flash_attn_varlen_func`` computes, by its definition; [tokens, heads, dim] each."""
    assert causal
    assert cu_seqlens_q.equal(cu_seqlens_k)
    assert max_seqlen_q == max_seqlen_k == int(cu_seqlens_q.diff().max())
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    made = []
    for start, end in pairwise(cu_seqlens_q.tolist()):
        scores = torch.einsum("qhd,khd->hqk", q[start:end], k[start:end]) * softmax_scale
        if softcap:
            scores = softcap * (scores / softcap).tanh()
        back = torch.arange(end - start)[:, None] - torch.arange(end - start)
        unseen = (back < 0) | ((back > window_size[0]) if window_size[0] >= 0 else (back < 0))
        weights = scores.masked_fill(unseen, float("-inf")).softmax(-1)
        made.append(torch.einsum("hqk,khd->qhd", weights, v[start:end]))
    return torch.cat(made)


@pytest.fixture
def flash_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """In flash-attn's place its definition; a call that is not by sequences' ends fails."""
    arguments = flash._lazy_define_process_function(varlen_attention)
    kernel = ((None, varlen_attention, None, None, None), (arguments, arguments))
    monkeypatch.setattr(flash, "lazy_import_flash_attention", lambda *_, **__: kernel)


def attending(folder: Path, kernel: str | None) -> Backbone:
    """A model on the CPU, where not every kernel could be loaded to train."""
    torch.set_num_threads(1)
    loaded = load_backbone(folder)
    return Backbone(loaded.model, loaded.processor, PARTS, kernel).eval()


def objective_of(backbone: Backbone, files: Sequence[bytes]) -> tuple[Objective, Any]:
    labelled = [
        Sample(str(i), file, c.category_id, c.description, c.attributes, ("white",))
        for i, (file, c) in enumerate(zip(files, CATEGORIES[:2], strict=False))
    ]
    collate = Collator(backbone.processor, CATEGORIES, SETTINGS, negatives=1)
    batch = collate({"labelled": labelled, "text": list(CATEGORIES[2:])}, step=0)
    assert int(batch.sequences.segments.max()) > 1 or int(batch.embedded.segments.max()) > 1
    return Objective(backbone, SETTINGS), batch


def terms_and_gradient(
    backbone: Backbone, files: Sequence[bytes], device: str = "cpu"
) -> tuple[dict[str, Tensor], Tensor]:
    objective, batch = objective_of(backbone, files)
    output = objective.to(device)(batch.to(device))
    output.loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in backbone.parameters() if p.grad is not None])
    return output.terms, gradient


@pytest.mark.usefixtures("flash_kernel")
def test_losses_and_gradients_are_those_of_the_default(tiny_folder: Path, birds: list[bytes]) -> None:
    plain = attending(tiny_folder, None)
    terms, gradient = terms_and_gradient(plain, birds)
    assert gradient.abs().max() > 1e-2
    for kernel in {"eager", "flash_attention_2"} - {plain.part("text").config._attn_implementation}:
        found, own = terms_and_gradient(attending(tiny_folder, kernel), birds)
        torch.testing.assert_close(found, terms, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(own, gradient, rtol=1e-3, atol=1e-5)
    objective, batch = objective_of(attending(tiny_folder, "flex_attention"), birds)
    # uncompiled and without gradient: on a CPU torch has no more of it
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        torch.testing.assert_close(objective(batch).terms, terms, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family_name", ["idefics2", "paligemma2"])  # every layer's window, and every other's
@pytest.mark.usefixtures("flash_kernel")
def test_a_window_slides_within_a_sequence(tmp_path: Path, family_name: str) -> None:
    folder = edited(tiny_models.save_tiny(family_name, tmp_path), sliding_window=3)
    lengths = (11, 4, 3, 9, 2, 5)
    sequences = [[4 + (7 * i + j) % 60 for j in range(n)] for i, n in enumerate(lengths)]
    for kernel in (None, "sdpa", "flex_attention", "flash_attention_2", "eager"):
        if (family_name, kernel) == ("paligemma2", "sdpa"):
            continue
        backbone = attending(folder, kernel)
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            with backbone.padded():  # the model's own way with one sequence in a row
                alone = torch.cat([states(backbone, [s]) for s in sequences])
            together = states(backbone, sequences)
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5, msg=f"{kernel}")


def states(backbone: Backbone, sequences: Sequence[Sequence[int]]) -> Tensor:
    """Final hidden states of every position of every sequence, in order: [tokens, hidden]."""
    layout, owners = pack(sequences, [-1] * len(sequences), pad=0)
    assert len(layout) < len(sequences) or len(sequences) == 1
    positions = backbone.positions(layout.positions, layout.ids)
    found = backbone.packed_states(backbone.embed_tokens(layout.ids), layout.segments, positions)
    return torch.cat([found[owners == i] for i in range(len(sequences))])


def edited(folder: Path, **text: Any) -> Path:
    """A saved model with other settings of its language model."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["text_config"] |= text
    file.write_text(json.dumps(config))
    return folder


def test_answering_is_left_as_it_was_and_so_is_what_is_saved(tmp_path: Path, birds: list[bytes]) -> None:
    folder = tiny_models.save_tiny("idefics2", tmp_path / "base")
    plain, packed = attending(folder, None), attending(folder, "flash_attention_2")
    for answer in ("alignment", "names", "describe"):  # padded rows, and caches: no kernel is installed here
        expected = Recogniser(plain, CATEGORIES).answer(birds, answer).scores
        torch.testing.assert_close(Recogniser(packed, CATEGORIES).answer(birds, answer).scores, expected)
    assert packed.model.config.get_text_config()._attn_implementation == "flash_attention_2"
    packed.save_pretrained(tmp_path / "saved")
    for name in ("config.json", "generation_config.json"):
        assert "flash" not in (tmp_path / "saved" / name).read_text()


@pytest.mark.parametrize(
    ("name", "kernel", "dtype", "text", "message"),
    [
        (
            "idefics2",
            "ring",
            "float32",
            {},
            "ring .*no such kernel.*use one of sdpa, flex",
        ),
        (
            "paligemma2",
            "sdpa",
            "float32",
            {},
            "capped.*use one of flex_attention, flash_attention_2",
        ),
        (
            "idefics2",
            "flex_attention",
            "float32",
            {"attention_dropout": 0.1},
            "has dropout.*one of sdpa",
        ),
        ("idefics2", "flash_attention_2", "bfloat16", {"head_dim": 512}, "heads of 512, at most 256"),
        ("idefics2", "flash_attention_2", "float32", {}, r"not in float32; set model\.dtype to bfloat16"),
        ("idefics2", "flash_attention_2", "bfloat16", {}, "not installed.*pip install flash-attn"),
    ],
)
def test_a_kernel_that_cannot_compute_it_is_refused_before_weights_are_read(
    tmp_path: Path, name: str, kernel: str, dtype: str, text: dict[str, Any], message: str
) -> None:
    folder = edited(tiny_models.save_tiny(name, tmp_path), **text)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FinedeficsError, match=message) as refused:
        load_backbone(folder, dtype=dtype, attention=kernel)
    assert refused.value.place == "model.attention"
    assert "\n" not in str(refused.value)


def test_a_package_without_a_device_or_of_another_torch_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_models.save_tiny("idefics2", tmp_path)
    monkeypatch.setattr("finedefics.backbones.attention.version", lambda _: "2.8.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(FinedeficsError, match=r"needs a CUDA device of compute capability 8\.0"):
        load_backbone(folder, dtype="bfloat16", attention="flash_attention_2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    with pytest.raises(FinedeficsError, match=r"flash-attn 2\.8\.0 cannot be used \(No module"):
        load_backbone(folder, dtype="bfloat16", attention="flash_attention_2")


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if kernel != "sdpa"])
def test_on_a_gpu_kernels_agree(tmp_path: Path, birds: list[bytes], kernel: str) -> None:
    folder = tiny_models.save_tiny("idefics2", tmp_path)
    # FlexAttention compiles heads of 16 and more
    edited(folder, head_dim=16)
    dtype = "bfloat16" if kernel == "flash_attention_2" else "float32"
    if kernel == "flash_attention_2":
        pytest.importorskip("flash_attn")
    made = []
    for name in ("sdpa", kernel):
        torch.manual_seed(0)
        model = transformers_model(folder, dtype)
        made.append(terms_and_gradient(Backbone(*model, PARTS, name).eval(), birds, "cuda"))
    close = {"rtol": 5e-2, "atol": 5e-2} if dtype == "bfloat16" else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(made[1][0], made[0][0], **close)
    torch.testing.assert_close(made[1][1], made[0][1], **close)


def transformers_model(folder: Path, dtype: str) -> tuple[Any, Any]:
    """The folder's architecture with weights drawn anew, and its processor."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    from finedefics.backbones import load_processor

    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder), dtype=dtype)
    return model, load_processor(folder)
