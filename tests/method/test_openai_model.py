"""A model behind an endpoint: what is asked again, what is given up, what stops everything."""

import json
import threading
import time
from collections.abc import Sequence
from email.utils import formatdate

import pytest
from model_endpoint import HANG, Asked, Endpoint, Reply, endpoint, knows

from finedefics.describers.models import Answer, Failure, Outcome
from finedefics.describers.openai import OpenAIModel
from finedefics.describers.questions import Question, ask_category
from finedefics.errors import FinedeficsError

pytest.importorskip("openai")


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-1")
    return "sk-very-secret-1"


def ask(
    server: Endpoint, monkeypatch: pytest.MonkeyPatch, count: int = 1, **settings: float
) -> list[Outcome]:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    questions = [ask_category("bird", ["crown"], f"species {number}") for number in range(count)]
    outcomes: dict[str, Outcome] = {}

    def keep(question: Question, outcome: Outcome) -> None:
        assert question.key not in outcomes, "each is handed over once"
        outcomes[question.key] = outcome

    settings = {"pause": 0.001, **settings}
    OpenAIModel("parrot", **settings).answer_all(iter(questions), keep)  # type: ignore[arg-type]
    return [outcomes[question.key] for question in questions]


def after(replies: Sequence[Reply | str]) -> object:
    """The server's replies to its first requests; then it knows everything."""
    return lambda asked: replies[asked.number - 1] if asked.number <= len(replies) else knows(asked)


def test_every_question_is_answered_with_few_requests_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    with endpoint() as server:
        found = ask(server, monkeypatch, 20, concurrency=3)
        assert len(server.asked) == 20
        assert server.at_once <= 3
        assert server.asked[0].key == "Bearer sk-very-secret-1"
        assert server.asked[0].body["model"] == "parrot"
        assert server.asked[0].body["temperature"] == 0
    assert all(isinstance(one, Answer) and one.prompt_tokens == 100 for one in found)


BUSY = Reply("slow down", 429, {"Retry-After": "0.4"})
BROKEN = Reply("oops", 500)


def test_what_is_refused_for_now_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with endpoint(after([BROKEN, BROKEN, Reply("", 503)])) as server:
        (found,) = ask(server, monkeypatch)
        assert (type(found), len(server.asked)) == (Answer, 4)


def test_all_requests_wait_as_long_as_the_endpoint_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def says(asked: Asked) -> Reply | str:
        if asked.number == 1:
            return BUSY
        time.sleep(0.1)  # the other one has its answer when the first has long been told to wait
        return knows(asked)

    with endpoint(says) as server:
        found = ask(server, monkeypatch, 6, concurrency=2)
        assert all(isinstance(one, Answer) for one in found)
        assert server.times[2] - server.times[0] >= 0.4, "whoever was not told waits too"


@pytest.mark.parametrize("told", ["soon", "", "nan", "-3", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_wait_that_says_nothing_is_no_wait(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    with endpoint(after([Reply("slow down", 429, {"Retry-After": told})])) as server:
        (found,) = ask(server, monkeypatch)
        assert (type(found), len(server.asked)) == (Answer, 2)


def test_a_wait_may_be_told_as_a_date(monkeypatch: pytest.MonkeyPatch) -> None:
    until = formatdate(time.time() + 2, usegmt=True)  # whole seconds: more than one from now
    with endpoint(after([Reply("slow down", 503, {"Retry-After": until})])) as server:
        ask(server, monkeypatch)
        assert server.times[1] - server.times[0] > 0.5


def test_an_endpoint_that_stays_broken_gives_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with endpoint(lambda asked: BROKEN) as server:
        (found,) = ask(server, monkeypatch, retries=2)
        assert len(server.asked) == 3
    assert found == Failure("the endpoint answers 500 oops, 3 times")


def test_one_that_never_answers_is_left_after_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    with endpoint(lambda asked: HANG) as server:
        (found,) = ask(server, monkeypatch, deadline=0.2, retries=5)
        assert len(server.asked) == 2, "waiting is dear: once more, and no more"
    assert found == Failure("no answer in 0.2 s, 2 times")


@pytest.mark.parametrize(
    "body",
    [
        b"<html>busy</html>",
        b"{}",
        b"[]",
        b"\xff\xfe",
        b"",
        b'{"choices": []}',
        b'{"choices": [{}]}',
        b'{"choices": {"a": 1}}',
        b'{"choices": "none"}',
        b'{"choices": [{"message": "hello"}]}',
        b'{"choices": [{"message": {"content": 7}}]}',
        b'{"choices": [{"message": {"content": {"text": "red"}}}]}',
    ],
)
def test_what_is_no_completion_is_asked_again(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    with endpoint(after([Reply(body=body)])) as server:
        (found,) = ask(server, monkeypatch)
        assert (type(found), len(server.asked)) == (Answer, 2)


@pytest.mark.parametrize(
    ("content", "usage", "expected"),
    [
        (
            [
                {"type": "thinking", "text": "hm"},
                {"type": "text", "text": "a "},
                {"type": "text", "text": "b"},
            ],
            {"prompt_tokens": 7, "completion_tokens": 3},
            Answer("a b", 7, 3),
        ),
        (["odd", {"type": "text", "text": 5}], None, Answer("")),
        ("half \ud83d of it", {"prompt_tokens": "7", "completion_tokens": 3}, Answer("half ? of it")),
        (None, "many", Answer("")),
        ("red", {"prompt_tokens": None, "completion_tokens": 1.5}, Answer("red")),
    ],
)
def test_answers_in_odd_shapes_are_read_or_count_nothing(
    monkeypatch: pytest.MonkeyPatch, content: object, usage: object, expected: Answer
) -> None:
    body = json.dumps({"choices": [{"message": {"content": content}}], "usage": usage}).encode()
    with endpoint(lambda asked: Reply(body=body)) as server:
        assert ask(server, monkeypatch) == [expected]


@pytest.mark.parametrize(
    ("status", "says"), [(401, "the key is refused"), (403, "the key is refused"), (404, "no model 'parrot'")]
)
def test_what_no_repeating_helps_stops_at_once(
    monkeypatch: pytest.MonkeyPatch, status: int, says: str, key: str
) -> None:
    with endpoint(lambda asked: Reply(f"bad key {key}", status)) as server:
        with pytest.raises(FinedeficsError, match=says) as caught:
            ask(server, monkeypatch, 50, concurrency=2)
        assert len(server.asked) <= 4
    assert str(status) in str(caught.value)
    assert key not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


def test_an_account_without_quota_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    body = json.dumps({"error": {"message": "no", "type": "x", "code": "insufficient_quota"}}).encode()
    with (
        endpoint(lambda asked: Reply(status=429, body=body)) as server,
        pytest.raises(FinedeficsError, match="no quota left"),
    ):
        ask(server, monkeypatch, 50, concurrency=2)


def test_a_question_that_is_refused_fails_alone(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    refused = Reply(f"too large for {key}", 413)
    with endpoint(lambda asked: refused if "species 1" in asked.text else knows(asked)) as server:
        found = ask(server, monkeypatch, 3)
        assert len(server.asked) == 3
    assert [type(one) for one in found] == [Answer, Failure, Answer]
    assert "413" in found[1].reason  # type: ignore[union-attr]
    assert key not in found[1].reason  # type: ignore[union-attr]


def test_what_is_forbidden_of_one_question_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    filtered = Reply("content policy", 403)
    with endpoint(lambda asked: filtered if "species 1" in asked.text else knows(asked)) as server:
        found = ask(server, monkeypatch, 3, concurrency=1)
    assert [type(one) for one in found] == [Answer, Failure, Answer]
    assert found[1] == Failure("the endpoint refuses it: 403 content policy")


@pytest.mark.parametrize(
    "url",
    ["localhost:8000/v1", "http://", "http://host:port/v1", "http://[::1/v1", "http://a b/v1", "ftp://x"],
)
def test_an_address_that_is_none_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(FinedeficsError, match="OPENAI_BASE_URL is no address") as caught:
        OpenAIModel("parrot").answer_all([ask_category("bird", ["crown"], "wren")], lambda q, o: None)
    assert caught.value.exit_code == 2


def picky(asked: Asked) -> Reply | str:
    """Refuses what newer models refuse."""
    for name in ("max_tokens", "temperature"):
        if name in asked.body:
            error = {"message": "unsupported", "type": "x", "code": "unsupported_parameter", "param": name}
            return Reply(status=400, body=json.dumps({"error": error}).encode())
    return knows(asked)


def test_a_key_that_is_cut_in_two_is_hidden_as_well(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    for before in range(150, 161):
        refused = Reply("x" * before + key, 413)
        with endpoint(lambda asked, refused=refused: refused) as server:
            (found,) = ask(server, monkeypatch)
        assert isinstance(found, Failure)
        assert "sk-" not in found.reason


def test_parameters_that_newer_models_refuse_are_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    with endpoint(picky) as server:
        found = ask(server, monkeypatch, 3, concurrency=1)
        assert len(server.asked) == 5
        assert "max_completion_tokens" in server.asked[-1].body
    assert all(isinstance(one, Answer) for one in found)


def test_what_was_in_flight_when_a_parameter_was_learned_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    together = threading.Barrier(4)

    def says(asked: Asked) -> Reply | str:
        if asked.number <= 4:
            together.wait(30)  # none is refused before all are in flight
        return picky(asked)

    with endpoint(says) as server:
        found = ask(server, monkeypatch, 8, concurrency=4)
    assert all(isinstance(one, Answer) for one in found)


def test_an_endpoint_that_is_not_there_gives_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with endpoint() as server:
        pass
    (found,) = ask(server, monkeypatch, retries=1)
    assert isinstance(found, Failure)
    assert found.reason.endswith("(Connection error.), 2 times")


def test_without_an_endpoint_nothing_is_sent_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(FinedeficsError, match="set OPENAI_BASE_URL") as caught:
        OpenAIModel("parrot").answer_all([ask_category("bird", ["crown"], "wren")], lambda q, o: None)
    assert caught.value.exit_code == 2
