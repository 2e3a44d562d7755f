"""Bytes that a step's activations take at their peak, found by running it on tensors that hold nothing.

The language model, the connector and the output head are run for real, forward and backward, on fake tensors
(torch's `FakeTensorMode`), while every storage that comes and goes is counted: what a layer keeps for its
backward pass is then what transformers' own code keeps, in any family. Layers of a language model are alike,
so models of one and of two layers tell what one costs. A vision tower is reckoned by formula: it is usually
frozen, and keeps nothing.
"""

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from finedefics.backbones import Backbone
from finedefics.footprint.step import Layout, Step

Build = Callable[[int], Backbone]  # a model on the meta device with so many layers of its language model


@dataclass(frozen=True)
class Activations:
    """Bytes at a step's peak.

    Attributes:
        pictures: the tensors of pictures, what the vision tower holds, and what is kept of it.
        layers: what the language model and the connector keep, of the largest piece.
        logits: what the output head adds.
        pieces: into how many pieces the step is divided.
        held: tokens of the largest piece.
    """

    pictures: int
    layers: int
    logits: int
    pieces: int
    held: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.pictures + self.layers + self.logits


class Probe:
    """A model of which one and two layers of its language model stand as tensors that hold nothing.

    Args:
        build: gives the model with so many layers, on the meta device.
        layers: that the language model has.
        checkpointing: layers keep their inputs alone.
    """

    def __init__(self, build: Build, layers: int, *, checkpointing: bool = False) -> None:
        self._one, self._two = (_Fake(build(count), checkpointing) for count in (1, 2))
        self._layers = layers

    def activations(self, step: Step, micro_tokens: int | None = None) -> Activations:
        """What one rank's share of a step holds at its peak, beside weights and gradients.

        Args:
            micro_tokens: most tokens of a piece; None: the step is one piece.
        """
        pieces = _pieces(step, micro_tokens)
        found = [(self._peak(piece, piece.answers), piece) for piece in pieces]
        whole, largest = max(found, key=lambda each: each[0])
        without = min(self._peak(largest, 0), whole)
        return Activations(
            pictures=_pictures(self._one.backbone, step, pieces),
            layers=without,
            logits=whole - without,
            pieces=_count(step, micro_tokens),
            held=max(piece.tokens for piece in pieces),
        )

    def _peak(self, share: "_Share", answers: int) -> int:
        least, more = self._one.peak(share, answers), self._two.peak(share, answers)
        return least + (self._layers - 1) * (more - least)


@dataclass(frozen=True)
class _Share:
    """What is held at once: pictures before the connector, and rows of both passes."""

    pictures: int
    patches: int
    views: int
    sequences: Layout
    embedded: Layout
    answers: int

    @property
    def tokens(self) -> int:
        return self.sequences[0] * self.sequences[1] + self.embedded[0] * self.embedded[1]


def _pieces(step: Step, micro_tokens: int | None) -> list[_Share]:
    """The largest piece of each kind; the whole step where it is not divided."""
    patches, views = (step.picture.patches, step.picture.views) if step.picture else (0, 1)
    nothing = (0, 0)
    if _count(step, micro_tokens) == 1 or micro_tokens is None:
        return [_Share(step.pictures, patches, views, step.sequences, step.embedded, step.answers)]
    found = []
    for kind, (rows, width) in (("sequences", step.sequences), ("embedded", step.embedded)):
        if rows:
            held = min(rows, max(1, micro_tokens // width))
            # answers are spread over the rows; a piece may have more than its share
            answers = min(step.answers, -(-step.answers * held // rows)) if kind == "sequences" else 0
            shares = {"sequences": nothing, "embedded": nothing, kind: (held, width)}
            found.append(_Share(0, 0, 1, answers=answers, **shares))
    if step.picture and step.pictures:
        seen = min(step.pictures, max(1, micro_tokens // patches))
        found.append(_Share(seen, patches, views, nothing, nothing, 0))
    return found


def _count(step: Step, micro_tokens: int | None) -> int:
    """How many pieces there are; a step that the budget holds is not divided."""
    if micro_tokens is None or step.forwarded <= micro_tokens:
        return 1
    return sum(
        -(-rows // max(1, micro_tokens // width)) for rows, width in (step.sequences, step.embedded) if rows
    )


class _Fake:
    """A model of fake tensors, whose passes are run to see what they hold."""

    def __init__(self, backbone: Backbone, checkpointing: bool) -> None:
        from torch._subclasses.fake_tensor import FakeTensorMode

        self.backbone = backbone
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        if checkpointing:
            # random states are of real devices
            options = {"use_reentrant": False, "preserve_rng_state": False}
            backbone.model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
        backbone.train()
        with self.mode:
            backbone.model.to_empty(device="cpu")
            for parameter in backbone.parameters():
                if parameter.requires_grad:  # counted apart from activations
                    parameter.grad = torch.empty_like(parameter)

    def peak(self, share: _Share, answers: int) -> int:
        """Most bytes held at any time of a forward and backward pass."""
        with self.mode, _Counted(self._own()) as held:
            results: list[Tensor] = []
            if share.pictures:
                seen = self._connected(share)
                if not share.tokens:
                    results.append(seen)
            if share.sequences[0]:
                hidden = self._read(share.sequences).flatten(0, 1)
                results.append(hidden)
                if answers:
                    logits = self.backbone.logits(hidden[:answers]).float()
                    targets = torch.zeros(len(logits), dtype=torch.long)
                    results.append(F.cross_entropy(logits, targets, reduction="none"))
            if share.embedded[0]:
                results.append(self._read(share.embedded))
            learned = [result.float().sum() for result in results if result.requires_grad]
            if learned:
                torch.stack(learned).sum().backward()
        return held.most

    def _own(self) -> list[Tensor]:
        """Weights, buffers and gradients."""
        weights = list(self.backbone.parameters())
        return [*weights, *self.backbone.buffers(), *(p.grad for p in weights if p.grad is not None)]

    def _read(self, layout: Layout) -> Tensor:
        """Hidden states of packed rows, their mask dense."""
        rows, width = layout
        ids = torch.zeros(rows, width, dtype=torch.long)
        places = ids == 1
        embeddings = self.backbone.model.get_input_embeddings()(ids)
        if not embeddings.requires_grad:
            embeddings.requires_grad_()  # as the tokens of pictures in it ask for a gradient
        positions = self.backbone.family.positions(ids, places)
        mask = torch.zeros(rows, 1, width, width, dtype=embeddings.dtype)
        return self.backbone.hidden_states(embeddings, mask, position_ids=positions)

    def _connected(self, share: _Share) -> Tensor:
        """What the connector makes of the tower's patches; one row a view."""
        hidden = _vision(self.backbone).hidden_size
        count, each = share.pictures * share.views, share.patches // share.views
        patches = torch.zeros(count, each, hidden, dtype=self.backbone.dtype)
        connector = self.backbone.part("connector")
        if "attention_mask" not in signature(connector.forward).parameters:
            return connector(patches)
        return connector(patches, attention_mask=torch.ones(count, each, dtype=torch.bool))


class _Counted(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, as long as they live; those given are there."""

    def __init__(self, there: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: Any = WeakIdKeyDictionary({tensor.untyped_storage(): None for tensor in there})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: Any) -> None:
        if storage not in self._known:
            size = storage.nbytes()
            self._known[storage] = weakref.finalize(storage, self._freed, size)
            self.now += size
            self.most = max(self.most, self.now)

    def _freed(self, size: int) -> None:
        self.now -= size


def _vision(backbone: Backbone) -> Any:
    return backbone.model.config.vision_config


def _pictures(backbone: Backbone, step: Step, pieces: list[_Share]) -> int:
    """Tensors of pictures, the tower's own and its output, in bytes."""
    if not step.picture or not step.pictures:
        return 0
    vision, number = _vision(backbone), torch.empty((), dtype=backbone.dtype).itemsize
    at_once = max(piece.pictures for piece in pieces)
    width, inner = vision.hidden_size, vision.intermediate_size
    gated = "SwiGLU" in str(getattr(vision, "hidden_act", "")) or getattr(vision, "hidden_act", "") == "silu"
    layers = getattr(vision, "num_hidden_layers", None) or vision.depth
    # at its widest a layer holds its input, the normed input and its inner states, or queries, keys, values
    working = max(2 * width + (3 if gated else 2) * inner, 7 * width)
    tower = list(backbone.part("vision").parameters())
    inside = {id(p) for p in backbone.part("connector").parameters()}
    kept = 8 * width + (3 if gated else 2) * inner  # of a layer, for its backward pass
    trained = any(p.requires_grad for p in tower if id(p) not in inside)
    held = working + (layers * kept if trained else 0)
    patches = step.picture.patches
    mask = (patches // step.picture.views) * patches if backbone.model.config.model_type == "idefics2" else 0
    hidden = backbone.model.config.get_text_config().hidden_size
    whole = step.pictures * (
        step.picture.values * (4 + number)  # as the processor gives them, and in the model's dtype
        + patches * width * number  # the tower's output, for the connector's backward pass
        + 2 * step.picture.tokens * hidden * number  # the tokens, and their gradient
    )
    return whole + at_once * (patches * held + mask) * number
