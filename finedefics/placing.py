"""Where a model stands that is asked: on one device, or its layers over several where one cannot hold it.

Whoever asks a model (evaluation, prediction, serving, labellers, embedders, describers) loads it here, in the
dtype that it is stored in, on the cards that its process has. What does not fit is refused before a weight is
read, by the parameters of its configuration.

Layers are spread by accelerate's device map, in one process: every family has its layers one after the other,
and nothing else of them need be known. Tensor parallelism would want a process a card, and plans for the
vision towers that transformers does not have. A map computes on one card at a time.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from finedefics.backbones import Backbone, load_backbone, stored_dtype
from finedefics.backbones.precision import check_dtype
from finedefics.errors import FinedeficsError

# Tokens whose keys and values are held at a time: in bfloat16 about 8 GiB for Idefics2-8B (32 layers of 8
# heads of 128 make 128 KiB a token) and 3.5 GiB for Qwen2.5-VL-7B, on a card beside 16 GB of weights; and, at
# a hundred tokens a picture, some six hundred names in one pass.
MICRO_TOKENS = 65_536
LEAST = 1_024  # tokens at a time, below which nothing is gained
GIB = 2**30
CARDS_OWN = 2 * GIB  # CUDA's context, logits of names, and what the allocator cannot use
_MOST = 16  # cards of one process: no machine has more


@dataclass(frozen=True)
class Needs:
    """What a model takes while it is asked; nothing of it is loaded.

    Attributes:
        name: of the model, for whoever reads an error.
        model: it, on the meta device.
        dtype: of weights and activations.
        parameters, weights: how many, and their bytes.
        cache: bytes of a token's keys and values in all layers.
        working: bytes of a token in one layer of the language model at its widest.
        whole: classes of modules that stand on one card.
    """

    name: str
    model: Any
    dtype: str
    parameters: int
    weights: int
    cache: int
    working: int
    whole: tuple[str, ...]

    def beside(self, tokens: int, cards: int = 1) -> int:
        """Bytes of one of the cards beside weights while so many tokens go through together."""
        return CARDS_OWN + tokens * (-(-self.cache // cards) + self.working)


class Placed(NamedTuple):
    """A model that is loaded, and how many tokens can go through it together there."""

    backbone: Backbone
    micro_tokens: int


class Plan(NamedTuple):
    """Where a model goes: the card of each module, None where one device holds all; tokens at a time."""

    cards: dict[str, int] | None
    micro_tokens: int


def load_placed(
    path: str | Path, device: str, dtype: str | None = None, *, micro_tokens: int | None = None
) -> Placed:
    """A model to be asked: nothing of it is trained, and it stands where it is asked.

    Args:
        path: a folder or a hub name.
        device: ``cpu``, or ``cuda``: the first card that this process sees, or as many as hold the model.
        dtype: of weights and activations; default: what the model was trained and is stored in.
        micro_tokens: most tokens that go through it together; default: `MICRO_TOKENS`, or what there is
            room for.

    Raises:
        FinedeficsError: as `load_backbone`, the device does not compute in the dtype, or the model does not
            fit: with the arithmetic, and what to change.
    """
    wanted = dtype or stored_dtype(path)
    check_dtype(wanted, device)
    plan = planned(needs_of(path, wanted), device, memory_of(device), micro_tokens)
    if plan.cards is None:
        backbone = load_backbone(path, dtype=wanted, train=()).to(device)
    else:
        backbone = load_backbone(path, dtype=wanted, train=(), device_map=plan.cards)
        answer_where_asked(backbone)
    return Placed(backbone, plan.micro_tokens)


def memory_of(device: str) -> list[int]:
    """Bytes that are free on each card of this process; of a CPU what the machine has, or the container."""
    if not device.startswith("cuda"):
        import psutil

        limit = Path("/sys/fs/cgroup/memory.max")
        allowed = limit.read_text().strip() if limit.is_file() else "max"
        total = int(psutil.virtual_memory().total)
        return [min(total, int(allowed)) if allowed.isdigit() else total]
    torch.cuda.empty_cache()  # of a model that this process had before
    chosen = torch.device(device).index
    cards = range(torch.cuda.device_count()) if chosen is None else [chosen]
    return [torch.cuda.mem_get_info(card)[0] for card in cards]


def needs_of(path: str | Path, dtype: str) -> Needs:
    """What the model of a folder or hub name takes, of its configuration alone.

    Raises:
        FinedeficsError: there is no model, or one of an unknown family.
    """
    from finedefics.backbones.loading import known_config
    from finedefics.footprint import empty_backbone, part_sizes

    config = known_config(path)
    backbone = empty_backbone(config, dtype=dtype, train=())
    backbone.model.tie_weights()  # else what is one weight counts twice
    sizes, text, number = part_sizes(backbone), config.get_text_config(), backbone.dtype.itemsize
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    kept = 2 * text.num_hidden_layers * (text.num_key_value_heads or text.num_attention_heads) * head
    # a layer's input, the normed one, queries, keys, values and what they give; the gated inner states
    widest = 6 * text.hidden_size + 3 * text.intermediate_size
    towers = (type(backbone.part(part)).__name__ for part in ("vision", "connector"))
    return Needs(
        name=Path(path).name or str(path),
        model=backbone.model,
        dtype=dtype,
        parameters=sum(part.parameters for part in sizes),
        weights=sum(part.bytes for part in sizes),
        cache=kept * number,
        working=widest * number,
        whole=(*(backbone.model._no_split_modules or ()), *towers),
    )


def planned(needs: Needs, device: str, memory: Sequence[int], micro_tokens: int | None = None) -> Plan:
    """Where a model goes: on as few of the cards as hold it.

    Args:
        device: ``cpu`` or ``cuda``.
        memory: bytes of each card, in their order; of a CPU one number.
        micro_tokens: tokens at a time that have to fit; None: `MICRO_TOKENS`, or as many as do.

    Raises:
        FinedeficsError: no number of the cards holds it.
    """
    if not device.startswith("cuda"):
        if needs.weights > memory[0]:
            raise _refused(needs, device, memory, LEAST)
        return Plan(None, micro_tokens or MICRO_TOKENS)
    for tokens in _budgets(micro_tokens):
        for count in range(1, len(memory) + 1):
            found = spread(needs, memory[:count], tokens)
            if found is not None:
                return Plan(found if count > 1 else None, tokens)
    raise _refused(needs, device, memory, micro_tokens or LEAST)


def spread(needs: Needs, memory: Sequence[int], tokens: int) -> dict[str, int] | None:
    """The card of each module, equal shares of the layers on each; None where they do not fit.

    Args:
        memory: bytes of each card.
        tokens: that go through together.
    """
    room = [free - needs.beside(tokens, len(memory)) for free in memory]
    if needs.weights > sum(room) or min(room) <= 0:
        return None
    if len(memory) == 1:
        return {"": 0}
    from accelerate import infer_auto_device_map

    # no card is filled before the next: each has its share, and what cannot be divided
    share = needs.weights // len(memory) + 2 * _largest(needs)
    told = logging.getLogger("accelerate.utils.modeling")
    level = told.level
    told.setLevel(logging.ERROR)  # it warns of cards that are not there, and some are only reckoned with
    try:
        found = infer_auto_device_map(
            needs.model,
            max_memory={card: min(each, share) for card, each in enumerate(room)},
            no_split_module_classes=list(needs.whole),
            dtype=getattr(torch, needs.dtype),
        )
    finally:
        told.setLevel(level)
    return None if set(found.values()) & {"cpu", "disk"} else {name: int(at) for name, at in found.items()}


def answer_where_asked(backbone: Backbone) -> None:
    """Let each part of a spread model give its results on the device of what it was given.

    accelerate does so for the model as a whole, and a `Backbone` calls its parts.
    """
    from accelerate.utils import find_device, send_to_device

    def back(_: Any, inputs: Any, named: Mapping[str, Any], output: Any) -> Any:
        asked = find_device([inputs, dict(named)])
        return output if asked is None else send_to_device(output, asked, skip_keys="past_key_values")

    model = backbone.model
    parts: Iterable[nn.Module] = (
        *(backbone.part(name) for name in ("vision", "connector", "text")),
        model.get_input_embeddings(),
        model.get_output_embeddings(),
    )
    for part in parts:
        part.register_forward_hook(back, with_kwargs=True)


def _budgets(micro_tokens: int | None) -> list[int]:
    """Tokens at a time, the most first."""
    if micro_tokens is not None:
        return [micro_tokens]
    halved = [MICRO_TOKENS >> times for times in range(MICRO_TOKENS.bit_length())]
    return [tokens for tokens in halved if tokens >= LEAST]


def _largest(needs: Needs) -> int:
    """Bytes of the largest module that stands on one card."""
    single = [module for module in needs.model.modules() if type(module).__name__ in needs.whole]
    single += [needs.model.get_input_embeddings(), needs.model.get_output_embeddings()]
    return max(sum(parameter.nbytes for parameter in module.parameters()) for module in single)


def _refused(needs: Needs, device: str, memory: Sequence[int], tokens: int) -> FinedeficsError:
    """The error of a model that does not fit, with what would."""
    each = needs.weights // max(1, needs.parameters)
    takes = f"{needs.parameters / 1e9:.3g}e9 parameters x {each} bytes = {needs.weights / GIB:.1f} GiB"
    if not device.startswith("cuda"):
        return FinedeficsError(
            f"{takes} of a machine that has {memory[0] / GIB:.1f}",
            place=needs.name,
            cure=" or ".join([*_halved(needs), "take a machine with more memory"]),
        )
    beside = f"{needs.beside(tokens) / GIB:.1f} beside them for {tokens} tokens at a time"
    free = " + ".join(f"{each / GIB:.1f}" for each in memory)
    changes = _halved(needs)
    fewer = (each for each in _budgets(None) if each < tokens)
    if lower := next((each for each in fewer if spread(needs, memory, each) is not None), None):
        changes.append(f"lower evaluation.micro_tokens (--micro-tokens) to {lower}")
    more = range(len(memory) + 1, _MOST + 1)
    alike = max(memory)
    if cards := next((n for n in more if spread(needs, [alike] * n, tokens) is not None), None):
        changes.append(f"give each process {cards} such cards (--gpus-per-worker {cards})")
    else:
        changes.append(f"take larger cards: {_MOST} such do not hold it")
    return FinedeficsError(
        f"{takes}, and {beside}, of {len(memory)} GPU with {free} GiB free",
        place=needs.name,
        cure=", or ".join(changes),
    )


def _halved(needs: Needs) -> list[str]:
    halves = needs.dtype == "float32"
    return ["ask it in bfloat16 (evaluation.dtype, --dtype)"] if halves else []
