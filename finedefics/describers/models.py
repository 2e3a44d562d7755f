"""Models that are asked: what they have in common, whether they answer over a network or on this machine."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from finedefics.describers.questions import Question


@dataclass(frozen=True)
class Answer:
    """What a model said, and the tokens that it counted."""

    text: str
    prompt_tokens: int = 0
    answer_tokens: int = 0


@dataclass(frozen=True)
class Failure:
    """Why there is no answer; a later run may get one."""

    reason: str


Outcome = Answer | Failure
Keep = Callable[[Question, Outcome], None]


class Model(Protocol):
    """Answers questions, in whatever order they are done."""

    @property
    def model_id(self) -> str:
        """Name of the model and of all of it that determines its answers; no secret, no address."""
        ...

    def answer_all(self, questions: Iterable[Question], keep: Keep) -> None:
        """Ask every question and hand each outcome to ``keep`` as it arrives.

        Questions are taken from the iterable when they are about to be asked, so that few pictures are held.

        Raises:
            FinedeficsError: asking on is of no use (the key is refused, there is no such model).
        """
        ...


@runtime_checkable
class LocalModel(Protocol):
    """A model whose weights are loaded where it is asked: it can be put into workers."""

    batch: int  # questions at a time
    device: str  # `cuda` or `cpu`; empty: what the process sees

    @property
    def model_id(self) -> str: ...

    def answer(self, questions: Sequence[Question]) -> list[Outcome]:
        """One outcome a question."""
        ...

    def answer_all(self, questions: Iterable[Question], keep: Keep) -> None: ...
