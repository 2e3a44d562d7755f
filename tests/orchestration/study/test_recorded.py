"""How a study is recorded where steps of it failed, and what the command says of it."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import yaml

from finedefics.errors import FinedeficsError
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.cli.main import main
from finedefics_platform.study import run as study_run
from finedefics_platform.study.run import run_study

from .conftest import EXPERIMENT, document_of
from .test_execution import fake_plan, no_cluster, study_of

__all__ = ["no_cluster"]  # a fixture


@pytest.mark.parametrize("fails", [False, True])
def test_a_study_ends_as_failed_where_a_step_did(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    plan, tracker = fake_plan(study_of()), MagicMock()
    tracker.parent.return_value = "parent"
    if fails:
        plan.steps["t1"].task.error = FinedeficsError("no room", place="disk", cure="make some")  # type: ignore[union-attr]
    monkeypatch.setattr(study_run, "plan", lambda *_: plan)
    done = run_study(workspace, plan.study, {}, tracker=tracker)
    ended = [call.args for call in tracker.finish.call_args_list]
    assert ended[-1] == ("parent", "FAILED" if fails else "FINISHED")
    assert [args[1] for args in ended].count("FAILED") == (2 if fails else 0)
    assert (done.figures, tracker.child.call_count) == (6, 6)


def test_a_dry_run_lists_the_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FINEDEFICS_HOME", str(tmp_path / "workspace"))
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(document_of()))
    assert main(["study", "run", str(tmp_path / "small.yaml"), "--dry-run", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("state") for line in lines[:-1]] == ["to do"] * 12
    done: dict[str, Any] = lines[-1]
    assert (done["event"], done["steps"], done["to_do"], done["shared"]) == ("done", 12, 12, 4)
