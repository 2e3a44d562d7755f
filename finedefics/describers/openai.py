"""The describer "openai:MODEL": any endpoint with OpenAI's chat completions (vLLM, Ollama, a provider).

The address comes from ``OPENAI_BASE_URL`` and the key from ``OPENAI_API_KEY``; neither is written anywhere.
"""

import asyncio
import base64
import math
import os
import random
import re
import time
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from finedefics.describers.asking import AskingDescriber
from finedefics.describers.contract import DESCRIBERS, Given
from finedefics.describers.models import Answer, Failure, Keep, Outcome
from finedefics.describers.questions import Question, encodable
from finedefics.describers.shrink import shrunk
from finedefics.errors import FinedeficsError, wrong_use
from finedefics.rgb import UNDECODABLE

if TYPE_CHECKING:
    import openai

_LONGEST_PAUSE = 60.0  # seconds; an endpoint that wants more has no room today
_NO_ROOM = ("insufficient_quota", "billing_hard_limit_reached")


@DESCRIBERS.register("openai")
def openai_describer(given: Given) -> AskingDescriber:
    """Asks the endpoint about every picture."""
    return AskingDescriber("openai", OpenAIModel.of(given), given)


class OpenAIModel:
    """A model behind an endpoint, asked with bounded concurrency.

    Args:
        name: of the model, as the endpoint knows it.
        concurrency: requests in flight.
        deadline: seconds a request may take, from its first byte to its last.
        retries: of a request that was refused for now (429, 5xx), was not answered, or broke off.
        pause: seconds before the first retry; doubled for each further one, and what the endpoint asks for
            (``Retry-After``) where that is longer.
        edge: longest edge of a picture that is sent, in pixels.

    Raises:
        FinedeficsError: no model is named, or the package `openai` is missing (exit code 2).
    """

    def __init__(
        self,
        name: str,
        *,
        concurrency: int = 16,
        deadline: float = 120.0,
        retries: int = 5,
        pause: float = 0.5,
        edge: int = 1024,
    ) -> None:
        self.name, self.concurrency, self.deadline = name, concurrency, deadline
        self.retries, self.pause, self.edge = retries, pause, edge
        self._quiet_until = 0.0  # every request waits where one was told to
        self._left_out: set[str] = set()  # parameters that the endpoint refuses
        self._limit = "max_tokens"
        self._answered = False  # whether the endpoint has answered anything

    @staticmethod
    def of(given: Given) -> "OpenAIModel":
        """The model that a describer names, with the user's options."""
        if not given.argument:
            raise wrong_use("no model is named", place="describer 'openai'", cure="write openai:MODEL")
        known = ("concurrency", "deadline", "retries", "pause", "edge")
        options: dict[str, Any] = {k: given.options[k] for k in known if given.options.get(k) is not None}
        return OpenAIModel(given.argument, **options)

    @property
    def model_id(self) -> str:
        """``openai:NAME``: the same model at another address gives the same answers."""
        return f"openai:{self.name}"

    def answer_all(self, questions: Iterable[Question], keep: Keep) -> None:
        """Ask with `concurrency` requests in flight; see `Model.answer_all`."""
        try:
            asyncio.run(self._answer_all(questions, keep))
        except BaseExceptionGroup as group:
            raise _first(group) from None

    async def _answer_all(self, questions: Iterable[Question], keep: Keep) -> None:
        waiting = iter(questions)

        async def ask_on() -> None:
            for question in waiting:  # shared: whoever is free takes the next one
                keep(question, await self._answer(client, question))

        async with self._client() as client, asyncio.TaskGroup() as group:
            for _ in range(self.concurrency):
                group.create_task(ask_on())

    def _client(self) -> "openai.AsyncOpenAI":
        try:
            import openai
        except ImportError as error:
            raise wrong_use(
                "the package openai is missing",
                place="describer 'openai'",
                cure="pip install 'finedefics[openai]'",
            ) from error
        own = bool(os.environ.get("OPENAI_BASE_URL"))
        key = os.environ.get("OPENAI_API_KEY") or (
            "none" if own else None
        )  # a server of one's own needs none
        if key is None:
            raise wrong_use(
                "no endpoint is named",
                place="describer 'openai'",
                cure="set OPENAI_BASE_URL (and OPENAI_API_KEY where the endpoint wants a key)",
            )
        _check_address(os.environ.get("OPENAI_BASE_URL", ""))
        # retries are ours: all requests pause together where one is told to
        return openai.AsyncOpenAI(api_key=key, max_retries=0, timeout=self.deadline)

    async def _answer(self, client: "openai.AsyncOpenAI", question: Question) -> Outcome:
        reason, asked, late = "", 0, 0
        # who waited for nothing once has lost minutes: twice is enough
        while asked <= self.retries and late < 2:
            await self._wait()
            asked += 1
            try:
                async with asyncio.timeout(self.deadline):
                    return await self._ask(client, question)
            except TimeoutError:
                reason, wait, late = f"no answer in {self.deadline:g} s", 0.0, late + 1
            except _Later as later:
                reason, wait = later.reason, later.wait
            except _Refused as refused:
                return Failure(refused.reason)
            backoff = self.pause * 2 ** (asked - 1) * random.uniform(0.75, 1.25)
            self._hold(wait)
            await asyncio.sleep(max(backoff, wait) if asked <= self.retries else 0)
        return Failure(f"{reason}, {asked} times")

    async def _ask(self, client: "openai.AsyncOpenAI", question: Question) -> Answer:
        import openai

        try:
            messages = _messages(question, self.edge)
        except (*UNDECODABLE, FinedeficsError) as error:
            raise _Refused(f"the picture cannot be used ({type(error).__name__})") from None
        settings: dict[str, Any] = {self._limit: question.tokens, "temperature": 0.0}
        settings = {name: value for name, value in settings.items() if name not in self._left_out}
        try:
            said: Any = await client.chat.completions.create(model=self.name, messages=messages, **settings)
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            # a filter of contents says 403 of one picture; a key without rights has never got an answer
            if error.status_code == 403 and self._answered:
                raise self._judged(error) from None
            raise self._hopeless(error) from None
        except openai.APIStatusError as error:
            if self._adapted(error, settings):
                return await self._ask(client, question)
            raise self._judged(error) from None
        except openai.APITimeoutError:
            raise TimeoutError from None
        except (openai.APIError, ValueError) as error:  # no connection, or what came is no JSON
            raise _Later(f"the endpoint does not answer as it should ({self._told(error)})") from None
        answer = _completion(said)
        self._answered = True
        return answer

    def _hopeless(self, error: "openai.APIStatusError") -> FinedeficsError:
        """Asking on would get the same answer a million times."""
        if error.status_code == 404:
            thing, cure = (
                f"there is no model {self.name!r} (404)",
                "name a model that it serves, check its path",
            )
        else:
            thing, cure = f"the key is refused ({error.status_code})", "set OPENAI_API_KEY to a valid key"
        return FinedeficsError(thing, place=f"endpoint {_host(error)}", cure=cure)

    def _judged(self, error: "openai.APIStatusError") -> Exception:
        if error.code in _NO_ROOM:
            return FinedeficsError(
                "the account has no quota left",
                place=f"endpoint {_host(error)}",
                cure="top it up and run the same command again: what is answered is kept",
            )
        told = f"{error.status_code} {self._told(error)}".strip()
        if error.status_code in (408, 409, 425, 429) or error.status_code >= 500:
            return _Later(f"the endpoint answers {told}", _retry_after(error))
        return _Refused(f"the endpoint refuses it: {told}")

    def _adapted(self, error: "openai.APIStatusError", sent: Mapping[str, Any]) -> bool:
        """Newer models call the limit otherwise, or know one temperature only: learned from their refusal.

        Each request is judged by what it had sent: those in flight with it are refused as well, although the
        first of them has taught the model already.
        """
        refused = str(error.param or "")
        if error.status_code != 400 or refused not in sent:
            return False
        if refused == "max_tokens":
            self._limit = "max_completion_tokens"
            return True
        if refused == "temperature":
            self._left_out.add(refused)
            return True
        return False

    def _hold(self, seconds: float) -> None:
        self._quiet_until = max(self._quiet_until, time.monotonic() + seconds)

    async def _wait(self) -> None:
        while (left := self._quiet_until - time.monotonic()) > 0:
            await asyncio.sleep(left)

    def _told(self, error: Exception) -> str:
        """The error's own words in one short line, without the key."""
        text = str(getattr(error, "message", "") or error)
        if key := os.environ.get("OPENAI_API_KEY"):
            text = text.replace(key, "[hidden]")  # first: a text that is cut may end within the key
        return re.sub(r"^Error code: \d+( - )?", "", " ".join(text.split()))[:160]


def _check_address(url: str) -> None:
    """Refuse what no request can be sent to, without showing it: an address may hold a password."""
    try:
        parts = urlsplit(url)
        good = not url or (parts.scheme in ("http", "https") and parts.hostname and parts.port != 0)
    except ValueError:  # a port that is no number, brackets that do not close
        good = False
    if not good or any(not letter.isprintable() or letter == " " for letter in url):
        raise wrong_use(
            "OPENAI_BASE_URL is no address",
            place="describer 'openai'",
            cure="write it like http://localhost:8000/v1",
        )


class _Later(Exception):
    """Worth asking again, after ``wait`` seconds at least."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.reason, self.wait = reason, wait


class _Refused(Exception):
    """This question gets no answer, however often it is asked."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _messages(question: Question, edge: int) -> Any:
    text = {"type": "text", "text": question.text}
    if question.image is None:
        return [{"role": "user", "content": question.text}]
    kind, data = shrunk(question.image, edge)
    url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}, text]}]


def _completion(said: Any) -> Answer:
    """The first choice's text and the tokens counted, whatever shapes came: endpoints send what they like."""
    choices = getattr(said, "choices", None)
    message = getattr(choices[0], "message", None) if isinstance(choices, list) and choices else None
    content = getattr(message, "content", ...)
    text = _joined(content) if isinstance(content, list) else content or ""
    if not isinstance(text, str):
        raise _Later("the endpoint's answer is no chat completion")
    usage = getattr(said, "usage", None)
    counted = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
    whole = [count for count in counted if isinstance(count, int)]
    return Answer(encodable(text), *(whole if len(whole) == len(counted) else ()))


def _joined(parts: list[Any]) -> str:
    """The text of a content in parts; what else is in it (thoughts, pictures) says nothing here."""
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    return "".join(text for text in texts if isinstance(text, str))


def _retry_after(error: "openai.APIStatusError") -> float:
    """Seconds that the endpoint wants to be left alone, 0 where it does not say."""
    told = error.response.headers.get("retry-after", "")
    try:
        seconds = float(told)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(told).timestamp() - time.time()
        except ValueError:  # it says nothing that can be read
            return 0.0
    return min(max(seconds, 0.0), _LONGEST_PAUSE) if math.isfinite(seconds) else 0.0


def _host(error: "openai.APIStatusError") -> str:
    url = urlsplit(str(error.request.url))
    return f"{url.hostname}:{url.port}" if url.port else str(url.hostname)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What stopped the group: a user's error before what it brought down with it."""
    found: list[BaseException] = []
    for error in group.exceptions:
        found.append(_first(error) if isinstance(error, BaseExceptionGroup) else error)
    return next((error for error in found if isinstance(error, FinedeficsError)), found[0])
