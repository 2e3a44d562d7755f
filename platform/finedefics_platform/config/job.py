"""The job: what runs on a cluster, with what, and how long; a document of its own beside the experiment."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from finedefics.errors import FinedeficsError
from finedefics_platform.base.secrets import is_secret, without_secrets
from finedefics_platform.base.storage import Location
from finedefics_platform.config.documents import override_by_text, read_yaml
from finedefics_platform.config.section import Section, parse_document

Kind = Literal[
    "train", "tune", "evaluate", "ingest", "describe", "mine", "prepare", "label", "promote", "study"
]
COMMANDS: dict[str, tuple[str, ...]] = {
    "train": ("train",),
    "tune": ("tune",),
    "study": ("study", "run"),
    "evaluate": ("evaluate",),
    "ingest": ("data", "ingest"),
    "describe": ("data", "describe"),
    "mine": ("data", "mine"),
    "prepare": ("data", "prepare"),
    "label": ("data", "label"),
    "promote": ("models", "promote"),
}
_OF_A_DOCUMENT = ("train", "tune", "study")
SUBMITTER, CLUSTER, KUBERNETES = "submitter", "cluster", "kubernetes:"
_VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
# What the submission itself sets, by keys of its own.
_OWN = {
    "FINEDEFICS_HOME": "storage",
    "MLFLOW_TRACKING_URI": "tracking",
    "RAY_ADDRESS": "--cluster",
    "RAY_JOB_STOP_SIGNAL": "stop_grace",
    "RAY_JOB_STOP_WAIT_TIME_S": "stop_grace",
}
_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
Measure = int | float | str  # a number, or a text with a unit
_BYTES = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


class Entrypoint(Section):
    """What the job's own process asks of the node it runs on; workers ask by the experiment's `resources`."""

    cpus: float = Field(
        1, ge=0, description="Above 0 it runs wherever there is room, and not on a head without resources."
    )
    gpus: float = Field(0, ge=0, description="GPUs of that process itself; the workers ask for theirs.")
    memory: int = Field(0, ge=0, description="Bytes, or a text such as 4GiB.")
    custom: dict[str, float] = Field({}, description="Resources that the cluster's nodes were given by name.")

    @field_validator("memory", mode="before", json_schema_input_type=Measure)
    @classmethod
    def _with_a_unit(cls, value: Any) -> Any:
        return _measured(value, _BYTES, "4GiB") if isinstance(value, str) else value


class Job(Section):
    """What runs on a cluster. Secrets are named here and never written."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_.-]*$",
        max_length=60,
        description="Begins the job's id; the same job under the same name is not run twice.",
    )
    job: Kind = Field(description="Which command is run: `train` is `finedefics train`, and so on.")
    document: str | None = Field(
        None, description="Experiment (train), search (tune) or study file, relative to this file."
    )
    arguments: tuple[str, ...] = Field((), description="What else the command takes, one item an argument.")
    entrypoint: Entrypoint = Field(
        Entrypoint(), description="What the command's own process asks for, beside its workers."
    )
    environment: dict[str, str] = Field({}, description="Plain variables of the job and of its workers.")
    secrets: dict[str, str] = Field(
        {},
        description="Variables that are secret, and where each comes from: `submitter` (the variable of this "
        "name where the job is submitted), `cluster` (set on every node already), or "
        "`kubernetes:SECRET/KEY`, which the cluster's manifests set on every node.",
    )
    storage: str | None = Field(
        None, description="The workspace as the cluster sees it; default: the submitter's FINEDEFICS_HOME."
    )
    tracking: str | None = Field(
        None, description="Tracking server as the cluster sees it; default: the submitter's own."
    )
    include: tuple[str, ...] = Field(
        (), description="Further files and folders that travel with the job; `.rayignore` is honoured."
    )
    retries: int = Field(0, ge=0, description="Times the command is started again after it failed.")
    deadline: float | None = Field(
        None, gt=0, description="Longest an attempt may take: seconds, or 90min, 12h, 2d."
    )
    stop_grace: float = Field(
        120, ge=0, description="How long the command may take to end in order before it is killed."
    )

    @field_validator("stop_grace", mode="before", json_schema_input_type=Measure)
    @classmethod
    def _grace_with_a_unit(cls, value: Any) -> Any:
        return _with_unit(value)

    @field_validator("deadline", mode="before", json_schema_input_type=Measure | None)
    @classmethod
    def _with_a_unit(cls, value: Any) -> Any:
        return _with_unit(value)

    @field_validator("environment", mode="before", json_schema_input_type=dict[str, str | float])
    @classmethod
    def _as_yaml_reads_numbers(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: str(v) if isinstance(v, int | float) and v is not True else v for k, v in value.items()}

    @field_validator("arguments", mode="before", json_schema_input_type=list[str | float])
    @classmethod
    def _numbers_are_arguments(cls, value: Any) -> Any:
        return (
            [str(v) if isinstance(v, int | float) else v for v in value] if isinstance(value, list) else value
        )

    @field_validator("environment")
    @classmethod
    def _holds_no_secret(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            _check_name(name)
            if name in _OWN:
                raise ValueError(f"{name} is set by `{_OWN[name]}`; leave it out here")
            if is_secret(name, text) or without_secrets(text) != text:
                raise ValueError(
                    f"{name} looks like a secret, and what is written here is read by many; write "
                    f"`secrets: {{{name}: submitter}}` (or `cluster`) and set the variable there"
                )
        return value

    @field_validator("secrets")
    @classmethod
    def _by_reference(cls, value: dict[str, str]) -> dict[str, str]:
        for name, source in value.items():
            _check_name(name)
            of_kubernetes = source.startswith(KUBERNETES) and source.count("/") == 1
            if source not in (SUBMITTER, CLUSTER) and not of_kubernetes:
                raise ValueError(
                    f"{name} has to say where the secret is, not what it is: `{SUBMITTER}`, `{CLUSTER}` or "
                    f"`{KUBERNETES}SECRET/KEY`"
                )
        return value

    @model_validator(mode="after")
    def _no_secret_elsewhere(self) -> "Job":
        told = (*self.arguments, *self.include, self.document, self.storage, self.tracking)
        for text in told:
            if text is not None and without_secrets(text) != text:
                raise ValueError(
                    f"{without_secrets(text)!r} holds a secret; name it under `secrets`, and let the program "
                    "take it from its variable (MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD)"
                )
        return self

    @model_validator(mode="after")
    def _document_where_there_is_one(self) -> "Job":
        if self.job in _OF_A_DOCUMENT and self.document is None and "--resume" not in self.arguments:
            raise ValueError(f"job {self.job} needs `document`, its file")
        if self.job not in _OF_A_DOCUMENT and self.document is not None:
            raise ValueError(f"job {self.job} takes no `document`; say all in `arguments`")
        return self

    @model_validator(mode="after")
    def _named_once(self) -> "Job":
        if both := sorted(self.environment.keys() & self.secrets.keys()):
            raise ValueError(f"{both[0]} is in `environment` and in `secrets`; leave one out")
        return self

    @property
    def command(self) -> tuple[str, ...]:
        """What follows `finedefics` on the command line."""
        document = () if self.document is None else (self.document,)
        return (*COMMANDS[self.job], *document, *self.arguments)


def load_job(path: str | Path, overrides: Iterable[str] = ()) -> Job:
    """Read a job file; FinedeficsError (exit code 2) names what is wrong with it.

    Args:
        overrides: ``a.b=c`` assignments.
    """
    document = read_yaml(path, "job")
    for assignment in overrides:
        override_by_text(document, assignment)
    job = parse_document(Job, document, place=str(path))
    if job.storage is not None:
        try:
            Location.of(job.storage)
        except FinedeficsError as error:
            raise FinedeficsError(
                error.thing, place=f"{path}: storage", cure=error.cure, exit_code=2
            ) from None
    return job


def _check_name(name: str) -> None:
    if not _VARIABLE.match(name):
        raise ValueError(f"{name!r} is no name of a variable")


def _with_unit(value: Any) -> Any:
    return _measured(value, _UNITS, "90min") if isinstance(value, str) else value


def _measured(text: str, units: dict[str, int], example: str) -> float | int:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if found is None or (found[2] not in units and found[2] != ""):
        raise ValueError(f"{text!r} is none; write a number, with a unit ({example}) or without")
    value = float(found[1]) * units.get(found[2], 1)
    return int(value) if value.is_integer() else value
