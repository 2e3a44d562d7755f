"""The process that a job is on its cluster: runs the command, keeps its log, and ends it in order.

``python -m finedefics_platform.operate.jobs.supervise ID ATTEMPT``, started by Ray in the job's package. What
the command prints goes line by line, without secrets, to Ray's own log and into the workspace.

Ray stops a job by a signal to every process of it at once. The command must get SIGTERM once, so Ray is told
to send SIGINT (RAY_JOB_STOP_SIGNAL), which the command ignores and this process turns into one SIGTERM. The
command stays in this process's group, which Ray kills when the job's actor is gone: nothing is left behind.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finedefics.errors import FinedeficsError
from finedefics_platform.base.progress import EVENTS_FILE
from finedefics_platform.base.secrets import HIDDEN, without_secrets
from finedefics_platform.base.signals import TERMINATED
from finedefics_platform.base.workspace import open_workspace
from finedefics_platform.operate.jobs.log import LogWriter
from finedefics_platform.operate.jobs.records import HEARTBEAT_SECONDS, JobRecord, now

WRONG_USE = 2  # trying again would not help
LATE = 124  # as `timeout` has it
_POLL_SECONDS = 0.1
_LONGEST_LINE = 1 << 16
_PIPE_SECONDS = 5.0  # for what a child of the command may still say after it


class Supervisor:
    """One attempt of a job.

    Args:
        record: where its log and status go.
        command: what is run, in the current folder.
        retries: times it is started again after it failed; not where it was used wrongly.
        deadline: seconds that the attempt may take.
        grace: seconds between SIGTERM and SIGKILL.
        pause: seconds before it is started again.
    """

    def __init__(
        self,
        record: JobRecord,
        attempt: int,
        command: Sequence[str],
        *,
        retries: int = 0,
        deadline: float | None = None,
        grace: float = 120,
        pause: float = 5,
        hidden: Sequence[str] = (),
    ) -> None:
        self._record, self._command = record, list(command)
        self._retries, self._deadline, self._grace, self._pause = retries, deadline, grace, pause
        self._hidden = [text for text in hidden if text]
        self._log = LogWriter(record.log, attempt)
        self._events = Path(tempfile.mkdtemp(prefix="finedefics-job-")) / "events.jsonl"
        self._read = 0
        self._stopping: str | None = None  # who asked
        self._late = False
        self._told, self._writing = threading.Lock(), threading.Lock()
        self._over = threading.Event()
        self._status: dict[str, Any] = {
            "state": "running",
            "attempt": attempt,
            "tries": 0,
            "started": now(),
            "ended": None,
            "exit_code": None,
            "message": "",
            "run": {},
            "beats": 0,
            "heartbeat": now(),
            "process": os.getpid(),
        }

    def run(self) -> int:
        """Run the command to its end; returns the exit code, after log and status are in the workspace."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        beats = threading.Thread(target=self._keep_beating, name="heartbeat", daemon=True)
        beats.start()
        started = time.monotonic()
        while True:
            self._status["tries"] += 1
            code = self._run_once(started)
            again = self._status["tries"] <= self._retries and code not in (0, WRONG_USE)
            if not again or self._stopping or self._late:
                break
            self._say(
                f"the command failed (exit code {code}): started again, {self._status['tries']} of "
                f"{self._retries} retries"
            )
            self._wait(self._pause)
            if self._stopping:
                break
        self._over.set()
        beats.join(_PIPE_SECONDS)
        return self._end(code)

    def _run_once(self, started: float) -> int:
        child = self._spawn()
        reader = threading.Thread(target=self._read_output, args=(child,), name="output", daemon=True)
        reader.start()
        asked: float | None = None
        while child.poll() is None:
            time.sleep(_POLL_SECONDS)
            if self._deadline is not None and time.monotonic() - started > self._deadline:
                self._late = True
            if asked is None and (self._stopping or self._late):
                asked = time.monotonic()
                why = f"asked by {self._stopping}" if self._stopping else "the deadline is reached"
                self._say(f"stopping ({why}): the command has {self._grace:g} s to end in order")
                self._status["state"] = "stopping"
                child.send_signal(signal.SIGTERM)
            if asked is not None and time.monotonic() - asked > self._grace:
                self._say("it did not end in time and is killed")
                _kill_tree(child.pid)
        reader.join(_PIPE_SECONDS)
        return child.returncode if child.returncode >= 0 else 128 - child.returncode

    def _spawn(self) -> "subprocess.Popen[bytes]":
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: Ray's signal is for this process
        try:
            return subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, EVENTS_FILE: str(self._events), "PYTHONUNBUFFERED": "1"},
            )
        finally:
            signal.signal(signal.SIGINT, before)

    def _read_output(self, child: "subprocess.Popen[bytes]") -> None:
        assert child.stdout is not None
        rest = b""
        while piece := os.read(child.stdout.fileno(), 1 << 16):
            rest += piece
            whole, newline, rest = rest.rpartition(b"\n")
            if whole or newline:
                self._keep(whole + newline)
            if len(rest) > _LONGEST_LINE:
                self._keep(rest + b"\n")
                rest = b""
        if rest:
            self._keep(rest + b"\n")

    def _keep(self, lines: bytes) -> None:
        text = without_secrets(lines.decode(errors="replace"))
        for secret in self._hidden:
            text = text.replace(secret, HIDDEN)
        with self._told:
            self._log.write(text)
            try:
                sys.stdout.write(text)
                sys.stdout.flush()
            except (OSError, ValueError):  # Ray's log has nobody to write it: ours goes on
                pass

    def _say(self, text: str) -> None:
        self._keep(f"[job] {text}\n".encode())

    def _on_signal(self, number: int, frame: Any) -> None:
        self._stopping = self._stopping or "the cluster"

    def _keep_beating(self) -> None:
        """Status and stop requests in a thread: a storage that is away holds up nothing else."""
        while True:
            self._follow_events()
            self._beat()
            try:
                asked = self._record.stop()
            except (FinedeficsError, ValueError):
                asked = {}
            if asked.get("attempt") == self._status["attempt"] and not self._over.is_set():
                self._stopping = self._stopping or asked.get("who") or "somebody"
            if self._over.wait(1.0 if self._record.place.local is not None else HEARTBEAT_SECONDS):
                return

    def _beat(self) -> bool:
        with self._writing:  # one after the other: the last word is the last one written
            self._status["beats"] += 1
            self._status["heartbeat"] = now()
            try:
                self._record.write_status(dict(self._status))
                return True
            except FinedeficsError:
                return False

    def _follow_events(self) -> None:
        """What the command says of its run and how far it is, for the status."""
        try:
            with self._events.open("rb") as stream:
                stream.seek(self._read)
                content = stream.read()
        except FileNotFoundError:
            return
        whole = content[: content.rfind(b"\n") + 1]
        self._read += len(whole)
        run = dict(self._status["run"])
        for line in whole.splitlines():
            event = json.loads(line)
            for name in ("run", "mlflow_run", "search", "study", "dataset", "stage", "step"):
                if isinstance(event.get(name), str | int):
                    run[name] = event[name]
            if event["event"] == "step":
                run.setdefault("first_step", time.time())
            if event["event"] == "failed" and isinstance(event.get("error"), dict):
                error = event["error"]
                self._status["message"] = f"{error.get('place')}: {error.get('thing')}; {error.get('cure')}"
        self._status["run"] = run

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._stopping:
            time.sleep(_POLL_SECONDS)

    def _end(self, code: int) -> int:
        self._follow_events()
        if self._late:
            state, message = "failed", f"the deadline of {self._deadline:g} s was reached"
            code = LATE
        elif self._stopping:
            state, message = "stopped", f"asked by {self._stopping}"
            code = code or TERMINATED
        elif code == 0:
            state, message = "succeeded", ""
        else:
            state, message = "failed", self._status["message"] or f"exit code {code}"
        self._say(f"{state}{f': {message}' if message else ''}")
        # The log first: whoever sees the end in the status has every line.
        self._log.close()
        self._status |= {"state": state, "message": message, "exit_code": code, "ended": now()}
        for _ in range(60):
            if self._beat():
                break
            time.sleep(1)
        return code


def _kill_tree(process: int) -> None:
    import psutil

    try:
        parent = psutil.Process(process)
        family = [*parent.children(recursive=True), parent]
    except psutil.Error:
        return
    for one in family:
        try:
            one.kill()
        except psutil.Error:
            continue


def main(id_: str, attempt: int) -> int:
    """Run an attempt of a job in the current folder, its package; returns the command's exit code."""
    from finedefics_platform.operate.jobs.sealing import open_sealed

    record = JobRecord(open_workspace().jobs / id_)
    told = record.job()
    opened = open_sealed()
    os.environ.update(opened)
    named = [os.environ.get(name, "") for name in told["spec"]["secrets"]]
    os.chdir(told["folder"])
    command = [sys.executable, "-m", "finedefics_platform.cli.main", *told["command"]]
    spec = told["spec"]
    return Supervisor(
        record,
        attempt,
        command,
        retries=spec["retries"],
        deadline=spec["deadline"],
        grace=spec["stop_grace"],
        hidden=named,
    ).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
