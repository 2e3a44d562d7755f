"""What a model is asked and answers: templates as data, rendered through its own chat template.

Stage I and open-set instruction tuning ask `Templates.question` and learn the category's name; closed-set
instruction tuning asks a multiple choice among hard options and learns the option's letter. An answer ends as
the model's own chat template ends a turn, in training and wherever it is scored.
"""

import hashlib
import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from finedefics.backbones.family import family_of_processor
from finedefics.errors import FinedeficsError

TEMPLATES_FILE = "templates.json"
LETTERS = string.ascii_uppercase
OPTIONS = 4  # of a multiple choice in training: the truth and the three hardest wrong categories
_PROBE_WORD = "something"
_PROBE = {"name": "\0name\0", "description": "\0text\0", "question": "\0ask\0", "options": "\0list\0"}


@dataclass(frozen=True)
class Templates:
    """What is said to the model.

    Attributes:
        question: asks for the category of a picture (open set, and the first line of a multiple choice).
        request: asks for a picture's attribute description.
        statements: sentences that tie a category's name and its description, in both directions; the last one
            must end with the name, because describe-then-name continues it.
        choices: a multiple choice with the places ``{question}`` and ``{options}``; the options stand one a
            line, ``A. name``, as in the FOCI protocol.
        begin_texts: a description or name that is embedded begins as the tokenizer begins every text (with
            beginning of sequence where it puts one, as Idefics2's does), as in the release.

    Raises:
        ValueError: a text is empty, or lacks a place or has an unknown one.
    """

    question: str = "What is this?"
    request: str = "Describe this."
    statements: tuple[str, ...] = ("{name} has {description}", "{description} is {name}")
    choices: str = "{question}\nChoices:\n{options}\nReply with the letter of the right choice, nothing else."
    begin_texts: bool = True

    def __post_init__(self) -> None:
        for key in ("question", "request"):
            if not getattr(self, key).strip():
                raise ValueError(f"the {key} is empty")
        _check_places("choices", self.choices, ("question", "options"))
        if not self.statements:
            raise ValueError("statements are empty, and describe-then-name continues the last one")
        for statement in self.statements:
            _check_places("a statement", statement, ("name", "description"))
        last = self.statements[-1]
        if not last.endswith("{name}") or last.count("{name}") > 1:
            raise ValueError(
                "the last statement must end with {name}, its only one: describe-then-name continues it"
            )

    def naming_prefix(self, description: str) -> str:
        """The last statement up to the name: what describe-then-name completes."""
        return self.statements[-1].removesuffix("{name}").format(description=description).rstrip()

    def multiple_choice(self, names: Sequence[str]) -> str:
        """The question with the names as lettered options, in the order given (at most 26)."""
        lines = [f"{letter}. {name}" for letter, name in zip(letters(len(names)), names, strict=True)]
        return self.choices.format(question=self.question, options="\n".join(lines))

    @staticmethod
    def of(stored: Mapping[str, Any]) -> "Templates":
        """From what `dataclasses.asdict` made of them.

        Raises:
            KeyError, TypeError, ValueError: they are something else.
        """
        # those of a model that was trained before there was a choice: its texts began with nothing
        begun = {"begin_texts": False, **stored}
        return Templates(**{**begun, "statements": tuple(stored["statements"])})

    def save(self, folder: Path) -> None:
        """Write ``templates.json``, so that whoever loads the model asks what it was trained on."""
        (folder / TEMPLATES_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @staticmethod
    def load(folder: str | Path) -> "Templates":
        """What `save` wrote into a model's folder; the defaults where the model came without.

        Raises:
            FinedeficsError: the file holds something else.
        """
        file = Path(folder) / TEMPLATES_FILE
        if not file.is_file():
            return Templates()
        try:
            return Templates.of(json.loads(file.read_text()))
        except (KeyError, TypeError, ValueError) as error:
            raise FinedeficsError(
                f"no templates that can be used ({error})", place=str(file), cure="train the model again"
            ) from error


def _check_places(what: str, text: str, places: tuple[str, ...]) -> None:
    try:
        filled = text.format(**{place: _PROBE[place] for place in places})
    except (KeyError, IndexError, ValueError) as error:
        known = " and ".join(f"{{{place}}}" for place in places)
        raise ValueError(f"{what} has a place other than {known}: {text!r}") from error
    if missing := [place for place in places if _PROBE[place] not in filled]:
        raise ValueError(f"{what} lacks {{{missing[0]}}}: {text!r}")


def letters(count: int) -> str:
    """The letters of so many options; FinedeficsError beyond 26."""
    if count > len(LETTERS):
        raise FinedeficsError(
            f"{count} options have no letters (at most {len(LETTERS)} do)",
            place="multiple choice",
            cure="ask on hard options only, or use another answer",
        )
    return LETTERS[:count]


def option_order(count: int, *, seed: int, sample_id: str, step: int | None = None) -> list[int]:
    """In what order a sample's options are shown: a permutation of ``range(count)``.

    It depends on what is given here alone: not on the batch, the worker or the order of pictures.

    Args:
        step: of training, so that a sample that comes again is asked in another order, and its letter cannot
            be learned by heart; None where a question must be the same whenever it is asked (evaluation).
    """
    when = "" if step is None else f"\0{step}"

    def draw(position: int) -> bytes:
        return hashlib.sha256(f"{seed}\0{sample_id}\0{position}{when}".encode()).digest()

    return sorted(range(count), key=draw)


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
        self.family = family_of_processor(processor)
        self.image_token_id = self.tokenizer.convert_tokens_to_ids(processor.image_token)
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
        # the text's tokens after the beginning of sequence, where the tokenizer puts one
        self.opened = lru_cache(maxsize=65536)(self._opened)
        # with its end: a text of its own (what an embedding is read from) and a name as it follows
        # `Templates.naming_prefix` have end of sequence, an answer as it follows a prompt the end of a turn
        self.closed = lru_cache(maxsize=65536)(self._closed)
        self.answer = lru_cache(maxsize=65536)(self._answer)
        self.named = lru_cache(maxsize=65536)(self._named)

    def __reduce__(self) -> tuple[type["Renderer"], tuple[Any, Templates]]:
        return type(self), (self.processor, self.templates)  # caches are of a process

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

    def _opened(self, text: str) -> tuple[int, ...]:
        # as transformers has it, a text that brings its beginning of sequence gets no second one
        start = self.tokenizer.bos_token
        ids = self.tokenizer(text, add_special_tokens=start is None or start not in text).input_ids
        added = bool(ids) and ids[-1] == self.eos and not text.endswith(self.tokenizer.eos_token)
        return tuple(ids[:-1] if added else ids)

    def _prompt(self, question: str) -> Prompt:
        # as one text: a tokenizer may treat the start of a text unlike what follows a picture
        ids = self.opened(self._turns(question))
        places = [place for place, token in enumerate(ids) if token == self.image_token_id]
        if len(places) != 1:
            raise FinedeficsError(
                f"the chat template shows {len(places)} pictures where one was given",
                place=str(self.tokenizer.name_or_path),
                cure=f"let it render {self.processor.image_token} for content of the type `image`",
            )
        return Prompt(ids[: places[0]], ids[places[0] + 1 :])

    def _turns(self, question: str, answer: str | None = None) -> str:
        """The conversation as the chat template writes it, up to where the model answers, or answered."""
        own = getattr(self.processor, "chat_template", None)
        if not (own or self.family.chat_template):
            raise FinedeficsError(
                "the model has no chat template",
                place=str(self.tokenizer.name_or_path),
                cure="use an instruction-tuned checkpoint or add chat_template.jinja to its folder",
            )
        content = [{"type": "image"}, {"type": "text", "text": question}]
        turns = [{"role": "user", "content": content}]
        if answer is not None:
            turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        return str(
            self.processor.apply_chat_template(
                turns,
                chat_template=None if own else self.family.chat_template,
                add_generation_prompt=answer is None,
                tokenize=False,
            )
        )

    @cached_property
    def _around(self) -> tuple[str, str, str]:
        """What stands around an answer: the prompt after its picture, what the template sets between prompt
        and answer (Idefics asks with "Assistant:" and answers with " name"), and what it sets behind."""
        asked, answered = self._turns(_PROBE_WORD), self._turns(_PROBE_WORD, _PROBE_WORD)
        before = asked.rpartition(self.processor.image_token)[2]
        if answered.count(_PROBE_WORD) <= asked.count(_PROBE_WORD):  # the template shows no answers
            return before, "", ""
        head, _, behind = answered.rpartition(_PROBE_WORD)
        return before, head.removeprefix(asked) if head.startswith(asked) else "", behind

    @cached_property
    def end(self) -> tuple[int, ...]:
        """Token ids that end the model's turn, as its own chat template ends it: up to the first special
        token behind the answer ("<end_of_utterance>" of Idefics2); end of sequence where there is none."""
        before, between, behind = self._around
        ids = self._continuation(before + between + _PROBE_WORD, behind)
        last = next((place for place, token in enumerate(ids) if token in self._special), None)
        return (self.eos,) if last is None else ids[: last + 1]

    def _answer(self, text: str) -> tuple[int, ...]:
        before, between, _ = self._around
        return (*self._continuation(before, between + self._plain(text)), *self.end)

    def _named(self, name: str) -> tuple[int, ...]:
        before = self.templates.naming_prefix(_PROBE_WORD)
        gap = self.templates.statements[-1].removesuffix("{name}").format(description=_PROBE_WORD)
        return (*self._continuation(before, gap[len(before) :] + self._plain(name)), self.eos)

    def _continuation(self, before: str, text: str) -> tuple[int, ...]:
        """The text's tokens where it follows another: many tokenizers have others for " name" and "name"."""
        prefix, whole = self.tokens(before), self._tokens(before + text)
        return whole[len(prefix) :] if whole[: len(prefix)] == prefix else self._tokens(text)

    def statement_tokens(self, name: str, description: str) -> list[tuple[int, ...]]:
        """Every statement about a category as token ids, closed by end of sequence."""
        said = {"name": self._plain(name), "description": self._plain(description)}
        texts = [statement.format(**said) for statement in self.templates.statements]
        return [(*self.opened(text), self.eos) for text in texts]

    def choice(
        self, truth: str, wrong: Sequence[str], *, seed: int, sample_id: str, step: int | None = None
    ) -> tuple[str, str]:
        """A multiple choice about one sample and its answer, the letter of the truth.

        Args:
            seed, sample_id, step: decide the order of the options (`option_order`).

        Raises:
            FinedeficsError: there is no wrong option, or two options have one name.
        """
        place, names = f"sample {sample_id}", [truth, *wrong]
        if not wrong:
            raise FinedeficsError(
                "no hard negative to offer beside the truth",
                place=place,
                cure="run `finedefics data mine`, or leave the term `choice` out",
            )
        if len({name.casefold() for name in names}) < len(names):
            raise FinedeficsError(
                f"two of the options {', '.join(names)} are the same",
                place=place,
                cure="give every category a name of its own and mine again",
            )
        order = option_order(len(names), seed=seed, sample_id=sample_id, step=step)
        question = self.templates.multiple_choice([names[i] for i in order])
        return question, LETTERS[order.index(0)]

    def _closed(self, text: str) -> tuple[int, ...]:
        plain = self._plain(text)
        return (*(self._opened(plain) if self.templates.begin_texts else self._tokens(plain)), self.eos)

    def _plain(self, text: str) -> str:
        """The text, if the tokenizer takes it for nothing but text."""
        for token in self._special.values():
            if token in text:
                raise FinedeficsError(
                    f"the model reads {token!r} in a text as a token of its own",
                    place=repr(text if len(text) <= 80 else text[:77] + "…"),
                    cure="write the name or description without it",
                )
        return text

    @cached_property
    def _special(self) -> dict[int, str]:
        """Ids and texts of the tokens that are no text."""
        added = self.tokenizer.added_tokens_decoder.items()
        named = zip(self.tokenizer.all_special_ids, self.tokenizer.all_special_tokens, strict=True)
        return {int(i): str(token) for i, token in named} | {i: str(t) for i, t in added if t.special}


def pad_right(sequences: Sequence[Sequence[int]], fill: int) -> list[list[int]]:
    """Sequences at the length of the longest, filled at the end."""
    width = max(map(len, sequences), default=0)
    return [[*sequence, *[fill] * (width - len(sequence))] for sequence in sequences]
