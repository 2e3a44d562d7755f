"""Describing by asking a model behind an endpoint: what is asked, kept, refused, and told."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from bird_folder import encoded, put
from model_endpoint import COLOURS, HANG, Asked, Endpoint, Reply, endpoint, knows

from finedefics.describers import write_description
from finedefics.errors import FinedeficsError
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.cli.main import main
from finedefics_platform.data.describing import Prices, Settings, describe, estimate_of
from finedefics_platform.data.ingesting import ingest
from finedefics_platform.data.store import Dataset

pytest.importorskip("openai")
PICTURES = 12
PARROT = "openai:parrot"
DRIVER = Path(__file__).with_name("describe_driver.py")


@pytest.fixture
def plain(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_cluster: Any) -> Dataset:
    """Twelve pictures of two species of which nothing is known."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-1")
    monkeypatch.setenv("FINEDEFICS_HOME", str(workspace.root))
    for number in range(PICTURES):
        put(tmp_path / "plain", f"train/{('Black Tern', 'Auk')[number % 2]}/{number}.png", encoded(number))
    return ingest(workspace, "plain", tmp_path / "plain", row_group_rows=5)


def asking(server: Endpoint, patch: pytest.MonkeyPatch, **changes: Any) -> Settings:
    patch.setenv("OPENAI_BASE_URL", server.url)
    options = {"concurrency": 4, "pause": 0.001, "retries": 1, **changes.pop("options", {})}
    return Settings(options, **changes)


def test_three_steps_and_nothing_is_asked_twice(
    workspace: Workspace, plain: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with endpoint() as server:
        settings = asking(server, monkeypatch)
        made = describe(workspace, "plain", describer=PARROT, settings=settings)
        assert len(server.asked) == 1 + PICTURES, "one question for the kind, one a picture"
        assert "- Auk" in server.asked[0].text
        assert max(server.pictures().values()) == 1
        rows = made.table("descriptions").to_pylist()
        assert [row["sample_id"] for row in rows] == made.table("samples", ["sample_id"])[
            "sample_id"
        ].to_pylist()
        for row in rows:
            attributes = {pair["name"]: pair["value"] for pair in row["attributes"]}
            assert set(attributes) == {"crown colour", "wing pattern"}
            assert row["description"] == write_description(attributes)
        told = made.manifest["provenance"]["descriptions"]
        assert told["attributes"] == ["crown colour", "wing pattern"]
        assert told["coverage"] == {"crown colour": 1.0, "wing pattern": 1.0}
        assert told["usage"] == {
            "requests": 1 + PICTURES,
            "prompt_tokens": 100 * (1 + PICTURES),
            "answer_tokens": 10 * (1 + PICTURES),
            "kept_before": 0,
            "uncounted": 0,
        }
        assert [group.described for group in made.row_groups()] == [group.rows for group in made.row_groups()]
        values = {row["value"]: row["pictures"] for row in made.table("vocabulary").to_pylist()}
        assert sum(values.values()) > 0
        assert describe(workspace, "plain", describer=PARROT, settings=settings).digest == made.digest
        # the same pictures in another dataset are the same questions
        other = ingest(workspace, "other", tmp_path / "plain", row_group_rows=3)
        again = describe(workspace, other.reference, describer=PARROT, settings=settings)
        assert again.manifest["provenance"]["descriptions"]["usage"]["requests"] == 0
        assert len(server.asked) == 1 + PICTURES
    assert "sk-very-secret-1" not in everything_under(workspace)
    assert server.url not in everything_under(workspace)


def everything_under(workspace: Workspace) -> str:
    assert workspace.root.local is not None
    files = [file for file in workspace.root.local.rglob("*") if file.is_file()]
    return "".join(file.read_bytes().decode("latin-1") for file in files)


def test_equal_attributes_give_equal_text_by_the_model_too(
    workspace: Workspace, plain: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    with endpoint() as server:
        settings = asking(server, monkeypatch, options={"wording": "model", "attributes": ("crown",)})
        made = describe(workspace, "plain", describer=PARROT, settings=settings)
        rows = made.table("descriptions").to_pylist()
        texts = {json.dumps(row["attributes"]): row["description"] for row in rows}
        assert all(texts[json.dumps(row["attributes"])] == row["description"] for row in rows)
        assert all(text.startswith("A bird with crown: ") for text in texts.values())
        assert len(server.asked) == PICTURES + len(texts)


def test_what_it_takes_is_told_before(
    workspace: Workspace, plain: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    with endpoint() as server:
        settings = asking(server, monkeypatch)
        before = estimate_of(workspace, "plain", PARROT, settings=settings, prices=Prices(2.0, 8.0))
        assert (before.requests, before.answered, server.asked) == (1 + PICTURES, 0, [])
        assert before.image_tokens == PICTURES, "16 x 16 pixels are one patch"
        assert before.cost == pytest.approx(
            (2 * (before.text_tokens + before.image_tokens) + 8 * before.answer_tokens) / 1e6
        )
        some = Settings(settings.options, limit=5)
        assert estimate_of(workspace, "plain", PARROT, settings=some).requests == 6
        made = describe(workspace, "plain", describer=PARROT, settings=some)
        assert len(server.asked) == 6
        told = made.manifest["provenance"]["descriptions"]
        assert told["reasons"] == {"not asked (--limit)": PICTURES - 5}
        after = estimate_of(workspace, "plain", PARROT, settings=settings)
        assert (after.requests, after.answered, after.cost) == (PICTURES - 5, 5, None)
        describe(workspace, "plain", describer=PARROT, settings=settings)
        assert len(server.asked) == 1 + PICTURES


def test_sentences_are_told_before_as_well(
    workspace: Workspace, plain: Dataset, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    with endpoint() as server:
        settings = asking(server, monkeypatch, options={"wording": "model", "attributes": ("crown",)})
        found = estimate_of(workspace, "plain", PARROT, settings=settings)
        assert (found.requests, found.sentences) == (2 * PICTURES, PICTURES)
        line = ["data", "describe", "plain", "--describer", PARROT, "--attributes", "crown"]
        assert main([*line, "--wording", "model", "--estimate"]) == 0
    assert f"at most {2 * PICTURES} requests" in capfd.readouterr().out


def test_tokens_that_nobody_counted_have_no_price(
    plain: Dataset, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    message = {"choices": [{"message": {"content": '{"crown": "red"}'}}], "usage": None}
    with endpoint(lambda asked: Reply(body=json.dumps(message).encode())) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        line = [
            "data",
            "describe",
            "plain",
            "--describer",
            PARROT,
            "--attributes",
            "crown",
            "--price-in",
            "1",
        ]
        assert main(line) == 0
    shown = capfd.readouterr().out
    assert f"did not count the tokens of {PICTURES} answers" in " ".join(shown.split())
    assert "; cost" not in shown


def told_by(workspace: Workspace, settings: Settings) -> dict[str, Any]:
    made = describe(workspace, "plain", describer=PARROT, settings=settings)
    return dict(made.manifest["provenance"]["descriptions"])


def test_garbage_is_asked_again_and_then_kept_with_its_reason(
    workspace: Workspace, plain: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad: list[str] = []

    def sometimes(asked: Asked) -> str:
        """Talks of the first two pictures for ever, of the third once."""
        if asked.picture and asked.picture not in bad and len(bad) < 3:
            bad.append(asked.picture)
        if asked.picture in bad[:2] or (asked.picture in bad and "earlier answer" not in asked.text):
            return "What a pretty bird!"
        return knows(asked)

    with endpoint(sometimes) as server:
        settings = asking(server, monkeypatch, allow_failed=0.2, options={"concurrency": 1})
        told = told_by(workspace, settings)
        assert told["without_description"] == 2
        assert told["reasons"] == {"the answer cannot be used (it holds no JSON object)": 2}
        assert Counter(server.pictures().values()) == {1: PICTURES - 3, 2: 1, 3: 2}
        asked = len(server.asked)
        with pytest.raises(FinedeficsError, match=r"1 questions got no answer that can be used"):
            describe(
                workspace,
                "plain",
                describer=PARROT,
                settings=Settings({**settings.options, "edge": 99}, allow_failed=0.0),
            )
        assert len(server.asked) > asked
        asked = len(server.asked)
        assert told_by(workspace, settings) == told
        assert len(server.asked) == asked, "garbage is an answer: it is kept"


def test_what_failed_is_asked_again_in_the_next_run(
    workspace: Workspace, plain: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {"yes"}
    away: set[str] = set()

    def sometimes(asked: Asked) -> Reply | str:
        if broken and asked.picture and (len(away) < 2 or asked.picture in away):
            away.add(asked.picture)
            return Reply("oops", 500)
        return knows(asked)

    with endpoint(sometimes) as server:
        settings = asking(server, monkeypatch, allow_failed=0.2, options={"concurrency": 1})
        assert told_by(workspace, settings)["reasons"] == {"the endpoint answers 500 oops, 2 times": 2}
        broken.clear()
        asked = len(server.asked)
        assert told_by(workspace, settings)["without_description"] == 0
        assert {one.picture for one in server.asked[asked:]} == away


@pytest.mark.parametrize(
    ("says", "message", "most"),
    [
        (lambda asked: Reply("no", 401), "the key is refused (401)", 1),
        (
            lambda asked: "What?" if asked.picture is None else knows(asked),
            "finedefics data describe NAME --attributes",
            3,
        ),
        (lambda asked: Reply("no", 500), "the endpoint answers 500 no, 2 times; check OPENAI_BASE_URL", 2),
        (
            lambda asked: Reply("no", 500) if asked.picture else knows(asked),
            "or allow more (finedefics data describe NAME --allow-failed)",
            9,
        ),
        (lambda asked: HANG if asked.picture else knows(asked), "no answer in 0.5 s, 2 times", 9),
        (lambda asked: "red" if asked.picture else knows(asked), "it holds no JSON object", 1 + 3 * PICTURES),
    ],
)
def test_an_endpoint_that_is_of_no_use_stops_the_command_in_one_line(
    plain: Dataset, monkeypatch: pytest.MonkeyPatch, capfd: Any, says: Any, message: str, most: int
) -> None:
    with endpoint(says) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        line = ["data", "describe", "plain", "--describer", PARROT, "--concurrency", "2", "--retries", "1"]
        assert main([*line, "--deadline", "0.5" if "0.5 s" in message else "30"]) == 1
        assert len(server.asked) <= most
    (error,) = capfd.readouterr().err.strip().splitlines()[-1:]
    assert error.startswith("error: ")
    assert message in error


def test_names_of_categories_are_kept_out(
    workspace: Workspace, plain: Dataset, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    def names_it(asked: Asked) -> str:
        if asked.picture is None:
            return '["crown", "tail"]'
        return json.dumps({"crown": "red black-tern crown", "tail": "Auks"})

    with endpoint(names_it) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        line = ["data", "describe", "plain", "--describer", PARROT]
        assert main([*line, "--json"]) == 0
        last = json.loads(capfd.readouterr().out.splitlines()[-1])
        assert (last["names_hidden"], last["coverage"]) == (2 * PICTURES, {"crown": 1.0})
        described = set(open_described(workspace).table("descriptions")["description"].to_pylist())
        assert described == {"red crown crown"}
        asked = len(server.asked)
        assert main([*line, "--show-names"]) == 0
        assert len(server.asked) == asked, "what was said is known; only what is taken of it differs"
        shown = set(open_described(workspace).table("descriptions")["description"].to_pylist())
        assert len(shown) == 1
        assert "Auks tail" in shown.pop()


def open_described(workspace: Workspace) -> Dataset:
    from finedefics_platform.data.store import open_dataset

    return open_dataset(workspace, "plain")


def test_a_sentence_that_names_a_category_is_not_taken(
    workspace: Workspace, plain: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def says(asked: Asked) -> str:
        return "The auk has a red crown." if "Answer with the sentence" in asked.text else knows(asked)

    with endpoint(says) as server:
        settings = asking(server, monkeypatch, options={"wording": "model", "attributes": ("crown",)})
        told = told_by(workspace, settings)
        texts = set(open_described(workspace).table("descriptions")["description"].to_pylist())
    assert told["sentences_refused"] > 0
    assert texts <= {f"{colour} crown" for colour in COLOURS}


def test_names_fill_in_what_is_not_known_of_categories(
    workspace: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch, ray_cluster: Any
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-1")
    ingested = ingest(workspace, "birds", folder)
    before = {c.category_id: c for c in ingested.categories()}
    with endpoint() as server:
        settings = asking(server, monkeypatch)
        made = describe(workspace, "birds", describer="names:openai:parrot", settings=settings)
        (asked,) = server.asked
        assert '"dodo"' in asked.text
        assert "- crown\n- tail" in asked.text, "the attributes that its kin have"
        after = {c.category_id: c for c in made.categories()}
        assert {k: v for k, v in after.items() if k != "dodo"} == {
            k: v for k, v in before.items() if k != "dodo"
        }
        assert set(after["dodo"].attributes) == {"crown", "tail"}
        assert after["dodo"].description == "grey and gone"
        assert made.manifest["provenance"]["categories"]["asked"] == 1
        assert made.has("samples")
        overwriting = Settings(settings.options, overwrite=True)
        all_new = describe(workspace, "birds", describer="names:openai:parrot", settings=overwriting)
        assert len(server.asked) == 4
        assert all(c.description == write_description(c.attributes) for c in all_new.categories())


def test_categories_take_the_values_that_pictures_have(
    workspace: Workspace, plain: Dataset, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    def words_it(asked: Asked) -> str:
        grey = ("grey" if asked.number % 3 else "Grey") if asked.picture else "a greyish crown"
        return json.dumps({"crown": grey, "tail": "long"})

    with endpoint(words_it) as server:
        settings = asking(server, monkeypatch, options={"attributes": ("crown", "tail")})
        described = describe(workspace, "plain", describer=PARROT, settings=settings)
        made = describe(workspace, "plain", describer="names:openai:parrot", settings=settings)
        assert {c.attributes["crown"] for c in made.categories()} == {"grey"}
        assert made.files("descriptions") == described.files("descriptions")
        # what was asked for is not replaced by what the data has itself
        assert main(["data", "describe", "plain"]) == 0
        shown = capfd.readouterr().out
        assert "described before by openai:parrot" in shown
        assert "Wordings taken for one value" in shown
        assert open_described(workspace).digest == made.digest


@pytest.mark.slow
def test_a_workspace_in_an_object_store(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process with a cluster of its own, as that of the other tests does not know of the store."""
    for number in range(3):
        put(tmp_path / "plain", f"train/auk/{number}.png", encoded(number))
    with endpoint() as server:
        here = {"OPENAI_BASE_URL": server.url, "FINEDEFICS_CACHE": str(tmp_path / "cache")}
        command = [sys.executable, str(DRIVER), f"{bucket}/describing", PARROT, str(tmp_path / "plain")]
        for _ in range(2):
            done = subprocess.run(command, env={**os.environ, **here}, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["without_description"] == 0
        assert len(server.asked) == 4
