"""The multimodal language model behind a small, uniform surface.

Everything else in the package speaks to a `Backbone`: picture tokens in, hidden states out. What differs
between families is in `finedefics.backbones.family` and one small module a family.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finedefics.backbones.attention import packed_attention
from finedefics.backbones.family import FAMILIES, Grid, ImageTokens
from finedefics.errors import FinedeficsError, wrong_use

PARTS = ("vision", "connector", "text")


class Backbone(nn.Module):
    """A Hugging Face image-text-to-text model with its processor.

    Args:
        model: any model whose ``config.model_type`` is in `FAMILIES`.
        processor: the model's processor.
        train: the parts whose weights are tuned; the others are frozen.
        attention: the kernel by which packed rows attend (`finedefics.backbones.attention.KERNELS`); default:
            transformers' choice, sdpa wherever the language model takes it.

    Raises:
        FinedeficsError: the family is unknown or a part is missing.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        train: Iterable[str] = ("text", "connector"),
        attention: str | None = None,
    ) -> None:
        super().__init__()
        self.model: Any = model
        self.processor = processor
        config: Any = model.config
        if config.model_type not in FAMILIES:
            raise wrong_use(
                "unknown model family",
                place=config.model_type,
                cure=f"use one of {', '.join(FAMILIES)}, or add a module to finedefics/backbones/",
            )
        self.family = FAMILIES[config.model_type]
        self.image_token_id = int(config.image_token_id)
        self.family.prepare(model)
        self.train_parts(train)
        # read at every pass, and never saved: transformers leaves it out of config.json
        self._text_config = config.get_text_config()
        self._own_attention = self._text_config._attn_implementation
        self._text_config._attn_implementation = attention or self._own_attention
        self.compiled = False  # see `finedefics.backbones.compiling`

    def train_parts(self, parts: Iterable[str]) -> None:
        """Let gradients reach only the named parts (`PARTS`); the output head goes with the text model."""
        wanted = set(parts)
        self.model.requires_grad_(False)
        for name in PARTS:  # in this order: a connector may stand inside the vision tower
            self.part(name).requires_grad_(name in wanted)
        for name in self.family.beside_connector:
            self.model.get_parameter(name).requires_grad_("connector" in wanted)
        self.model.get_output_embeddings().requires_grad_("text" in wanted)

    def part(self, name: str) -> Any:
        """One of `PARTS`; FinedeficsError when the model lacks it."""
        try:
            return self.model.get_submodule(getattr(self.family, name))
        except AttributeError as error:
            raise FinedeficsError(
                f"the model has no {name} part",
                place=type(self.model).__name__,
                cure="use a multimodal checkpoint",
            ) from error

    @property
    def device(self) -> torch.device:
        """Where inputs go: to the table of input embeddings, wherever the layers stand."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights compute in; of weights in four bits, what they are multiplied in."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def context(self) -> int | None:
        """Tokens a sequence may have; None where the configuration does not say."""
        context: int | None = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return context

    def encode_images(self, images: Mapping[str, Tensor]) -> ImageTokens:
        """Language-model tokens of each picture, after the connector: a list of [tokens, hidden].

        Args:
            images: what `finedefics.pictures.ImageEncoder` gave, one picture a row.
        """
        return ImageTokens(self.family.encode(self.model, images), self.grids(images))

    @contextmanager
    def seeing_once(self, seen: list[Any]) -> Iterator[None]:
        """Within it, what a frozen vision tower made of its pictures is kept in ``seen`` and found there.

        For a pass that is run again in the backward pass: what is frozen would give the same again. A tower
        that hands on all its layers' states is run again all the same, as keeping them would cost more.
        """
        tower = self.part("vision")
        if self.trains_tower():
            yield
            return
        run, own = tower.forward, "forward" in vars(tower)

        def remembered(*inputs: Any, **options: Any) -> Any:
            if seen:
                return seen[0]
            with torch.no_grad():
                made = run(*inputs, **options)
            if getattr(made, "hidden_states", None) is None:
                seen.append(made)
            return made

        tower.forward = remembered
        try:
            yield
        finally:
            if own:
                tower.forward = run
            else:
                del tower.forward

    def trains_tower(self) -> bool:
        """Whether some weight of the vision tower, or of a connector that stands inside it, is trained."""
        return any(parameter.requires_grad for parameter in self.part("vision").parameters())

    def grids(self, images: Mapping[str, Tensor]) -> list[Grid] | None:
        """Rows and columns of each picture's tokens, None where the family counts positions on one axis."""
        return self.family.grids(self.model, images)

    def patches(self, images: Mapping[str, Tensor]) -> int:
        """Patches that the vision tower sees of each picture, padding included."""
        return self.family.patches(self.model, images)

    def checkpoint_layers(self, on: bool) -> None:
        """In training, keep only the inputs of each layer of the parts that are trained through; or keep all.

        The language model always, as gradients pass it to whatever is trained before it; the vision tower
        where some of its own weights are. Evaluation is not touched: layers look at their training mode.
        """
        # unchecked: ZeRO 3 empties frozen weights after the forward pass, and torch would compare the shapes
        kwargs = {"use_reentrant": False, "determinism_check": "none"}
        for name in ("text", "vision"):
            part = self.part(name)
            if on and (name == "text" or self.trains_tower()):
                part.activation_checkpointing_enable(kwargs)
                part.disable_input_require_grads()  # hooks that only reentrant checkpoints need
            elif part.is_activation_checkpointing:
                part.activation_checkpointing_disable()

    def embed_tokens(self, input_ids: Tensor, image_tokens: Sequence[Tensor] | None = None) -> Tensor:
        """Input embeddings [batch, length, hidden]; picture tokens fill the image places, in order.

        Raises:
            ValueError: the number of places and of picture tokens differ.
        """
        embed = self.model.get_input_embeddings()
        if not image_tokens:
            return embed(input_ids)
        features = torch.cat(list(image_tokens))
        places = input_ids == self.image_token_id
        if int(places.sum()) != len(features):
            raise ValueError(f"{int(places.sum())} image places but {len(features)} image tokens")
        # the image token of some families has an id beyond the table
        embeddings = embed(input_ids.masked_fill(places, 0))
        return embeddings.masked_scatter(places[..., None], features.to(embeddings.dtype))

    def positions(
        self, positions: Tensor, input_ids: Tensor, image_tokens: Sequence[Tensor] | None = None
    ) -> Tensor:
        """``position_ids`` as the family's language model counts them.

        Args:
            positions: [rows, width], from 0 within each sequence.
            input_ids: [rows, width].
            image_tokens: the pictures in the rows, as `encode_images` gave them.

        Raises:
            FinedeficsError: a sequence is longer than the model's context.
        """
        context = self.context
        # a packed row may be wider than any sequence in it, so only then the positions are looked at
        if context and positions.shape[1] > context and (longest := int(positions.max()) + 1) > context:
            row, end = divmod(int(positions.argmax()), positions.shape[1])
            start = input_ids[row, end + 1 - longest : end + 1].tolist()
            text = self.processor.tokenizer.decode([t for t in start if t != self.image_token_id][:24])
            raise FinedeficsError(
                f"a sequence of {longest} tokens does not fit the model's context of {context}",
                place=f"{self.model.config.model_type}, {text!r} …",
                cure="shorten the descriptions or the question, or show smaller pictures",
            )
        return self.family.positions(positions, input_ids == self.image_token_id, image_tokens)

    def hidden_states(self, embeddings: Tensor, attention_mask: Any, **options: Any) -> Tensor:
        """Final hidden states [batch, length, hidden] of the language model."""
        return self.language_model(embeddings, attention_mask, use_cache=False, **options).last_hidden_state

    def packed_states(self, embeddings: Tensor, segments: Tensor, positions: Tensor) -> Tensor:
        """Final hidden states [rows, width, hidden] of sequences side by side, each blind to its neighbours.

        Args:
            embeddings: [rows, width, hidden].
            segments: [rows, width] number of the sequence at every position, 0 where there is padding.
            positions: as `positions` gave them.
        """
        attention = packed_attention(self._text_config, segments, embeddings.dtype)
        return self.hidden_states(embeddings, **attention, position_ids=positions)

    @contextmanager
    def padded(self) -> Iterator[None]:
        """Within it the language model attends as transformers would, whatever packed rows attend by.

        For padded rows and caches, where kernels of packed rows gain nothing, and without gradient: a layer
        that is run again in the backward pass would be run by the other kernel. Nothing compiled runs there.
        """
        config, packed = self._text_config, self._text_config._attn_implementation
        config._attn_implementation = self._own_attention
        try:
            with torch.compiler.set_stance("force_eager") if self.compiled else nullcontext():
                yield
        finally:
            config._attn_implementation = packed

    def language_model(self, embeddings: Tensor, attention_mask: Any, **options: Any) -> Any:
        """The language model's raw output, caches included (``use_cache``, ``past_key_values``)."""
        return self.part("text")(inputs_embeds=embeddings, attention_mask=attention_mask, **options)

    def logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary logits [..., vocabulary] of hidden states [..., hidden]."""
        logits = self.model.get_output_embeddings()(hidden)
        # Gemma 2, within PaliGemma 2, bounds its logits smoothly
        cap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        return logits if cap is None else cap * (logits / cap).tanh()

    def save_pretrained(self, folder: str | Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """Write an ordinary Hugging Face folder (safetensors and processor), loadable without this package.

        Args:
            folder: made where absent.
            state_dict: the model's consolidated weights where they are sharded over ranks.
        """
        self.model.save_pretrained(str(folder), state_dict=state_dict)
        self.processor.save_pretrained(str(folder))
