"""What a model is asked and answers: templates as data, rendered through its own chat template."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from finedefics.errors import FinedeficsError


@dataclass(frozen=True)
class Templates:
    """What is said to the model.

    Attributes:
        question: asks for the category of a picture (open set).
        request: asks for a picture's attribute description.
        statements: sentences that tie a category's name and its description, in both directions; the last one
            must end with the name, because describe-then-name continues it.
    """

    question: str = "What is this?"
    request: str = "Describe this."
    statements: tuple[str, ...] = ("{name} has {description}", "{description} is {name}")

    def naming_prefix(self, description: str) -> str:
        """The last statement up to the name: what describe-then-name completes."""
        return self.statements[-1].split("{name}")[0].format(description=description).rstrip()


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt as token ids before and after the picture."""

    before: tuple[int, ...]
    after: tuple[int, ...]


class Renderer:
    """Turns questions into token ids with the processor's own chat template and tokenizer.

    Raises:
        FinedeficsError: the processor has no chat template, or no end-of-sequence token.
    """

    def __init__(self, processor: Any, templates: Templates | None = None) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.templates = templates or Templates()
        if self.tokenizer.eos_token_id is None or self.tokenizer.pad_token_id is None:
            raise FinedeficsError(
                "the tokenizer has no end-of-sequence or no padding token",
                place=str(self.tokenizer.name_or_path),
                cure="set eos_token and pad_token in tokenizer_config.json",
            )
        if self.tokenizer.eos_token_id == self.tokenizer.pad_token_id:
            raise FinedeficsError(
                "padding and end of sequence are the same token, so an answer's end could not be learned",
                place=str(self.tokenizer.name_or_path),
                cure="give the tokenizer a pad_token of its own",
            )
        self.prompt = lru_cache(maxsize=256)(self._prompt)
        self.tokens = lru_cache(maxsize=65536)(self._tokens)

    @property
    def eos(self) -> int:
        """Id of the end-of-sequence token."""
        return int(self.tokenizer.eos_token_id)

    @property
    def pad(self) -> int:
        """Id of the padding token."""
        return int(self.tokenizer.pad_token_id)

    def _tokens(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)

    def _prompt(self, question: str) -> Prompt:
        if not getattr(self.processor, "chat_template", None):
            raise FinedeficsError(
                "the model has no chat template",
                place=str(self.tokenizer.name_or_path),
                cure="use an instruction-tuned checkpoint or add chat_template.jinja to its folder",
            )
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        before, _, after = text.partition(self.processor.image_token)
        return Prompt(self._tokens(before) if before else (), self._tokens(after))

    def statement_tokens(self, name: str, description: str) -> list[tuple[int, ...]]:
        """Every statement about a category as token ids, closed by end of sequence."""
        texts = [s.format(name=name, description=description) for s in self.templates.statements]
        return [(*self.tokens(text), self.eos) for text in texts]

    def closed(self, text: str) -> tuple[int, ...]:
        """The text's tokens and end of sequence: an answer, or what an embedding is read from."""
        return (*self.tokens(text), self.eos)


def pad_right(sequences: Sequence[Sequence[int]], fill: int) -> list[list[int]]:
    """Sequences at the length of the longest, filled at the end."""
    width = max(map(len, sequences), default=0)
    return [[*sequence, *[fill] * (width - len(sequence))] for sequence in sequences]
