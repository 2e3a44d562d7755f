"""The supervisor with plain child processes: ends, retries, stops, deadlines, and what it must not tell."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from finedefics_platform.base.storage import Location
from finedefics_platform.operate.jobs.log import LogReader
from finedefics_platform.operate.jobs.records import JobRecord

OF_A_JOB = """
import sys
from finedefics_platform.base.storage import Location
from finedefics_platform.operate.jobs.records import JobRecord
from finedefics_platform.operate.jobs.supervise import Supervisor
place, program, settings = sys.argv[1:]
record = JobRecord(Location.of(place))
supervisor = Supervisor(record, 1, [sys.executable, "-c", program], **eval(settings))
sys.exit(supervisor.run())
"""
WAITS = """
import signal, sys, time
times = []
signal.signal(signal.SIGTERM, lambda *_: times.append(1))
print("begun", flush=True)
while not times:
    time.sleep(0.02)
time.sleep(0.3)
print("saved after", len(times), flush=True)
sys.exit(143)
"""


class Watched:
    """A supervisor as Ray starts one: a process of its own group, with the command it runs."""

    def __init__(self, folder: Path, program: str, **settings: Any) -> None:
        self.record = JobRecord(Location.of(folder / "jobs/a-1"))
        arguments = [str(self.record.place), program, repr({"pause": 0.05, **settings})]
        self.process = subprocess.Popen(
            [sys.executable, "-c", OF_A_JOB, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "PLANTED_TOKEN": "planted-0123456789"},
        )

    def until(self, line: str) -> None:
        deadline = time.monotonic() + 60
        while line not in LogReader(self.record.log).take(last=True):
            assert time.monotonic() < deadline, self.process.poll()
            time.sleep(0.05)

    def end(self) -> tuple[int, list[str], dict[str, Any]]:
        output, _ = self.process.communicate(timeout=90)
        log = LogReader(self.record.log).take(last=True)
        assert output.splitlines() == log  # Ray's log and ours are the same
        return self.process.returncode, log, self.record.status()


def test_a_command_that_ends_well(tmp_path: Path) -> None:
    code, log, status = Watched(tmp_path, "print('one'); print('two', end='')").end()
    assert (code, log) == (0, ["one", "two", "[job] succeeded"])
    assert (status["state"], status["exit_code"], status["tries"]) == ("succeeded", 0, 1)


def test_a_failure_is_tried_again_and_a_wrong_use_is_not(tmp_path: Path) -> None:
    code, log, status = Watched(tmp_path / "a", "import sys; print('x'); sys.exit(7)", retries=2).end()
    assert (code, log.count("x"), status["tries"], status["state"]) == (7, 3, 3, "failed")
    code, log, status = Watched(tmp_path / "b", "import sys; print('x'); sys.exit(2)", retries=2).end()
    assert (code, log.count("x"), status["state"]) == (2, 1, "failed")


def test_secrets_reach_neither_log(tmp_path: Path) -> None:
    program = "import os; print('it is', os.environ['PLANTED_TOKEN'], 'http://me:pw-of-mine@host/x')"
    _, log, _ = Watched(tmp_path, program, hidden=["it is"]).end()
    assert log[0] == "[hidden] [hidden] http://[hidden]@host/x"


def test_the_run_is_told_from_the_commands_events(tmp_path: Path) -> None:
    program = """
import os, json
with open(os.environ["FINEDEFICS_EVENTS"], "a") as file:
    for event in ({"event": "recording", "run": "joint-1", "mlflow_run": "abc"}, {"event": "step", "step": 4},
                  {"event": "failed", "error": {"thing": "no room", "place": "here", "cure": "make some"}}):
        file.write(json.dumps(event) + "\\n")
raise SystemExit(1)
"""
    _, _, status = Watched(tmp_path, program).end()
    run = status["run"]
    assert (run["run"], run["mlflow_run"], run["step"]) == ("joint-1", "abc", 4)
    assert status["message"] == "here: no room; make some"


@pytest.mark.parametrize("way", ["stop.json", "ray", "sigterm"])
def test_stopped_in_order_with_one_signal(tmp_path: Path, way: str) -> None:
    watched = Watched(tmp_path, WAITS, grace=60, retries=3)
    watched.until("begun")
    if way == "stop.json":
        watched.record.ask_to_stop(1, "somebody")
    elif way == "sigterm":
        watched.process.send_signal(signal.SIGTERM)
    else:  # to every process of the job at once
        os.killpg(watched.process.pid, signal.SIGINT)
    code, log, status = watched.end()
    assert "saved after 1" in log
    assert (code, status["state"], status["tries"]) == (143, "stopped", 1)


def test_a_stop_of_another_attempt_stops_nothing(tmp_path: Path) -> None:
    JobRecord(Location.of(tmp_path / "jobs/a-1")).ask_to_stop(7, "somebody")
    code, _, status = Watched(tmp_path, "import time; time.sleep(2)").end()
    assert (code, status["state"]) == (0, "succeeded")


def test_what_does_not_end_in_time_is_killed_with_its_children(tmp_path: Path) -> None:
    program = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
time.sleep(600)
"""
    code, log, status = Watched(tmp_path, program, grace=0.3, deadline=3).end()
    assert (code, status["state"]) == (124, "failed")
    assert "deadline" in status["message"]
    child = int(next(line for line in log if line.startswith("child")).split()[1])
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_a_killed_job_leaves_its_log_up_to_the_last_line(tmp_path: Path) -> None:
    program = "import time\nfor n in range(10**6): print('line', n, flush=True); time.sleep(0.01)"
    watched = Watched(tmp_path, program)
    watched.until("line 50")
    os.killpg(watched.process.pid, signal.SIGKILL)
    watched.process.communicate()
    log = LogReader(watched.record.log).take()
    assert log == [f"line {n}" for n in range(len(log))]
    assert watched.record.status()["state"] == "running"
