"""How commands are found, and how they end: exit codes, one line of error, one JSON object a line."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from finedefics import __version__
from finedefics.errors import FinedeficsError, wrong_use
from finedefics_platform.base.progress import say_reused
from finedefics_platform.cli import main as shell
from finedefics_platform.cli.console import Reporter, reporter
from finedefics_platform.cli.failures import explain

HEAVY = ("torch", "ray", "mlflow", "transformers", "deepspeed")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., None]], None]:
    """Registers a function as the command `probe`, the way the real ones are registered."""

    def register(function: Callable[..., None]) -> None:
        module = types.ModuleType("probe_command")
        module.probe = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "probe_command", module)
        monkeypatch.setitem(shell.COMMANDS, "probe", "probe_command:probe")

    return register


def failing(error: BaseException) -> Callable[..., None]:
    def probe(json: Annotated[bool, typer.Option("--json")] = False) -> None:
        raise error

    return probe


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    program = (
        "import sys; from finedefics_platform.cli.main import main; code = main(['--help']);"
        f"print('heavy:', sorted(set({HEAVY!r}) & set(sys.modules))); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "heavy: []" in done.stdout
    for name in shell.COMMANDS:
        assert f"│ {name} " in done.stdout


@pytest.mark.parametrize("name", sorted(shell.COMMANDS))
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert shell.main([name, "--help"]) == 0
    assert "Usage: finedefics" in capsys.readouterr().out


def test_the_console_script_tells_its_version() -> None:
    script = Path(sys.executable).with_name("finedefics")
    done = subprocess.run([str(script), "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"finedefics {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["trian"],
            "error: finedefics: no such command 'trian', did you mean train?; see `finedefics --help`\n",
        ),
        (["nonsense"], "error: finedefics: no such command 'nonsense'; see `finedefics --help`\n"),
        (
            ["doctor", "--nonsense"],
            "error: finedefics doctor: no such option: --nonsense; see `finedefics doctor --help`\n",
        ),
        (
            ["ui", "--port", "many"],
            "error: finedefics ui: invalid value for '--port': Input should be a valid integer, "
            "unable to parse string as an integer; see `finedefics ui --help`\n",
        ),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shell.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err == line
    assert captured.out == ""


@pytest.mark.parametrize(("make", "code"), [(FinedeficsError, 1), (wrong_use, 2)])
def test_an_error_names_place_thing_and_cure(
    make: Callable[..., FinedeficsError], code: int, command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    command(failing(make("there is no such folder", place="birds/train", cure="give a folder")))
    assert shell.main(["probe"]) == code
    captured = capsys.readouterr()
    assert captured.err == "error: birds/train: there is no such folder; give a folder\n"
    assert captured.out == ""


def test_json_mode_ends_with_the_failure(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    command(failing(FinedeficsError("there is no such folder", place="birds", cure="give a folder")))
    assert shell.main(["probe", "--json"]) == 1
    error = {"thing": "there is no such folder", "place": "birds", "cure": "give a folder"}
    assert json.loads(capsys.readouterr().out) == {"event": "failed", "error": error}


def test_wrong_use_in_json_mode_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert shell.main(["doctor", "--json", "--nonsense"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["thing"] == "no such option: --nonsense"


def test_a_defect_is_one_line_and_its_traceback_is_asked_for(
    command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    command(failing(KeyError("digest")))
    assert shell.main(["probe"]) == 1
    line = "error: finedefics probe: KeyError: 'digest'; run again with --debug to see where\n"
    assert capsys.readouterr().err == line
    for arguments in (["probe", "--debug"], ["--debug", "probe"]):
        assert shell.main(arguments) == 1
        told = capsys.readouterr().err
        assert told.startswith("Traceback")
        assert told.endswith(line)


def test_an_interrupt_ends_with_130(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    command(failing(KeyboardInterrupt()))
    assert shell.main(["probe"]) == 130
    line = (
        "error: finedefics probe: interrupted; go on with it, finished steps are skipped: finedefics probe\n"
    )
    assert capsys.readouterr().err == line
    assert shell.main(["probe", "--json"]) == 130
    assert json.loads(capsys.readouterr().out)["error"]["cure"].endswith(": finedefics probe --json")


def test_sigterm_ends_with_143(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def wait() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    before = signal.getsignal(signal.SIGTERM)
    command(wait)
    assert shell.main(["probe"]) == 143
    assert capsys.readouterr().err == (
        "error: finedefics probe: terminated; go on with it, finished steps are skipped: finedefics probe\n"
    )
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_named(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def probe() -> None:
        with open("/dev/full", "w") as file:
            file.write("x" * 100_000)

    command(probe)
    assert shell.main(["probe"]) == 1
    assert "the disk is full; free space, or set FINEDEFICS_HOME" in capsys.readouterr().err


def test_an_error_from_a_ray_task_is_the_users_line(ray_cluster: Any) -> None:
    def reject() -> None:
        raise FinedeficsError("not a picture", place="train/a.jpg", cure="remove it")

    with pytest.raises(Exception) as caught:  # noqa: PT011  any of Ray's wrappers
        ray_cluster.get(ray_cluster.remote(reject).remote(), timeout=120)
    found = explain(caught.value, "finedefics data ingest")
    assert str(found) == "train/a.jpg: not a picture; remove it"
    wrapped = RuntimeError("the stage failed")
    wrapped.__cause__ = caught.value
    assert str(explain(wrapped, "finedefics train")) == "train/a.jpg: not a picture; remove it"

    def fail() -> None:
        raise KeyError("weights")

    with pytest.raises(Exception) as foreign:  # noqa: PT011
        ray_cluster.get(ray_cluster.remote(fail).remote(), timeout=120)
    assert explain(foreign.value, "finedefics evaluate").thing == "KeyError: 'weights'"


def test_stdout_is_for_json_lines_alone(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def probe(json: Annotated[bool, typer.Option("--json")] = False) -> None:
        out = reporter(json)
        print("a library talks")
        out.say("a line for a person")
        out.table("figures", ["name"], [["value"]])
        out.event("step", loss=float("nan"), path=Path("model"), values=(1, float("inf")))
        out.done(figure=0.5)

    command(probe)
    assert shell.main(["probe", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "a library talks\n"
    assert [json.loads(line) for line in captured.out.splitlines()] == [
        {"event": "step", "loss": None, "path": "model", "values": [1, None]},
        {"event": "done", "figure": 0.5},
    ]
    assert shell.main(["probe"]) == 0
    assert capsys.readouterr().out.startswith("a library talks\na line for a person\n")


def test_events_of_many_threads_keep_their_lines(capsys: pytest.CaptureFixture[str]) -> None:
    out = Reporter(json=True)

    def work(worker: int) -> None:
        for step in range(100):
            out.event("step", worker=worker, step=step)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {(line["worker"], line["step"]) for line in lines} == {
        (w, s) for w in range(4) for s in range(100)
    }


def test_bars_go_to_stderr_and_may_overlap(capsys: pytest.CaptureFixture[str]) -> None:
    out = Reporter()
    with out.progress("pictures", 3) as advance, out.progress("steps", None) as step:
        advance(3)
        step(5)
        out.note("pictures", "12 samples/s")
        out.say("half way")
    captured = capsys.readouterr()
    assert captured.out == "half way\n"
    assert "pictures" in captured.err
    assert "3/3" in captured.err
    assert "12 samples/s" in captured.err
    out.note("pictures", "after the last bar there is nothing to stand beside")


def test_progress_in_json_mode_begins_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(json=True).progress("pictures", 3) as advance:
        advance(2)
        advance(1)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["completed"] for line in lines] == [0, 3]


def test_what_was_found_finished_is_said_and_stands_in_the_last_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = Reporter(json=True)
    say_reused(out, "run", "joint-1a2b", how="--force trains it again")
    out.done(run="joint-1a2b")
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"event": "skipped", "run": "joint-1a2b", "reason": "finished before"},
        {"event": "done", "run": "joint-1a2b", "reused": ["joint-1a2b"]},
    ]
    say_reused(Reporter(), "run", "joint-1a2b", how="--force trains it again")
    assert capsys.readouterr().out == "reused run joint-1a2b: finished before; --force trains it again\n"


def test_an_interrupted_start_over_says_that_it_starts_over(
    command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def probe(force: Annotated[bool, typer.Option("--force")] = False) -> None:
        raise KeyboardInterrupt

    command(probe)
    assert shell.main(["probe", "--force"]) == 130
    assert capsys.readouterr().err.endswith("run it again, and it starts over: finedefics probe --force\n")
