"""The language model's three uses in answering: embed a sequence, score completions, write on.

None of them depends on what else is in the batch: padding is masked and does not count in positions.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from finedefics.backbones import Backbone, ImageTokens
from finedefics.conversation import Renderer, pad_right
from finedefics.errors import FinedeficsError
from finedefics.placing import MICRO_TOKENS

# what to do about a model that gives no numbers
UNUSABLE = "use weights from before training diverged, in bfloat16 or float32 rather than float16"


class NotANumber(ArithmeticError):
    """The model's logits are NaN; ``row`` is the position of the sequence."""

    def __init__(self, row: int) -> None:
        self.row = row
        super().__init__(f"the logits of sequence {row} are not numbers")


class Language:
    """A backbone's language model with the tokenizer it speaks through.

    Args:
        micro_tokens: most tokens that go through the model together, padding and what they continue included;
            default: `MICRO_TOKENS`. One sequence that has more goes alone. It decides memory and speed only.
    """

    def __init__(self, backbone: Backbone, render: Renderer, micro_tokens: int | None = None) -> None:
        self.backbone, self.render = backbone, render
        self.micro_tokens = micro_tokens or MICRO_TOKENS
        config = getattr(backbone.model, "generation_config", None)
        ends = getattr(config, "eos_token_id", None)
        # chat models end their turn with a token of their own, beside the end of sequence
        self.ends = {
            render.eos,
            render.end[-1],
            *(ends if isinstance(ends, list) else [ends] if ends is not None else []),
        }

    def embed(self, sequences: Sequence[Sequence[int]], image_tokens: ImageTokens | None = None) -> Tensor:
        """Normalised final hidden state at the last token of each sequence, [sequences, dim]."""
        parts = self._together([len(sequence) for sequence in sequences])
        return torch.cat([self._embed(sequences[part], _of(image_tokens, part)) for part in parts])

    def _embed(self, sequences: Sequence[Sequence[int]], image_tokens: ImageTokens | None) -> Tensor:
        device = self.backbone.device
        ids = torch.tensor(pad_right(sequences, self.render.pad), device=device)
        mask = torch.tensor(pad_right([[1] * len(s) for s in sequences], 0), device=device)
        places = torch.arange(ids.shape[1], device=device).expand_as(ids)
        with self.backbone.padded():
            hidden = self.backbone.hidden_states(
                self.backbone.embed_tokens(ids, image_tokens),
                mask,
                position_ids=self.backbone.positions(places, ids, image_tokens),
            )
        rows = torch.arange(len(ids), device=device)
        return F.normalize(hidden[rows, mask.sum(1) - 1].float(), dim=-1)

    def completion_scores(
        self,
        prefixes: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        image_tokens: ImageTokens | None = None,
        names: Sequence[str] | None = None,
    ) -> Tensor:
        """Log-likelihood [prefixes, completions] of each completion after each prefix.

        A prefix runs once; its key-value cache serves all completions.

        Args:
            prefixes, completions: token ids.
            image_tokens: the pictures in the prefixes, one each.
            names: what an error calls each completion; its number by default.

        Raises:
            FinedeficsError: a completion after a prefix is longer than the model's context.
        """
        self._check_length(prefixes, completions, names)
        longest = max(map(len, completions))
        parts = self._together([len(prefix) + longest for prefix in prefixes])
        scores = [self._scores(prefixes[part], completions, _of(image_tokens, part)) for part in parts]
        return torch.cat(scores)

    def _scores(
        self,
        prefixes: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        image_tokens: ImageTokens | None,
    ) -> Tensor:
        embeddings, mask, positions = self._left_padded(prefixes, image_tokens)
        out = self._run(embeddings, mask, positions)
        first = self.backbone.logits(out.last_hidden_state[:, -1:])
        if max(map(len, completions)) == 1:  # nothing follows the first token: one pass is enough
            wanted = torch.tensor([tokens[0] for tokens in completions], device=mask.device)
            return first[:, 0].float().log_softmax(-1)[:, wanted]
        # each completion's row holds a copy of its prefix's cache
        step = max(1, self.micro_tokens // (mask.numel() + len(prefixes) * max(map(len, completions))))
        parts = []
        for start in range(0, len(completions), step):
            last = start + step >= len(completions)
            cache = out.past_key_values if last else copy.deepcopy(out.past_key_values)
            parts.append(
                self._complete(first, cache, mask, _next(positions), completions[start : start + step])
            )
        return torch.cat(parts, 1)

    def _complete(
        self,
        first: Tensor,
        cache: Any,
        mask: Tensor,
        following: Tensor,
        completions: Sequence[Sequence[int]],
    ) -> Tensor:
        count, width = len(completions), max(map(len, completions))
        ids = torch.tensor(pad_right(completions, self.render.pad), device=mask.device)
        lengths = torch.tensor([len(tokens) for tokens in completions], device=mask.device)
        places = torch.arange(width, device=mask.device)
        real = (places < lengths[:, None]).repeat(len(mask), 1)
        cache.batch_repeat_interleave(count)
        tiled = ids.repeat(len(mask), 1)
        hidden = self._run(
            self.backbone.embed_tokens(tiled),
            torch.cat([mask.repeat_interleave(count, 0), real.long()], 1),
            following.repeat_interleave(count, 0) + places,
            cache,
        ).last_hidden_state
        before = first.repeat_interleave(count, 0)
        logits = torch.cat([before, self.backbone.logits(hidden[:, :-1])], 1).float()
        chosen = logits.log_softmax(-1).gather(-1, tiled[..., None])[..., 0]
        # not times 0: a model may give its padding token no likelihood at all, and -inf times 0 is NaN
        return chosen.masked_fill(~real, 0.0).sum(1).unflatten(0, (len(mask), count))

    def write(
        self,
        prefixes: Sequence[Sequence[int]],
        image_tokens: ImageTokens | None = None,
        *,
        limit: int,
        sources: Sequence[np.random.Generator] | None = None,
    ) -> tuple[list[str], int]:
        """Continue each prefix by at most ``limit`` tokens: the texts, and the tokens generated.

        A text ends where the model's context does. The last token of a text is generated, never forwarded.

        Args:
            prefixes: token ids.
            image_tokens: the pictures in the prefixes, one each.
            limit: tokens of a text.
            sources: of chance, one a prefix, to draw tokens as likely as the model thinks them; without, the
                likeliest one is taken.

        Raises:
            FinedeficsError: a prefix leaves no room in the model's context.
            NotANumber: the logits after a prefix are NaN.
        """
        rooms = self._rooms(prefixes, limit)
        texts: list[str] = []
        generated = 0
        for part in self._together([len(p) + room for p, room in zip(prefixes, rooms, strict=True)]):
            drawn = None if sources is None else sources[part]
            try:
                found, count = self._write(prefixes[part], _of(image_tokens, part), rooms[part], drawn)
            except NotANumber as error:
                raise NotANumber(part.start + error.row) from error
            texts += found
            generated += count
        return texts, generated

    def _write(
        self,
        prefixes: Sequence[Sequence[int]],
        image_tokens: ImageTokens | None,
        rooms: Sequence[int],
        sources: Sequence[np.random.Generator] | None,
    ) -> tuple[list[str], int]:
        embeddings, mask, positions = self._left_padded(prefixes, image_tokens)
        written: list[list[int]] = [[] for _ in prefixes]
        alive = [True] * len(prefixes)
        cache, generated = None, 0
        for _ in range(max(rooms)):
            out = self._run(embeddings, mask, positions, cache)
            cache = out.past_key_values
            logits = self.backbone.logits(out.last_hidden_state[:, -1])
            token = logits.argmax(-1) if sources is None else _drawn(logits, sources)
            generated += sum(alive)
            found = torch.stack([token, logits.isnan().any(-1).long()], 1).tolist()
            for row, (chosen, unknown) in enumerate(found):
                if alive[row] and unknown:  # argmax would choose the NaN
                    raise NotANumber(row)
                alive[row] = alive[row] and chosen not in self.ends
                if alive[row]:
                    written[row].append(chosen)
                    alive[row] = len(written[row]) < rooms[row]
            if not any(alive):
                break
            embeddings = self.backbone.embed_tokens(token[:, None])
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            # a row that has ended stays where it is: none runs past the context while others go on
            positions = _next(positions) - 1 + torch.tensor(alive, device=mask.device)[:, None].long()
        decode = self.render.tokenizer.decode
        return [decode(tokens, skip_special_tokens=True) for tokens in written], generated

    def _together(self, lengths: Sequence[int]) -> Iterator[slice]:
        """Runs of sequences, as long as they are padded to the longest and within `micro_tokens`."""
        start = widest = 0
        for end, length in enumerate(lengths):
            widest = max(widest, length)
            if end > start and widest * (end + 1 - start) > self.micro_tokens:
                yield slice(start, end)
                start, widest = end, length
        if lengths:
            yield slice(start, len(lengths))

    def _check_length(
        self,
        prefixes: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        names: Sequence[str] | None,
    ) -> None:
        context, prefix = self.backbone.context, max(map(len, prefixes))
        longest = max(range(len(completions)), key=lambda i: len(completions[i]))
        length = len(completions[longest])
        # a single token is read off the prefix's last position, and `Backbone.positions` checks the prefix
        if context and length > 1 and prefix + length > context:
            called = repr(names[longest]) if names else f"answer {longest}"
            raise FinedeficsError(
                f"{called} has {length} tokens and what it follows {prefix}, "
                f"together more than the model's context of {context}",
                place=self.backbone.model.config.model_type,
                cure="shorten the name, the question or the description, or show smaller pictures",
            )

    def _rooms(self, prefixes: Sequence[Sequence[int]], limit: int) -> list[int]:
        """How many tokens each prefix leaves to write."""
        context = self.backbone.context
        if not context:
            return [limit] * len(prefixes)
        longest = max(range(len(prefixes)), key=lambda row: len(prefixes[row]))
        if len(prefixes[longest]) >= context:
            raise FinedeficsError(
                f"a prompt of {len(prefixes[longest])} tokens leaves no room for an answer in the model's "
                f"context of {context}",
                place=f"picture {longest}",
                cure="shorten the question or the names it lists, or show smaller pictures",
            )
        return [min(limit, context - len(prefix)) for prefix in prefixes]

    def _run(self, embeddings: Tensor, mask: Tensor, positions: Tensor, cache: Any = None) -> Any:
        with self.backbone.padded():
            return self.backbone.language_model(
                embeddings, mask, position_ids=positions, past_key_values=cache, use_cache=True
            )

    def _left_padded(
        self, sequences: Sequence[Sequence[int]], image_tokens: ImageTokens | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Input embeddings, mask and positions with padding in front, as continuing a sequence needs it."""
        width, device = max(map(len, sequences)), self.backbone.device
        rows = [[self.render.pad] * (width - len(s)) + list(s) for s in sequences]
        ids = torch.tensor(rows, device=device)
        mask = torch.tensor([[0] * (width - len(s)) + [1] * len(s) for s in sequences], device=device)
        places = (mask.cumsum(1) - 1).clamp(min=0)
        embeddings = self.backbone.embed_tokens(ids, image_tokens)
        return embeddings, mask, self.backbone.positions(places, ids, image_tokens)


def _drawn(logits: Tensor, sources: Sequence[np.random.Generator]) -> Tensor:
    """A token of each row [rows, vocabulary] by its probability; one number of each source decides."""
    below = logits.double().softmax(-1).cumsum(-1)
    chance = torch.tensor([[source.random()] for source in sources], device=logits.device)
    return torch.searchsorted(below, chance * below[:, -1:], right=True)[:, 0].clamp(max=below.shape[1] - 1)


def _of(image_tokens: ImageTokens | None, part: slice) -> ImageTokens | None:
    """The pictures of a run of sequences."""
    return image_tokens and image_tokens.chosen(range(part.start, part.stop))


def _next(positions: Tensor) -> Tensor:
    """Position [rows, 1] of a text token after positions [rows, width] or [axes, rows, width]."""
    last = positions if positions.dim() == 2 else positions.amax(0)
    return last[:, -1:] + 1
