"""A model in workers of the Ray cluster: each holds its weights once and answers batches of questions."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from types import TracebackType
from typing import Any

from finedefics.describers.models import Failure, Keep, LocalModel, Outcome
from finedefics.describers.questions import Question
from finedefics.errors import FinedeficsError
from finedefics_platform.base.actors import reserved_device
from finedefics_platform.base.cluster_session import ensure_ray
from finedefics_platform.base.progress import Progress

_AHEAD = 2  # batches a worker holds: one that it answers, one that waits


class Workers:
    """A `Model` that is a local model in several workers.

    Args:
        model: travels without its weights; each worker loads them at its first question.
        count: workers.
        gpus: of each worker; a fraction puts several on one GPU. None: one where the cluster has any.
    """

    def __init__(self, model: LocalModel, *, count: int, gpus: float | None, progress: Progress) -> None:
        self.model, self.count, self.gpus, self.progress = model, count, gpus, progress
        self._actors: list[Any] = []

    @property
    def model_id(self) -> str:
        """The model's own: where it runs does not change its answers."""
        return self.model.model_id

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def answer_all(self, questions: Iterable[Question], keep: Keep) -> None:
        """Keep every worker busy; pictures are taken as they are needed.

        Raises:
            FinedeficsError: the model cannot be loaded, or a worker died.
        """
        waiting = iter(questions)
        first = list(islice(waiting, self.model.batch))
        if not first:
            return
        self._start()
        import ray

        batches = _batches(first, waiting, self.model.batch)
        busy: dict[Any, tuple[Any, list[Question]]] = {}
        for actor in self._actors * _AHEAD:
            for batch in islice(batches, 1):
                busy[actor.answer.remote(batch)] = (actor, batch)
        while busy:
            (done,), _ = ray.wait(list(busy), num_returns=1)
            actor, batch = busy.pop(done)
            for question, outcome in zip(batch, self._outcomes(done), strict=True):
                keep(question, outcome)
            for following in islice(batches, 1):
                busy[actor.answer.remote(following)] = (actor, following)

    def _outcomes(self, done: Any) -> list[Outcome]:
        import ray

        try:
            outcomes: list[Outcome] | FinedeficsError = ray.get(done)
        except ray.exceptions.RayError as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise FinedeficsError(
                f"a worker died ({reason[:200]})",
                place=self.model_id,
                cure="give it more memory or fewer questions at a time "
                "(finedefics data describe NAME --batch); what is answered is kept",
            ) from error
        if isinstance(outcomes, FinedeficsError):
            raise outcomes
        return outcomes

    def _start(self) -> None:
        if self._actors:
            return
        ensure_ray(progress=self.progress)
        import ray

        gpus = self.gpus
        if gpus is None:
            gpus = 1.0 if ray.cluster_resources().get("GPU") else 0.0
        worker = ray.remote(_Worker).options(num_cpus=1, num_gpus=gpus)
        self._actors = [worker.remote(self.model) for _ in range(self.count)]


class _Worker:
    def __init__(self, model: LocalModel) -> None:
        self.model = model
        self.model.device = reserved_device()  # a worker that asked for no GPU may see all of them

    def answer(self, questions: Sequence[Question]) -> list[Outcome] | FinedeficsError:
        try:
            return self.model.answer(questions)
        except FinedeficsError as error:  # whole, and not as the text of a task's error
            return error
        except (RuntimeError, ValueError, IndexError) as error:
            if len(questions) > 1:  # one of them is to blame: out of memory, or a picture it cannot take
                return [one for q in questions for one in self.answer([q])]  # type: ignore[union-attr]
            return [Failure(f"the model fails ({' '.join(str(error).split())[:160]})")]


def _batches(first: list[Question], more: Iterable[Question], size: int) -> Iterator[list[Question]]:
    yield first
    waiting = iter(more)
    while some := list(islice(waiting, size)):
        yield some
