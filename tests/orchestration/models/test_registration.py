"""What becomes a version of a registered model, in a real registry (SQLite)."""

import json
from pathlib import Path
from typing import Any

import pytest
from registered import answers, evaluation_of, registered, trained_run

from finedefics.errors import FinedeficsError
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.models.evidence import evidence_of, figures, measured
from finedefics_platform.models.packaging import open_package
from finedefics_platform.models.promotion import promote
from finedefics_platform.models.references import open_model
from finedefics_platform.models.registration import check_registrable, register_evaluated, register_run
from finedefics_platform.models.registry import get_version, versions
from finedefics_platform.models.texts import LIMIT, gathered, spread
from finedefics_platform.tracking.mlflow_client import open_client
from finedefics_platform.tracking.sources import code


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return open_workspace(tmp_path_factory.mktemp("a workspace"))


def test_a_version_says_what_it_was_trained_on_and_what_it_showed_where(recorded: Workspace) -> None:
    run = trained_run(recorded, "origin", dataset="birds@d1", adapters={"kind": "lora", "targets": ["text"]})
    evaluated = evaluation_of(recorded, run, answers(3, 12), dataset="parts@d2", split="val", limit=12)
    made = register_run(recorded, "origin", run, evaluated)
    assert (made.reference, made.run_id, made.aliases) == ("origin/1", run.parent_run_id, ("candidate",))
    stored = open_client(recorded).get_model_version("origin", "1").tags
    assert stored["finedefics.dataset"] == "birds@d1", "trained on, not evaluated on"
    assert stored["finedefics.dataset_digest"] == "d1"
    assert (stored["finedefics.base"], stored["finedefics.run"]) == ("base-digest", "origin")
    assert stored["finedefics.adapter"] == "lora r8 alpha8 on text"
    (evidence,) = evidence_of(made)
    assert str(evidence.ground) == "parts@d2 val, 4 options, seed 0"
    assert (evidence.limit, evidence.pictures, evidence.answers) == (12, 12, ("alignment",))
    training = json.loads((open_package(recorded, made) / "training.json").read_text())
    assert (training["labelled"], training["dataset"], training["base"]) == (
        ["tern"],
        "birds@d1",
        "base-digest",
    )


def test_nothing_that_is_stored_names_the_place_of_the_workspace(recorded: Workspace) -> None:
    made = registered(recorded, "placeless", 3, 12)
    assert str(recorded.root) not in json.dumps(dict(made.tags))


def test_labelled_and_new_are_told_by_the_versions_own_training(recorded: Workspace) -> None:
    """The table that comes in calls every picture new; the run had labels of terns."""
    run = trained_run(recorded, "groups", labelled=["tern"])
    evaluated = evaluation_of(recorded, run, [True, False] * 20, categories=["tern", "auk"])
    made = register_run(recorded, "groups", run, evaluated)
    shown = figures(made)["alignment"]
    assert {group: (cell["accuracy"], cell["n"]) for group, cell in shown.items()} == {
        "labelled": (1.0, 20),
        "new": (0.0, 20),
    }
    (at_the_gate,) = measured(recorded, made)
    assert set(at_the_gate.slices["alignment/labelled"].items) == {f"p{number}" for number in range(0, 40, 2)}


def test_the_figures_are_those_of_all_answers(recorded: Workspace) -> None:
    run = trained_run(recorded, "all")
    evaluated = evaluation_of(recorded, run, answers(9, 12), answers=("alignment", "names", "describe"))
    assert set(figures(register_run(recorded, "all", run, evaluated))) == {"alignment", "names", "describe"}


def test_a_run_with_its_evaluation_is_one_version(recorded: Workspace) -> None:
    run = trained_run(recorded, "once")
    evaluated = evaluation_of(recorded, run, answers(300))
    first = register_run(recorded, "once", run, evaluated)
    assert register_run(recorded, "once", run, evaluated) == first
    assert len(versions(recorded, "once")) == 1


def test_a_smaller_evaluation_replaces_nothing(recorded: Workspace) -> None:
    """`evaluate RUN --limit 12 --register` after a full one: the champion keeps what it showed."""
    run = trained_run(recorded, "kept")
    first = register_run(recorded, "kept", run, evaluation_of(recorded, run, answers(250, 288)))
    promote(recorded, "kept", 1, reason="the first")
    again = register_run(recorded, "kept", run, evaluation_of(recorded, run, answers(12, 12), limit=12))
    assert (again.version, again.aliases) == (1, ("champion",)), "the same model with the same index"
    assert first.tags.items() <= again.tags.items()
    assert figures(again)["alignment"]["new"]["n"] == 288
    large, small = measured(recorded, get_version(recorded, "kept@champion"))
    assert (len(large.slices["alignment/new"].items), len(small.slices["alignment/new"].items)) == (288, 12)


def test_another_index_is_another_version(recorded: Workspace, tmp_path: Path) -> None:
    (tmp_path / "categories.json").write_text('[{"name": "Auk"}]')
    run = trained_run(recorded, "indexed")
    register_run(recorded, "indexed", run, evaluation_of(recorded, run, answers(288, 288)))
    other = evaluation_of(recorded, run, answers(12, 12), limit=12, index=tmp_path)
    assert register_run(recorded, "indexed", run, other).version == 2
    assert get_version(recorded, "indexed/1").aliases == (), "the newest is the candidate"
    assert len(evidence_of(get_version(recorded, "indexed/1"))) == 1


def test_the_registrys_pages_say_what_a_version_is(recorded: Workspace) -> None:
    registered(recorded, "pages", 300)
    client = open_client(recorded)
    said = client.get_model_version("pages", "1").description
    assert "| birds@d1 test | alignment | new | 75.0 % | 70.5 to 79.0 | 400 |" in said
    words = ("run: `pages-0`", "code: `", "finedefics predict pages/1 PICTURE.jpg", "models export pages/1")
    assert [word for word in words if word not in said] == []
    assert "no champion yet" in client.get_registered_model("pages").description
    promote(recorded, "pages", 1, reason="it names auks", by="ann")
    about = client.get_registered_model("pages").description
    assert "Champion: **pages/1**" in about
    assert "by ann: it names auks" in about
    tags = get_version(recorded, "pages/1").tags
    assert (tags["config_digest"], tags["code"]) == ("config-digest", code())


def test_evidence_is_added_to_a_version(recorded: Workspace) -> None:
    run = trained_run(recorded, "more")
    first = register_run(recorded, "more", run, evaluation_of(recorded, run, answers(300)))
    opened = open_model(recorded, "more/1")
    few = evaluation_of(recorded, run, answers(12, 12), limit=12)
    elsewhere = evaluation_of(recorded, run, answers(500, 600), dataset="parts@d2", answers=("names",))
    for evaluated in (few, elsewhere, few):
        made = register_evaluated(recorded, "more", opened, evaluated)
    assert len(versions(recorded, "more")) == 1
    assert first.tags.items() <= made.tags.items(), "nothing that was there has changed"
    assert [(e.ground.dataset, e.pictures) for e in evidence_of(made)] == [
        ("parts@d2", 600),
        ("birds@d1", 400),
        ("birds@d1", 12),
    ]
    assert figures(made)["alignment"]["new"]["n"] == 400, "the larger one speaks"


def test_two_at_once_register_one_version(recorded: Workspace) -> None:
    from concurrent.futures import ThreadPoolExecutor

    run = trained_run(recorded, "pair")
    evaluated = evaluation_of(recorded, run, answers(3, 12))
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: register_run(recorded, "pair", run, evaluated), range(2)))
    assert made[0].reference == made[1].reference == "pair/1"
    assert len(versions(recorded, "pair")) == 1


def test_what_cannot_be_registered_is_refused(recorded: Workspace, tmp_path: Path) -> None:
    run, other = trained_run(recorded, "refused"), trained_run(recorded, "refused-other")
    evaluated = evaluation_of(recorded, run, answers(3, 12))

    def refusal(name: str, this: Any) -> FinedeficsError:
        with pytest.raises(FinedeficsError) as caught:
            register_run(recorded, name, this, evaluated)
        return caught.value

    assert "the evaluation is of the model" in str(refusal("refused", other))
    assert "not tracked" in str(refusal("refused", trained_run(recorded, "alone", tracked=False)))
    assert "not a model name" in str(refusal("a/b", run))
    assert "log of decisions" in str(refusal("birds-decisions", run))
    for run_id, words in (("123", "no run 123"), ("unsent-1", "runs sync")):
        assert words in str(refusal("refused", type(run)(**{**vars(run), "parent_run_id": run_id})))
    assert versions(recorded, "refused") == []
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "w.safetensors").write_text("w")
    with pytest.raises(FinedeficsError, match="only a run's model can be registered"):
        check_registrable("refused", open_model(recorded, str(tmp_path)))
    registered(recorded, "mine", 3, 12)
    with pytest.raises(FinedeficsError, match=r"a version of mine; .*--register mine"):
        check_registrable("refused", open_model(recorded, "mine/1"))


@pytest.mark.parametrize("length", [0, 1, LIMIT, LIMIT + 1, 3 * LIMIT + 7])
def test_a_text_of_any_length_comes_back(length: int) -> None:
    text = ("abcdefghij" * (length // 10 + 1))[:length]
    tags = spread("reason", text)
    assert max(map(len, tags.values())) <= LIMIT
    assert list(tags)[-1] == "finedefics.reason", "written one by one, what is read comes last"
    assert gathered({key.removeprefix("finedefics."): value for key, value in tags.items()}, "reason") == text
