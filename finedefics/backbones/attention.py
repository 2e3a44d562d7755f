"""How packed rows attend: each sequence to its own past, by the kernel that was chosen.

Where every position stops looking back is all there is to say (`first_seen`), and each kernel is told it in
its own way. FlexAttention skips blocks of 128 x 128 positions that nobody sees; flash attention takes the
ends of the sequences; sdpa and eager need a dense mask. Of 16 rows of 2,048 positions in bfloat16 the dense
mask is 16 · 2,048² · 2 B = 134 MB; the block mask, four tables of 4 B a block, is 16 · 16² · 4 · 4 B = 66 kB
and grows by the square of width / 128; the ends are 4 B a sequence.

The choice is for the language model in training. Towers and connectors keep what transformers chooses, and so
do padded rows with their caches, by which a model is asked.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from finedefics.errors import FinedeficsError, reason_of, wrong_use

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

KERNELS = ("sdpa", "flex_attention", "flash_attention_2", "eager")
BLOCK = 128  # FlexAttention's own block of positions
FLASH_HEAD = 256  # the widest head that flash attention computes


def check_attention(kernel: str, config: Any, dtype: str) -> None:
    """Refuse a kernel before weights are read; nothing else is ever taken in its place.

    Args:
        kernel: one of `KERNELS`.
        config: of the model, as ``AutoConfig`` gave it.
        dtype: that the model will compute in.

    Raises:
        FinedeficsError: the family's language model does not take the kernel, or the kernel not the dtype
            (exit code 2), or it is not installed or has no device here.
    """
    text = config.get_text_config()
    if reason := _refusal(kernel, text):
        taken = [name for name in KERNELS if not _refusal(name, text)]
        raise wrong_use(
            f"{kernel} does not compute the attention of {text.model_type} ({reason})",
            place="model.attention",
            cure=f"use one of {', '.join(taken)}",
        )
    if kernel != "flash_attention_2":
        return
    if dtype == "float32":
        raise wrong_use(
            "flash_attention_2 computes in half precision, not in float32",
            place="model.attention",
            cure="set model.dtype to bfloat16, or use sdpa or flex_attention",
        )
    check_installed(kernel)
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0):
        raise FinedeficsError(
            "flash_attention_2 needs a CUDA device of compute capability 8.0 or newer, and there is none",
            place="model.attention",
            cure="run on such a card, or use sdpa",
        )
    _check_usable()


def check_installed(kernel: str | None) -> None:
    """FinedeficsError where the kernel's package is not installed."""
    if kernel != "flash_attention_2":
        return
    try:
        version("flash-attn")
    except PackageNotFoundError as error:
        raise FinedeficsError(
            "flash_attention_2 is not installed (package flash-attn)",
            place="model.attention",
            cure="pip install flash-attn, or use flex_attention or sdpa",
        ) from error


def _check_usable() -> None:
    """Refuse a package that transformers would pass over, fetching another kernel from the hub instead."""
    from transformers.utils import is_flash_attn_2_available

    reason = "older than 2.3.3"
    try:
        # built for another torch it fails on import, else only at the first step
        import_module("flash_attn")  # by its name: no requirement of ours

        if is_flash_attn_2_available():
            return
    except ImportError as error:
        reason = reason_of(error)
    raise FinedeficsError(
        f"flash-attn {version('flash-attn')} cannot be used ({reason})",
        place="model.attention",
        cure="install a release built for this torch, or use flex_attention or sdpa",
    )


def _refusal(kernel: str, text: Any) -> str | None:
    """Why a language model cannot attend by a kernel; None if it can."""
    from transformers import MODEL_MAPPING

    if kernel not in KERNELS:
        return "no such kernel"
    model: Any = MODEL_MAPPING[type(text)]
    # what transformers says of FlexAttention is about a family with its tower, which is left alone here
    takes = {
        "sdpa": model._supports_sdpa,
        "flash_attention_2": model._supports_flash_attn,
        "flex_attention": model._supports_attention_backend,
        "eager": True,
    }
    if not takes[kernel]:
        return "its logits are capped" if getattr(text, "attn_logit_softcapping", None) else "not supported"
    if kernel == "flex_attention" and getattr(text, "attention_dropout", None):
        return "it has dropout"
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    if kernel == "flash_attention_2" and head > FLASH_HEAD:
        return f"heads of {head}, at most {FLASH_HEAD}"
    return None


def packed_attention(config: Any, segments: Tensor, dtype: torch.dtype) -> dict[str, Any]:
    """What a language model is called with so that sequences that share a row are blind to each other.

    Args:
        config: of the language model; its ``_attn_implementation`` is the kernel.
        segments: [rows, width] number of the sequence at every position, each one run of columns; 0 where
            padding stands, which attends to itself and is never read.
        dtype: of the embeddings, for additive masks.

    Returns:
        ``attention_mask`` in the kernel's form (by kind of layer where only some slide a window), and for
        flash attention the sequences' ends in its place.
    """
    kernel = config._attn_implementation
    if kernel == "flash_attention_2":  # it slides the layers' windows itself
        return {"attention_mask": None, **sequence_ends(segments)}
    if kernel != "flex_attention" and int(segments.max()) <= 1:
        # a row a sequence: models then take their fastest causal path, and slide their windows themselves
        return {"attention_mask": (segments > 0).long()}
    make: Callable[[Tensor], Any]
    make = block_mask if kernel == "flex_attention" else lambda first: dense_mask(first, dtype)
    window, kinds = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    if kinds is None:
        return {"attention_mask": make(first_seen(segments, window))}
    full = make(first_seen(segments))
    if "sliding_attention" not in kinds:
        return {"attention_mask": full}
    narrow = window is not None and window < segments.shape[1]
    sliding = make(first_seen(segments, window)) if narrow else full
    return {"attention_mask": {"full_attention": full, "sliding_attention": sliding}}


def first_seen(segments: Tensor, window: int | None = None) -> Tensor:
    """First column [rows, width] that each position sees: its sequence's first, or where its window begins.

    Args:
        segments: [rows, width], as in `packed_attention`.
        window: positions that a layer sees, the own one included; None: all.
    """
    places = torch.arange(segments.shape[1], device=segments.device)
    starts = torch.where(_begins(segments), places, 0).cummax(1).values
    return starts if window is None else starts.maximum(places - window + 1)


def dense_mask(first: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask [rows, 1, width, width]: 0 where a position sees another, else the dtype's lowest value.

    Args:
        first: [rows, width], of `first_seen`.
        dtype: of the mask.
    """
    places = torch.arange(first.shape[1], device=first.device)
    seen = (first[:, :, None] <= places) & (places <= places[:, None])
    blocked = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=first.device)
    return torch.where(seen, torch.zeros_like(blocked), blocked)[:, None]


def block_mask(first: Tensor, block: int = BLOCK) -> "BlockMask":
    """FlexAttention's mask [rows, 1, width, width], from the blocks' corners alone: no dense mask on the way.

    ``first`` never falls along a row while a row's sequences stand side by side, so the first position of a
    block of queries sees farthest back, and its last one the least far.

    Args:
        first: [rows, width], of `first_seen`.
        block: positions of a block.
    """
    from torch.nn.attention.flex_attention import BlockMask

    width = first.shape[1]
    blocks = torch.arange(-(-width // block), device=first.device)
    begin, end = blocks * block, (blocks * block + block - 1).clamp(max=width - 1)
    past = blocks[:, None] > blocks
    seen = (past | (blocks[:, None] == blocks)) & (first[:, begin, None] <= end)
    # of the last block of queries a part may lie outside, which the kernel must be told
    whole = past & (first[:, end, None] <= begin) & (begin + block <= width)[:, None]

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (first[row, query] <= key) & (key <= query)

    lists = (*_listed(seen & ~whole), *_listed(whole))
    return BlockMask.from_kv_blocks(*lists, BLOCK_SIZE=block, mask_mod=sees, seq_lengths=(width, width))


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks of keys each block of queries has [rows, 1, blocks], and all of them, those first."""
    order = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1).int()[:, None], order.int()[:, None]


def sequence_ends(segments: Tensor) -> dict[str, Any]:
    """What flash attention is told: ``cu_seq_lens_q`` and ``_k``, ``max_length_q`` and ``_k``.

    The ends [sequences + 1] count over all rows' positions in one run; a row's padding counts as a sequence.

    Args:
        segments: [rows, width], as in `packed_attention`.
    """
    starts = _begins(segments).flatten().nonzero()[:, 0]
    ends = torch.cat([starts, starts.new_full((1,), segments.numel())]).int()
    longest = int(ends.diff().max())
    return {
        "cu_seq_lens_q": ends,
        "cu_seq_lens_k": ends,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def _begins(segments: Tensor) -> Tensor:
    """Where a sequence or a row's padding begins, [rows, width]."""
    return torch.cat([torch.ones_like(segments[:, :1]), segments.diff(dim=1)], 1) != 0
