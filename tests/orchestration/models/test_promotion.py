"""Champions: promoted through the gate, rolled back, decided on by several at once, and moved by hand."""

import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from registered import answers, evaluation_of, registered, trained_run
from typer.testing import CliRunner

from finedefics.errors import FinedeficsError
from finedefics_platform.base.storage import discard
from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.cli.models import app
from finedefics_platform.models import decisions
from finedefics_platform.models.gate import load_gate
from finedefics_platform.models.promotion import history, promote, rollback
from finedefics_platform.models.references import open_model
from finedefics_platform.models.registry import versions
from finedefics_platform.tracking.mlflow_client import open_client

LOOPS = 5


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return open_workspace(tmp_path_factory.mktemp("a workspace"))


def holders(workspace: Workspace, name: str) -> dict[str, int]:
    return {alias: one.version for one in versions(workspace, name) for alias in one.aliases}


def test_promotion_moves_aliases_and_rollback_moves_them_back(recorded: Workspace) -> None:
    registered(recorded, "gulls", 280)
    with pytest.raises(FinedeficsError, match="no earlier champion"):
        rollback(recorded, "gulls", reason="none yet")
    assert promote(recorded, "gulls", 1, reason="the first", by="ann").changed
    assert holders(recorded, "gulls") == {"champion": 1}
    registered(recorded, "gulls", 300)
    promote(recorded, "gulls", 2, reason="better", by="ann")
    assert holders(recorded, "gulls") == {"champion": 2, "previous": 1}
    assert not promote(recorded, "gulls", 2, reason="again", by="bob").changed
    rollback(recorded, "gulls", reason="confuses terns", by="cid")
    assert holders(recorded, "gulls") == {"champion": 1, "previous": 2}
    rollback(recorded, "gulls", reason="it was the light", by="cid")
    assert holders(recorded, "gulls") == {"champion": 2, "previous": 1}

    told = history(recorded, "gulls")
    assert [(e["number"], e["action"], e["version"], e["before"], e["by"], e["reason"]) for e in told] == [
        (1, "promote", 1, None, "ann", "the first"),
        (2, "promote", 2, 1, "ann", "better"),
        (3, "rollback", 1, 2, "cid", "confuses terns"),
        (4, "rollback", 2, 1, "cid", "it was the light"),
    ]
    assert told[1]["figures"]["alignment"]["new"]["accuracy"] == 0.75
    assert {version.name for version in versions(recorded)} == {"gulls"}, "a log of decisions is no model"


def test_the_gate_guards_the_champion(recorded: Workspace) -> None:
    registered(recorded, "terns", 320)
    promote(recorded, "terns", 1, reason="the first")
    registered(recorded, "terns", 240)
    with pytest.raises(FinedeficsError, match=r"candidate 0\.600, champion 0\.800") as caught:
        promote(recorded, "terns", 2, reason="newer")
    assert caught.value.exit_code == 1
    assert holders(recorded, "terns")["champion"] == 1
    with pytest.raises(FinedeficsError, match="reason is empty"):
        promote(recorded, "terns", 2, reason="newer", force=" ")
    # longer than any tag of a registry
    why = "the old one leaks; " * 1000
    forced = promote(recorded, "terns", 2, reason="newer", force=why, by="ann")
    assert forced.forced == why
    last = history(recorded, "terns")[-1]
    assert (last["forced"], last["decision"]["allowed"]) == (why, False)
    failed = [one["rule"] for one in last["decision"]["verdicts"] if not one["passed"]]
    assert failed == ["not_worse_than_champion", "new_not_harmed"]
    assert last["decision"]["gate"]["name"] == "default"
    strict = load_gate(given=["rules.not_worse_than_champion.margin=0"])
    assert promote(recorded, "terns", 1, reason="back", gate=strict).changed


def test_a_refusal_for_want_of_evidence_says_what_to_run(recorded: Workspace) -> None:
    registered(recorded, "auks", 1800, 3000)
    promote(recorded, "auks", 1, reason="the first")
    registered(recorded, "auks", 27, 30, dataset="parts@d2", split="val")
    with pytest.raises(FinedeficsError, match="nothing was compared") as caught:
        promote(recorded, "auks", 2, reason="0.9 is more than 0.6")
    run = "finedefics evaluate auks@champion --data parts@d2 --split val --answers alignment --register auks"
    assert f"run `{run}`" in str(caught.value)
    assert holders(recorded, "auks")["champion"] == 1


RIVAL = """
import sys, time
from pathlib import Path
from finedefics.errors import FinedeficsError
from finedefics_platform.base.workspace import open_workspace
from finedefics_platform.models import promotion
from finedefics_platform.models.registry import get_version
root, own, folder, loops = sys.argv[1:]
workspace, looked = open_workspace(root), promotion.decide
def meet(point):
    Path(folder, f"{point}.{own}").touch()
    deadline = time.monotonic() + 120
    while len(list(Path(folder).glob(f"{point}.*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
for loop in range(int(loops)):
    champion = get_version(workspace, "crowd@champion").version
    version = [v for v in (1, 2, 3) if v != champion][int(own)]
    meet(f"{loop}-read")
    def decide(*given):
        meet(f"{loop}-decide")  # both have looked at what there is before either writes
        return looked(*given)
    promotion.decide = decide
    try:
        promotion.promote(workspace, "crowd", version, reason="race", by=f"rival {own}")
        print(f"won {version}")
    except FinedeficsError as error:
        print(f"lost {version}: {error}")
    meet(f"{loop}-done")
"""


@pytest.mark.slow
def test_of_two_that_promote_at_once_one_wins_and_the_other_is_told(
    recorded: Workspace, tmp_path: Path
) -> None:
    for _ in range(3):
        registered(recorded, "crowd", 320)
    promote(recorded, "crowd", 1, reason="the first")
    command = [sys.executable, "-c", RIVAL, str(recorded.root)]
    rivals = [
        subprocess.Popen([*command, own, str(tmp_path), str(LOOPS)], stdout=subprocess.PIPE, text=True)
        for own in ("0", "1")
    ]
    said = [rival.communicate(timeout=300)[0].splitlines() for rival in rivals]
    champion = 0
    for both in zip(*said, strict=True):
        (won,) = [text for text in both if text.startswith("won")]
        (lost,) = [text for text in both if text.startswith("lost")]
        champion = int(won.split()[1])
        assert f"rival {both.index(won)} made crowd/{champion} champion while this was decided" in lost
    assert holders(recorded, "crowd")["champion"] == champion
    told = history(recorded, "crowd")
    assert [entry["number"] for entry in told] == list(range(1, 2 * LOOPS + 2))
    assert sum(entry["void"] for entry in told) == LOOPS
    valid = [entry for entry in told if not entry["void"]]
    assert [entry["before"] for entry in valid] == [None, *(entry["version"] for entry in valid[:-1])]


def test_a_decision_based_on_an_older_one_is_void(recorded: Workspace) -> None:
    for _ in range(2):
        registered(recorded, "late", 320)
    promote(recorded, "late", 1, reason="the first", by="ann")
    entry = decisions.Entry("promote", 2, None, "bob", "2026-01-01T00:00:00+00:00", "me too", based_on=0)
    with pytest.raises(FinedeficsError, match="ann made late/1 champion while this was decided") as caught:
        decisions.write(recorded, "late", entry)
    assert "decide again" in str(caught.value)
    assert holders(recorded, "late") == {"champion": 1, "candidate": 2}
    assert [(e["by"], e["void"]) for e in history(recorded, "late")] == [("ann", False), ("bob", True)]
    assert promote(recorded, "late", 2, reason="now").changed


def test_who_dies_before_the_aliases_are_set_has_decided(
    recorded: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        registered(recorded, "crash", 320)
    promote(recorded, "crash", 1, reason="the first")

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(decisions, "_set_aliases", die)
        with pytest.raises(KeyboardInterrupt):
            promote(recorded, "crash", 2, reason="better")
    assert holders(recorded, "crash")["champion"] == 1
    opened = open_model(recorded, "crash@champion")
    assert opened.version is not None
    assert opened.version.version == 2
    assert holders(recorded, "crash") == {"champion": 2, "previous": 1}


@pytest.fixture
def moved(recorded: Workspace, request: pytest.FixtureRequest) -> str:
    """A model whose champion is version 1 by the log and 2 by an alias set in MLflow's own page."""
    name = f"moved-{zlib.crc32(request.node.name.encode())}"
    for _ in range(2):
        registered(recorded, name, 320)
    promote(recorded, name, 1, reason="the first")
    open_client(recorded).set_registered_model_alias(name, "champion", "2")
    return name


def test_a_champion_moved_by_hand_is_not_served_until_it_is_confirmed(
    recorded: Workspace, moved: str
) -> None:
    for reference in (moved, f"{moved}@champion"):
        with pytest.raises(FinedeficsError, match=f"moved by hand to {moved}/2; .* says {moved}/1") as caught:
            open_model(recorded, reference)
        assert f"finedefics models promote {moved} 2 --reason" in str(caught.value)
    assert open_model(recorded, f"{moved}/2").version is not None, "a version is a version"
    promote(recorded, moved, 2, reason="it was right")
    opened = open_model(recorded, f"{moved}@champion")
    assert opened.version is not None
    assert opened.version.version == 2
    assert "moved by hand" in history(recorded, moved)[-1]["decision"]["reasons"][-1]


@pytest.mark.parametrize("put_back", [rollback, lambda w, n, reason: promote(w, n, 1, reason=reason)])
def test_a_champion_moved_by_hand_is_put_back(
    recorded: Workspace, moved: str, put_back: Callable[..., Any]
) -> None:
    change = put_back(recorded, moved, reason="who did that?")
    assert (change.version, change.changed) == (1, True)
    assert holders(recorded, moved)["champion"] == 1
    assert [(e["action"], e["version"]) for e in history(recorded, moved)] == [("promote", 1), ("restore", 1)]


def test_a_champion_set_without_any_decision_is_noticed(recorded: Workspace) -> None:
    registered(recorded, "wild", 320)
    open_client(recorded).set_registered_model_alias("wild", "champion", "1")
    with pytest.raises(FinedeficsError, match="moved by hand to wild/1; the log of decisions says nothing"):
        open_model(recorded, "wild")
    promote(recorded, "wild", 1, reason="fine")
    assert open_model(recorded, "wild").version is not None


def test_the_command_line_tells_the_same(recorded: Workspace, tmp_path: Path) -> None:
    environment = {"FINEDEFICS_HOME": str(recorded.root), "COLUMNS": "300"}

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, list(arguments), env=environment)

    registered(recorded, "rails", 320)
    done = run("promote", "rails", "candidate", "--reason", "the first", "--by", "ann")
    assert done.exit_code == 0, done.exception
    assert "rails/1 is now the champion" in done.output
    assert "already" in run("promote", "rails", "1", "--reason", "again").output
    registered(recorded, "rails", 200)
    assert isinstance(run("promote", "rails", "2", "--reason", "newer").exception, FinedeficsError)
    assert run("promote", "rails", "2", "--reason", "newer", "--force", "a trial").exit_code == 0
    assert "rails/1" in run("rollback", "rails", "--reason", "enough").output
    shown = run("show", "rails").output
    words = ("the first", "enough", "a trial", "ann", "0.800", "birds@d1 test")
    assert [word for word in words if word not in shown] == []
    told = run("history", "rails").output
    words = ("the first", "ann", "alignment/new 0.800 (n = 400)", "allowed by the gate default", "no gate")
    assert [
        word for word in (*words, "refused by the gate default", "forced: a trial") if word not in told
    ] == []
    of_two = [json.loads(line) for line in run("history", "rails/2", "--json").stdout.splitlines()]
    assert [(line["event"], line.get("version")) for line in of_two] == [("history", 2), ("done", None)]
    (tmp_path / "own.yaml").write_text("rules: {minimum: {accuracy: 0.9}}\n")
    given = ("promote", "rails", "2", "--reason", "x", "--gate", str(tmp_path / "own.yaml"))
    assert "0.500 is below the minimum 0.900" in str(run(*given).exception)
    assert "below the minimum 0.700" in str(run(*given, "--set", "rules.minimum.accuracy=0.7").exception)
    lines = [json.loads(line) for line in run("list", "--json").stdout.splitlines()]
    mine = {line["version"]: line for line in lines if line.get("name") == "rails"}
    assert mine[1]["aliases"] == ["champion"]
    assert mine[2]["evidence"][0]["figures"]["alignment"]["new"]["accuracy"] == 0.5
    assert lines[-1]["event"] == "done"
    assert "rails-decisions" not in run("list").output
    open_client(recorded).set_registered_model_alias("rails", "champion", "2")
    for command in (("list",), ("show", "rails/2")):
        output = run(*command).output
        assert "moved by hand to rails/2; the log of decisions says rails/1" in output
        assert "finedefics models promote rails 2 --reason" in output


def test_an_encoder_in_the_workspace_guards_the_champion(recorded: Workspace) -> None:
    made = registered(recorded, "grebes", 200)
    encoder = trained_run(
        recorded, "an-encoder", tracked=False
    )  # never a version: only its evaluation counts
    evaluation_of(recorded, encoder, answers(390), answers=("knn",), encoder=True)
    with pytest.raises(FinedeficsError, match=r"candidate 0\.500, .* by knn 0\.975"):
        promote(recorded, "grebes", made.version, reason="the first")
    assert promote(recorded, "grebes", made.version, reason="named by text", force="names new ones").forced
    discard(evaluation_of(recorded, encoder, answers(390), answers=("knn",), encoder=True).place)


def test_a_version_without_provenance_is_refused(recorded: Workspace) -> None:
    registered(recorded, "loons", 320)
    client = open_client(recorded)
    for tag in ("model_digest", "code"):
        client.delete_model_version_tag("loons", "1", f"finedefics.{tag}")
    with pytest.raises(FinedeficsError, match="Nothing says its model digest;") as caught:
        promote(recorded, "loons", 1, reason="the first")
    assert "code" not in str(caught.value), "its run says that"
    assert holders(recorded, "loons") == {"candidate": 1}


def test_a_read_only_workspace_is_named_in_one_line(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path / "kept")
    registered(workspace, "smews", 320)
    assert workspace.root.local is not None
    places = [workspace.root.local, *workspace.root.local.rglob("*")]
    owner = os.geteuid()
    for place in places:
        place.chmod(0o555 if place.is_dir() else 0o444)
    tmp_path.chmod(0o755)
    for above in tmp_path.parents[:3]:
        above.chmod(0o755)
    try:
        if owner == 0:  # whom no permission keeps from writing
            os.seteuid(65534)
        with pytest.raises(FinedeficsError) as caught:
            promote(workspace, "smews", 1, reason="the first")
    finally:
        os.seteuid(owner)
        for place in places:
            place.chmod(0o755 if place.is_dir() else 0o644)
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)
    assert [word for word in ("not written to", str(workspace.root)) if word not in str(caught.value)] == []
    assert holders(workspace, "smews") == {"candidate": 1}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("list",), "No registered models in"),
        (("show", "birds"), "no registered model of this name"),
        (("history", "birds"), "no registered model of this name"),
        (("promote", "birds", "1", "--reason", "x"), "no registered model of this name"),
        (("rollback", "birds"), "no registered model of this name"),
        (("card", "birds"), "no registered model of this name"),
    ],
)
def test_asking_where_nothing_was_recorded_makes_nothing(
    tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    home = tmp_path / "nothing"
    done = CliRunner().invoke(app, list(arguments), env={"FINEDEFICS_HOME": str(home), "COLUMNS": "300"})
    assert words in done.output + str(done.exception)
    assert not home.exists()
