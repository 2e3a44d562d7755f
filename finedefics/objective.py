"""The objective of every stage: one module, one forward, any mix of labelled, captioned and text rows."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from finedefics.backbones import Backbone, ImageTokens
from finedefics.batch import Batch
from finedefics.contrast import Rows, contrastive_terms, coverage
from finedefics.distributed import largest, total, world_size
from finedefics.errors import FinedeficsError, wrong_use
from finedefics.features import FeatureStore, check_frozen
from finedefics.losses import TEMPERATURE_RANGE, TermLoss
from finedefics.packing import Packed
from finedefics.terms import GENERATION_TERMS, ObjectiveSettings

T = TypeVar("T")


@dataclass(frozen=True)
class ObjectiveOutput:
    """What a step yields.

    Attributes:
        loss: scalar; averaging its parameter gradients over ranks gives the gradient of the global loss.
        terms: every term's value over the global batch, detached, equal on every rank; a generation term for
            which no row of this step had a text is absent.
        left_out: for every contrastive term, how many queries of the global batch have no allowed negative
            and so are left out of its mean (a caption that conflicts with no other, say).
        coverage: for every contrastive term, the share of rows whose nearest category stands among the keys
            (`finedefics.contrast.Rows.coverage`).
    """

    loss: Tensor
    terms: dict[str, Tensor]
    left_out: dict[str, Tensor]
    coverage: dict[str, Tensor]


@dataclass(frozen=True)
class _Division:
    """In how many pieces each pass over a step is made, and whether all activations are kept meanwhile."""

    pictures: int
    sequences: int
    embedded: int
    kept: bool


class Objective(nn.Module):
    """Weighted sum of generation and contrastive terms (Finedefics, ICLR 2025, equations of both stages).

    Args:
        backbone: the multimodal model.
        settings: terms, their weights and feeds, and the temperatures.
        micro_tokens: positions whose activations are held at a time, padding included; a row that alone has
            more is a piece of its own. More negatives or larger pictures make more pieces, not larger ones.
            In the language model a position is a token, in the vision tower a patch, which costs less: a
            picture of more patches goes alone, and is not refused. The contrastive batch stays whole: every
            piece is run forward without keeping activations, and again in the backward pass (GradCache, Gao
            et al. 2021, by way of activation checkpointing), so the gradient is that of the undivided batch.
        checkpointing: within a piece, keep only the inputs of each layer, and run it again in the backward
            pass.
        features: keeps what a frozen tower and connector make of pictures, for batches to come.

    Raises:
        FinedeficsError: features shall be kept of a tower or connector that is trained, or prompts shall be
            learned, and the model cannot predict a picture's token (exit code 2).
    """

    def __init__(
        self,
        backbone: Backbone,
        settings: ObjectiveSettings,
        *,
        micro_tokens: int | None = None,
        checkpointing: bool = False,
        features: FeatureStore | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.settings = settings
        self.micro_tokens = micro_tokens
        self.features = features
        if features is not None:
            check_frozen(backbone)
        backbone.checkpoint_layers(checkpointing)
        # learned in log space, so that a step is relative to the temperature's own size
        start = torch.tensor(
            [settings.object_attribute_temperature, settings.attribute_category_temperature]
        ).log()
        self.log_temperatures = nn.Parameter(start, requires_grad=settings.learnable_temperatures)
        # the parameter in full precision, read where parameters alone were cast to half precision, as
        # DeepSpeed does: there a step is less than the distance of two numbers. Who casts and steps a master
        # copy writes it here.
        self.exact_log_temperatures: Tensor
        self.register_buffer("exact_log_temperatures", start.clone(), persistent=False)
        head = backbone.model.get_output_embeddings()
        if settings.learn_prompt and backbone.image_token_id >= head.out_features:
            raise wrong_use(
                "the model has no output for the token that stands for a picture",
                place="learn_prompt",
                cure="leave it out: the loss is on answers then",
            )

    def temperatures(self) -> dict[str, Tensor]:
        """Both temperatures, for the record: scalars, detached."""
        names = ("object_attribute_temperature", "attribute_category_temperature")
        low, high = TEMPERATURE_RANGE
        values = self._exact().detach().exp().clamp(low, high)
        return dict(zip(names, values, strict=True))

    def forward(self, batch: Batch) -> ObjectiveOutput:
        """Compute every term of the stage on one rank's share of a step."""
        division = self._division(batch)
        images = self._pictures(batch, division)
        terms: dict[str, Tensor] = {}
        losses: list[Tensor] = []
        left_out: dict[str, Tensor] = {}
        covered: dict[str, Tensor] = {}
        read: list[Tensor] = []
        if len(batch.embedded):
            read.append(self._embed(batch.embedded, images, division))
        arriving = None
        if len(batch.feeds) and self.settings.object_readout == "eos":
            # nothing is read in the pass that follows: what was embedded goes to other ranks beside it
            arriving = Rows.gathering(batch, F.normalize(read.pop(), dim=-1))
        if len(batch.sequences):
            share, shown, objects = self._generation(batch, images, division)
            terms |= shown
            losses += [self._weight(name) * value for name, value in share.items()]
            read.append(objects)
        if len(batch.feeds):
            arriving = arriving or Rows.gathering(batch, F.normalize(torch.cat(read), dim=-1))
            rows = arriving()
            contrast = self._contrast(rows, batch.step)
            terms |= {name: term.loss.detach() for name, term in contrast.items()}
            losses += [self._weight(name) * term.loss for name, term in contrast.items()]
            left_out = {name: term.left_out for name, term in contrast.items()}
            covered = coverage(rows, self.settings)
        if not losses:
            raise FinedeficsError(
                "no row has anything that a term of the stage learns",
                place=f"{', '.join(self.settings.terms)}, step {batch.step + 1}",
                cure=f"give rows of {', '.join(sorted(self.settings.feeds(*self.settings.terms)))}, "
                "labelled or described as the terms need it",
            )
        return ObjectiveOutput(torch.stack(losses).sum(), terms, left_out, covered)

    def _weight(self, term: str) -> float:
        return self.settings.terms[term].weight

    def _division(self, batch: Batch) -> _Division:
        """How a step is divided, equally on every rank.

        ZeRO 3 gathers weights in each call, so ranks make as many calls as the one with most pieces.
        """
        if self.micro_tokens is None:
            return _Division(1, 1, 1, kept=True)
        pictures, tower = 1, 0
        if batch.images:
            if self.backbone.trains_tower():  # else it keeps no activations
                tower = self.backbone.patches(batch.images) * len(next(iter(batch.images.values())))
            together = max(1, self.micro_tokens // self.backbone.patches(batch.images))
            pictures = math.ceil(len(next(iter(batch.images.values()))) / together)
        passes = (batch.sequences, batch.embedded)
        pieces = [pictures, *(each.pieces(self.micro_tokens) for each in passes)]
        # passes that fit one by one, but not together, keep no activations for each other's sake
        beyond = tower + sum(each.ids.numel() for each in passes) > self.micro_tokens
        seen, learned, embedded, more = largest([*pieces, int(beyond)], batch.sequences.ids.device)
        return _Division(seen, learned, embedded, kept=not more and seen == learned == embedded == 1)

    def _piecewise(self, function: Callable[..., T], *inputs: Any, kept: bool) -> T:
        """Call a function on a piece; activations that are not kept are computed again where needed."""
        if kept or not torch.is_grad_enabled():
            return function(*inputs)
        # Unchecked: ZeRO 3 empties frozen weights after the forward pass, and torch would compare the shapes
        # before DeepSpeed gathers them again.
        return checkpoint(function, *inputs, use_reentrant=False, determinism_check="none")

    def _pictures(self, batch: Batch, division: _Division) -> ImageTokens:
        made, found = self._encode_images(batch.images, division), batch.recalled
        if found is None:
            return made
        if self.features is not None:
            self.features.add(found.keys, made, found.blocks)
        return found.beside(made)

    def _encode_images(self, images: dict[str, Tensor], division: _Division) -> ImageTokens:
        if not images:
            return ImageTokens([])
        pieces = division.pictures
        count = len(next(iter(images.values())))
        tokens: list[Tensor] = []
        unread: list[Tensor] = []
        for piece in range(pieces):
            first, last = piece * count // pieces, (piece + 1) * count // pieces
            # an empty piece would skip a call that other ranks make: repeat a picture that nobody looks at
            part = {name: tensor[first : max(last, first + 1)] for name, tensor in images.items()}
            lengths: list[int] = []
            seen: list[Any] = []

            def encode(
                part: dict[str, Tensor] = part, lengths: list[int] = lengths, seen: list[Any] = seen
            ) -> Tensor:
                with self.backbone.seeing_once(seen):
                    found = self.backbone.encode_images(part)
                lengths[:] = map(len, found)
                return torch.cat(found)

            found = self._piecewise(encode, kept=division.kept)
            if first < last:
                tokens += found.split(lengths)
            else:
                unread.append(found[:0])
        if unread:  # in the graph, as other ranks run their piece again in the backward pass
            tokens[0] = torch.cat([tokens[0], *unread])
        return ImageTokens(tokens, self.backbone.grids(images))

    def _hidden(self, piece: Packed, images: ImageTokens) -> Tensor:
        used = images.chosen(piece.images.tolist())
        embeddings = self.backbone.embed_tokens(piece.ids, used)
        positions = self.backbone.positions(piece.positions, piece.ids, used)
        return self.backbone.packed_states(embeddings, piece.segments, positions)

    def _generation(
        self, batch: Batch, images: ImageTokens, division: _Division
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """Next-token loss of each generation term: this rank's share, the global mean to show, and the
        hidden states that were to be read on the way, [reads, dim]."""

        def run(piece: Packed, targets: Tensor, terms: Tensor) -> tuple[Tensor, Tensor]:
            hidden = self._hidden(piece, images)
            # the output head runs only where an answer token stands: it is the model's widest layer
            learned = (targets.flatten() != -100).nonzero()[:, 0]  # one wait for the device, not one a choice
            logits = self.backbone.logits(hidden.flatten(0, 1)[learned]).float()
            losses = F.cross_entropy(logits, targets.flatten()[learned], reduction="none")
            sums = losses.new_zeros(len(GENERATION_TERMS)).index_add(0, terms.flatten()[learned], losses)
            return sums, hidden[piece.reads[:, 0], piece.reads[:, 1]].float()

        parts, reads, pieces = [], [], division.sequences
        bounds = batch.sequences.bounds(pieces)
        for (first, last), piece in zip(bounds, batch.sequences.split(pieces), strict=True):
            targets, terms = batch.targets[first:last], batch.target_terms[first:last]
            if first == last:  # a row that only keeps this rank in step with the others
                targets, terms = torch.full_like(piece.ids, -100), torch.zeros_like(piece.ids)
            sums, read = self._piecewise(run, piece, targets, terms, kept=division.kept)
            parts.append(sums)
            reads.append(read)
        own = torch.stack(parts).sum(0)
        learned = batch.targets != -100
        of_term = [(batch.target_terms == i) & learned for i in range(len(GENERATION_TERMS))]
        counts = torch.stack([each.sum() for each in of_term]).to(own.dtype)
        everywhere = total(torch.stack([own.detach(), counts]))
        count = everywhere[1]
        asked = [i for i, name in enumerate(GENERATION_TERMS) if self.settings.feeds(name)]
        everyones = count.tolist()  # one wait for the device, not one a term
        asked = [i for i in asked if everyones[i]]  # few captions: a step without one has no such term
        # ranks hold different numbers of answer tokens; their average must be the global mean
        share = {GENERATION_TERMS[i]: own[i] * world_size() / count[i] for i in asked}
        shown = {GENERATION_TERMS[i]: everywhere[0, i] / count[i] for i in asked}
        return share, shown, torch.cat(reads)[batch.sequences.in_given_order(pieces)]

    def _embed(self, embedded: Packed, images: ImageTokens, division: _Division) -> Tensor:
        """Hidden state at the end of every unique text and object, [embedded, dim]."""

        def ends(piece: Packed) -> Tensor:
            return self._hidden(piece, images)[piece.reads[:, 0], piece.reads[:, 1]].float()

        pieces = embedded.split(division.embedded)
        found = [self._piecewise(ends, piece, kept=division.kept) for piece in pieces]
        return torch.cat(found)[embedded.in_given_order(division.embedded)]

    def _contrast(self, rows: Rows, step: int) -> dict[str, TermLoss]:
        free = self._exact().exp()
        # clamped in value but not in gradient: a learned temperature that left the range must find back
        oa, ac = free + (free.clamp(*TEMPERATURE_RANGE) - free).detach()
        return contrastive_terms(rows, self.settings, oa, ac, step=step)

    def _exact(self) -> Tensor:
        """Logarithms of both temperatures in full precision; the gradient is the parameter's."""
        own, exact = self.log_temperatures, self.exact_log_temperatures
        if own.dtype == exact.dtype:  # not cast apart from it
            return own
        return own.to(exact.dtype) + (exact - own.to(exact.dtype)).detach()
