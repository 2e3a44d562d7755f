"""Carries tracking entries to MLflow, in order, in batches, and in a way that may be repeated."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from finedefics_platform.base.secrets import without_secrets
from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.tracking.curves import Curves
from finedefics_platform.tracking.facts import shorten
from finedefics_platform.tracking.mlflow_client import experiment_id, is_refusal
from finedefics_platform.tracking.spool import UNSENT, Entry, Spool, resolved

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

KEY = "finedefics.key"
ENTRY = "finedefics.entry"
WORKSPACE = "finedefics.workspace"
PARENT = "mlflow.parentRunId"
METRICS_PER_BATCH = 1000
PARAMETERS_PER_BATCH = 100
SECONDS_TO_OPEN = 60.0
LONGEST_DIGEST = 36  # MLflow's, of a dataset


class Delivery:
    """Sends entries with one client; ids of runs made while the server was away are translated."""

    def __init__(self, workspace: Workspace, client: "MlflowClient", spool: Spool) -> None:
        self._workspace, self._client, self._spool = workspace, client, spool
        self._ids: dict[str, str] = {}
        self._experiments: dict[str, str] = {}
        self._curves = Curves(client)
        self.failure: Exception | None = None

    def send(self, entries: list[Entry]) -> int:
        """Send the entries in order and return how many leading ones are settled.

        An entry the server refuses counts as settled and is put aside with the reason. Anything else that
        goes wrong means that the server is away: sending stops there and `failure` says why.
        """
        self.failure = None
        settled = 0
        for _, group in groupby(entries, key=lambda entry: (entry["run"], entry["entry"])):
            batch = list(group)
            if not self._settle(batch):
                return settled
            settled += len(batch)
        return settled

    def _settle(self, batch: list[Entry]) -> bool:
        try:
            self._send_batch(batch[0]["run"], batch[0]["entry"], batch)
        except Exception as error:
            if not is_refusal(error):
                self.failure = error
                return False
            if len(batch) > 1:  # one wrong entry must not take its neighbours along
                return all(self._settle([entry]) for entry in batch)
            self._spool.refuse(batch[0], without_secrets(str(error)))
        return True

    def server_id(self, run_id: str) -> str:
        """The server's id of a run; KeyError if it was never made there."""
        if not run_id.startswith(UNSENT):
            return run_id
        if run_id not in self._ids:
            self._ids.update(resolved(self._spool.folder))
        return self._ids[run_id]

    def _send_batch(self, run: str, kind: str, batch: list[Entry]) -> None:
        if kind == "run":
            for entry in batch:
                self._open_run(entry)
        elif kind == "metrics":
            self._send_metrics(self.server_id(run), batch)
        else:
            senders = {
                "artifact": self._send_artifact,
                "tags": self._send_tags,
                "inputs": self._send_inputs,
                "finish": self._send_finish,
            }
            for entry in batch:
                senders[kind](self.server_id(run), entry)

    def _open_run(self, entry: Entry) -> None:
        experiment = self._experiment(entry["experiment"])
        parent = self.server_id(entry["parent"]) if entry["parent"] else None
        # Two processes that look for the same run at once would both make it.
        with FileLock(self._spool.folder / "opening.lock", timeout=SECONDS_TO_OPEN):
            found = self._find(experiment, entry, parent)
            if found is None:
                tags = {**entry["tags"], ENTRY: entry["run"]} | ({PARENT: parent} if parent else {})
                found = self._client.create_run(
                    experiment, start_time=entry["time"], tags=tags, run_name=entry["name"]
                )
                self._curves.opened(found.info.run_id)
            else:
                self._client.update_run(found.info.run_id, status="RUNNING")
        self._ids[entry["run"]] = found.info.run_id
        self._spool.resolve(entry["run"], found.info.run_id)
        self._send_parameters(found, entry["params"])
        # of the entry that made it, sent once or again: a run that goes on keeps what it began with
        if found.data.tags.get(ENTRY) == entry["run"]:
            for file, text in entry.get("texts", {}).items():
                self._client.log_text(found.info.run_id, text, file)

    def _find(self, experiment: str, entry: Entry, parent: str | None) -> "Run | None":
        """The run this entry already made (an earlier attempt or an earlier start of the same work)."""
        if parent:
            wanted = f"tags.`{PARENT}` = '{parent}' and attributes.run_name = {quoted(entry['name'])}"
        elif entry["key"] and not entry["fresh"]:
            wanted = keyed(entry["key"], entry["tags"][WORKSPACE])
        else:
            wanted = f"tags.`{ENTRY}` = '{entry['run']}'"
        newest_first = ["attributes.start_time DESC"]
        runs = self._client.search_runs([experiment], wanted, max_results=1, order_by=newest_first)
        return runs[0] if runs else None

    def _send_parameters(self, run: "Run", parameters: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        run_id = run.info.run_id
        short, long = shorten({k: v for k, v in parameters.items() if k not in run.data.params})
        for key, text in long.items():
            self._client.log_text(run_id, text, f"parameters/{key.replace('/', '_')}.txt")
        items = [Param(key, value) for key, value in short.items()]
        for start in range(0, len(items), PARAMETERS_PER_BATCH):
            self._client.log_batch(run_id, params=items[start : start + PARAMETERS_PER_BATCH])

    def _send_metrics(self, run_id: str, batch: list[Entry]) -> None:
        from mlflow.entities import Metric

        try:
            metrics = [
                Metric(key, value, entry["time"], entry["step"])
                for entry in batch
                for key, value in self._points(run_id, entry)
            ]
            for start in range(0, len(metrics), METRICS_PER_BATCH):
                self._client.log_batch(run_id, metrics=metrics[start : start + METRICS_PER_BATCH])
        except Exception:
            self._curves.forget(run_id)
            raise

    def _points(self, run_id: str, entry: Entry) -> Iterator[tuple[str, float]]:
        if entry.get("once"):
            return self._curves.missing(run_id, entry["step"], entry["values"])
        return iter(entry["values"].items())

    def _send_tags(self, run_id: str, entry: Entry) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in entry["tags"].items()])

    def _send_inputs(self, run_id: str, entry: Entry) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        name, _, digest = entry["dataset"].partition("@")
        # Where it lies is the workspace's affair: a place of one machine would say nothing to another.
        source = json.dumps(
            {"dataset": entry["dataset"], "open": f"finedefics data inspect {entry['dataset']}"}
        )
        profile = None if entry["pictures"] is None else json.dumps({"num_rows": entry["pictures"]})
        dataset = Dataset(name, digest[:LONGEST_DIGEST], "code", source, profile=profile)
        tags = [InputTag("mlflow.data.context", entry["context"])]
        self._client.log_inputs(run_id, [DatasetInput(dataset, tags)])

    def _send_artifact(self, run_id: str, entry: Entry) -> None:
        place = self._workspace.place_of(entry["path"])
        with _on_disk(place) as path:
            if path.is_dir():
                self._client.log_artifacts(run_id, str(path), entry["artifact_path"])
            elif path.exists():
                self._client.log_artifact(run_id, str(path), entry["artifact_path"])
            else:
                raise FileNotFoundError(f"{place} is gone")

    def _send_finish(self, run_id: str, entry: Entry) -> None:
        self._client.set_terminated(run_id, status=entry["status"], end_time=entry["time"])

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            self._experiments[name] = experiment_id(self._client, self._workspace, name)
        return self._experiments[name]


@contextmanager
def _on_disk(place: Location) -> Iterator[Path]:
    """The file or folder as MLflow takes it: a path of this machine."""
    if place.local is not None:
        yield place.local
        return
    with tempfile.TemporaryDirectory(prefix="finedefics-") as name:
        aside = Path(name) / place.name
        if place.is_file():
            place.download(aside)
        for way in place.files():
            file = aside / way
            file.parent.mkdir(parents=True, exist_ok=True)
            (place / way).download(file)
        yield aside


def keyed(key: str, workspace_id: str) -> str:
    """MLflow's filter for the runs of a key in one workspace: another one's may have the same key."""
    return f"tags.`{KEY}` = {quoted(key)} and tags.`{WORKSPACE}` = '{workspace_id}'"


def quoted(value: Any) -> str:
    """A value as a string in MLflow's filter language (it has no escapes, but two kinds of quote)."""
    text = str(value)
    return f"'{text}'" if "'" not in text else f'"{text}"'
