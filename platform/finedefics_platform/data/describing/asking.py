"""The first pass where a model is asked: every answer is kept as it arrives, and none is asked for twice."""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from finedefics.describers import AskingDescriber, Description, Subject
from finedefics.describers.models import Answer, Failure, Model, Outcome
from finedefics.describers.questions import Question, Unreadable
from finedefics.errors import FinedeficsError
from finedefics_platform.base.progress import Progress
from finedefics_platform.base.storage import Location
from finedefics_platform.data.describing.answers import AnswerLog
from finedefics_platform.data.describing.said import Said, SaidFile, subjects_of, write_said
from finedefics_platform.data.store import Dataset, RowGroup

NOTHING_VISIBLE = "nothing that was asked for is visible"
NOT_ASKED = "not asked (--limit)"
_ALL_FAILED = 64  # failures in a row after which the endpoint counts as away, whatever share is allowed

WithImages = Callable[[Sequence[Question]], Iterator[Question]]


@dataclass
class Usage:
    """What this run asked for; answers that were kept before cost nothing."""

    requests: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    kept_before: int = 0
    uncounted: int = 0  # answers whose tokens the endpoint did not count

    def add(self, answer: Answer) -> None:
        """Count an answer that arrived."""
        self.requests += 1
        self.prompt_tokens += answer.prompt_tokens
        self.answer_tokens += answer.answer_tokens
        self.uncounted += not (answer.prompt_tokens or answer.answer_tokens)

    def as_dict(self) -> dict[str, int]:
        """For JSON and provenance."""
        return dict(vars(self))


@dataclass
class Asker:
    """Puts questions to a model through the log of its answers.

    Attributes:
        attempts: how often a question is asked whose answers cannot be read.
        allowed: failures after which asking stops.
    """

    model: Model
    log: AnswerLog
    attempts: int
    allowed: float = 0
    usage: Usage = field(default_factory=Usage)
    failed: int = 0
    forgiving: bool = False  # what fails is left to whoever asked
    failures: dict[str, str] = field(default_factory=dict)  # of this run, by key; asked again in the next one
    _counted: set[str] = field(default_factory=set)
    _last: deque[bool] = field(default_factory=lambda: deque(maxlen=_ALL_FAILED))

    def settle(
        self,
        questions: Sequence[Question],
        with_images: WithImages | None = None,
        advance: Callable[[int], object] = lambda count: None,
    ) -> list[object]:
        """What each question's answer says, or the `Failure`.

        Args:
            questions: without their pictures.
            with_images: puts the pictures into questions that are about to be asked.
            advance: told of every question that has an answer.

        Raises:
            FinedeficsError: more than `allowed` failed, or asking on is of no use.
        """
        current = [self._furthest(question) for question in questions]
        self.usage.kept_before += sum(question.key in self.log for question in current)
        advance(sum(question.key in self.log for question in current))
        for attempt in range(self.attempts):
            todo = {q.key: q for q in current if q.key not in self.log and q.key not in self.failures}
            if todo:
                asked = list(todo.values())
                self._ask(
                    with_images(asked) if with_images else iter(asked), advance if not attempt else None
                )
            current = [self._furthest(question) for question in current]
        found = [self._read(question) for question in current]
        for question, one in zip(current, found, strict=True):
            if isinstance(one, Failure):
                self._count_failure(question.key, one.reason)
        return found

    def kept(self, question: Question) -> object | None:
        """What the answer says that was kept before, or the `Failure`; None where it is to be asked for."""
        question = self._furthest(question)
        return self._read(question) if question.key in self.log else None

    def _ask(self, questions: Iterable[Question], advance: Callable[[int], object] | None) -> None:
        def keep(question: Question, outcome: Outcome) -> None:
            if isinstance(outcome, Answer):
                self.log.keep(question.key, outcome)
                self.usage.add(outcome)
            else:
                self.failures[question.key] = outcome.reason
            if advance:
                advance(1)
            found = self._read(question)
            self._last.append(not isinstance(found, Failure))
            # an answer that cannot be read is asked for once more, unless nothing else comes
            given_up = not isinstance(outcome, Answer) or question.attempt == self.attempts
            if isinstance(found, Failure) and (given_up or self._is_away()):
                self._count_failure(question.key, found.reason)

        self.model.answer_all(questions, keep)

    def _furthest(self, question: Question) -> Question:
        """The attempt at which this question stands, by the answers that are kept."""
        while question.attempt < self.attempts and (answer := self.log.get(question.key)) is not None:
            try:
                question.read(answer.text)
                break
            except Unreadable as reason:
                question = question.again(str(reason))
        return question

    def _read(self, question: Question) -> object:
        answer = self.log.get(question.key)
        if answer is None:
            return Failure(self.failures[question.key])
        try:
            return question.read(answer.text)
        except Unreadable as reason:
            return Failure(f"{_UNREADABLE} ({reason})")

    def _is_away(self) -> bool:
        return len(self._last) == _ALL_FAILED and not any(self._last)

    def _count_failure(self, key: str, reason: str) -> None:
        if self.forgiving or key in self._counted:
            return
        self._counted.add(key)
        self.failed += 1
        if self.failed > self.allowed or (self._is_away() and self.allowed < math.inf):
            self.log.flush()
            many = f"the last {_ALL_FAILED} requests" if self._is_away() else f"{self.failed} questions"
            raise FinedeficsError(
                f"{many} got no answer that can be used (the last: {reason})",
                place=self.model.model_id,
                cure="mend it and run the same command again: what is answered is kept; "
                "or allow more (finedefics data describe NAME --allow-failed)",
            )


_UNREADABLE = "the answer cannot be used"


def names_wanted(describer: AskingDescriber, asker: Asker) -> list[Question]:
    """Questions for attribute names that are still to be asked."""
    return [asked for asked in describer.naming().values() if asker.kept(asked) is None]


def learn_names(describer: AskingDescriber, asker: Asker) -> None:
    """Step 1: ask for the attributes of every super-category that has none.

    Raises:
        FinedeficsError: the model names none that can be used.
    """
    asked = describer.naming()
    asker.forgiving = True
    found = asker.settle(list(asked.values()))
    asker.forgiving = False
    for kind, names in zip(asked, found, strict=True):
        if not isinstance(names, Failure):
            describer.learn(kind, names)  # type: ignore[arg-type]
        if not describer.names.get(kind):
            reason = names.reason if isinstance(names, Failure) else "each holds a category's name"
            if isinstance(names, Failure) and not reason.startswith(_UNREADABLE):  # nobody answered
                raise FinedeficsError(
                    reason,
                    place=asker.model.model_id,
                    cure="check OPENAI_BASE_URL and that it runs, and run the same command again",
                )
            raise FinedeficsError(
                f"the model names no attributes of {kind!r} ({reason})",
                place=asker.model.model_id,
                cure='name them yourself: finedefics data describe NAME --attributes "crown colour, belly"',
            )


def ask_files(
    dataset: Dataset,
    describer: AskingDescriber,
    asker: Asker,
    place: Location,
    progress: Progress,
    *,
    limit: int | None = None,
) -> list[SaidFile]:
    """Step 2: the values of every picture, file by file; this process holds one file's texts.

    Args:
        place: folder for what is said.
        limit: only so many pictures are asked about, the first ones.
    """
    total = dataset.manifest["tables"]["samples"]["rows"]
    left = total if limit is None else min(limit, total)
    made = []
    with progress.progress("asking about pictures", left) as advance:
        for number, groups in enumerate(dataset.groups_of_file()):
            subjects = [subjects_of(dataset, group) for group in groups]
            asked = [s for group in subjects for s in group][:left]
            left -= len(asked)
            questions = [describer.values(subject) for subject in asked]
            found = asker.settle(questions, _Images(dataset, groups, subjects), advance)
            said, seen = _said(describer, found)
            said += [Said(None, NOT_ASKED)] * (sum(map(len, subjects)) - len(said))
            each = iter(said)
            rows = [(group, [next(each) for _ in group]) for group in subjects]
            made.append(write_said(place / f"{number:06}.parquet", rows, seen))
    asker.log.flush()
    return made


def _said(describer: AskingDescriber, found: Sequence[object]) -> tuple[list[Said], Counter[str]]:
    said: list[Said] = []
    seen: Counter[str] = Counter()
    for one in found:
        if isinstance(one, Failure):
            said.append(Said(None, one.reason))
            continue
        attributes, named = describer.unnamed(one)  # type: ignore[arg-type]
        seen["names hidden"] += named
        description = Description("", attributes) if attributes else None
        said.append(Said(description, None if attributes else NOTHING_VISIBLE))
    return said, seen


@dataclass(frozen=True)
class _Images:
    """Reads pictures a row group at a time, when their questions are about to be asked."""

    dataset: Dataset
    groups: Sequence[RowGroup]
    subjects: Sequence[Sequence[Subject]]

    def __call__(self, questions: Sequence[Question]) -> Iterator[Question]:
        wanted = {question.picture: question for question in questions}
        for group, subjects in zip(self.groups, self.subjects, strict=True):
            if not any(subject.content_hash in wanted for subject in subjects):
                continue
            images = self.dataset.read(group, {"samples": ["image"]})["image"]
            for subject, image in zip(subjects, images, strict=True):
                if (question := wanted.pop(subject.content_hash, None)) is not None:
                    yield replace(question, image=image.as_py())
