"""The experiment: one typed, overridable document that says what is trained, on what, and how it is judged.

A YAML file is read into `Experiment`; unknown keys are refused; ``--set a.b=c`` overrides single values.
A stage names what feeds it and the weight of each objective term, so the paper's two stages, contrast kept
alive during instruction tuning, and the joint recipe are three files and no code.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from finedefics_platform.base.digest import digest_of
from finedefics_platform.config.compute import Compute
from finedefics_platform.config.data import Data
from finedefics_platform.config.deepspeed import DeepSpeed
from finedefics_platform.config.documents import fill, override_by_text, read_yaml
from finedefics_platform.config.model import Adapters, Model
from finedefics_platform.config.section import Section, parse_document
from finedefics_platform.config.stage import MINED, Stage


class Resources(Section):
    """What the run asks of the cluster."""

    workers: int = Field(
        2,
        ge=0,
        description="Data-parallel training processes. 0: a single one without Ray Train, which starts in "
        "seconds, saves no checkpoints and is not replaced when it is lost; for tiny models and studies.",
    )
    cpus_per_worker: float = Field(
        1,
        gt=0,
        description="Cores of one worker. Each that its own threads leave has a process that decodes, "
        "tokenises and packs batches ahead of the step; with one core, threads of the worker do.",
    )
    gpus_per_worker: float = Field(
        0, ge=0, description="GPUs of one worker: 0 trains on CPUs, 1 is usual; a part shares a card."
    )
    threads_per_worker: int = Field(1, ge=1, description="Torch threads of one worker on CPU.")
    max_failures: int = Field(2, ge=0, description="Lost workers survived before the run fails.")

    @property
    def processes(self) -> int:
        """How many train, by whomever they are started."""
        return max(1, self.workers)


class Evaluation(Section):
    """How the run is judged, during training (cheap) and at its end."""

    split: Literal["val", "test"] = Field(
        "test", description="Which held-out pictures are answered; training and mining read neither."
    )
    answers: tuple[str, ...] = Field(
        ("names", "alignment", "describe"),
        description="Ways of asking: `names` (likelihood of every name), `alignment` (similarity to the "
        "category index, one pass), `describe` (write a description, name it from that), `letters` and their "
        "kin (multiple choice); `finedefics evaluate --help` lists all.",
    )
    calibration: Literal["auto", "on", "off"] = Field(
        "auto", description="Of the alignment answers against hubs; auto: on where it is better on `val`."
    )
    seed: int = Field(
        0,
        description="Draws the order in which options are shown, and the pictures to calibrate on.",
    )
    options: int = Field(4, ge=2, description="Options of the multiple choice, the truth and hard ones.")
    rotations: Literal["all"] | Annotated[int, Field(ge=2)] | None = Field(
        None,
        exclude_if=lambda rotations: rotations is None,
        description="Orders in which the options of every question are shown, each turned by one, to see how "
        "a choice depends on its place; all: as many as there are options.",
    )
    unknown: Literal["auto", "on", "off"] = Field(
        "auto",
        exclude_if=lambda unknown: unknown == "auto",
        description="Thresholds below which a picture shows something unknown, chosen on `val`. auto: of the "
        "answers that read the object's embedding, which costs one pass; on: of all, which are asked there.",
    )
    every: int | None = Field(None, gt=0, description="Steps between checks on `val` during training.")
    limit: int | None = Field(None, gt=0, description="Use only so many pictures.")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None,
        exclude_if=lambda dtype: dtype is None,
        description="Of the model when it is judged at its end; default: what it was trained in.",
    )
    micro_tokens: int | None = Field(
        None,
        gt=0,
        exclude_if=lambda tokens: tokens is None,
        description="Most tokens that answering holds at a time, and patches of pictures in the vision tower "
        "(memory and speed only); default: 65,536, or what a card has room for.",
    )

    @field_validator(
        "calibration",
        "unknown",
        mode="before",
        json_schema_input_type=Literal["auto", "on", "off"] | bool,
    )
    @classmethod
    def _a_switch_in_yaml_is_a_truth_value(cls, value: Any) -> Any:
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class Tracking(Section):
    """Where runs are recorded; the server itself is named by MLFLOW_TRACKING_URI."""

    experiment: str = Field("finedefics", description="MLflow experiment that the runs are recorded under.")
    log_every: int = Field(1, ge=1, description="Steps between two recorded metrics.")
    checkpoint_every: int | None = Field(
        None, gt=0, description="Steps between checkpoints; default: stage ends."
    )


class Experiment(Section):
    """Everything that determines a training run."""

    name: str = Field(
        pattern=r"^[a-z0-9_.-]+$",
        description="Begins the run's key (`<name>-<digest>`): lower case letters, digits, `_`, `.` and `-`.",
    )
    seed: int = Field(
        0,
        description="Draws the order of rows, adapters' first weights and dropout: another one, another run.",
    )
    data: Data = Field(description="What feeds the run, and in what words the model is asked.")
    model: Model = Field(description="The model that is tuned.")
    adapters: Adapters = Field(Adapters(), description="Low-rank adapters in place of whole weights.")
    stages: tuple[Stage, ...] = Field(
        min_length=1,
        description="One after the other, each from the weights of the one before, with its own optimizer.",
    )
    resources: Resources = Field(Resources(), description="What the run asks of the cluster.")
    deepspeed: DeepSpeed = Field(DeepSpeed(), description="How DeepSpeed shards the run.")
    compute: Compute = Field(Compute(), description="Memory and time of a step; nothing of what is learned.")
    evaluation: Evaluation = Field(Evaluation(), description="How the run is judged while it trains.")
    tracking: Tracking = Field(Tracking(), description="What is recorded, and how often.")

    @model_validator(mode="after")
    def _stage_names_differ(self) -> "Experiment":
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError("two stages have the same name")
        return self

    @model_validator(mode="after")
    def _weights_can_be_sharded(self) -> "Experiment":
        if self.adapters.kind == "qlora" and self.deepspeed.zero_stage == 3:
            raise ValueError("zero_stage 3 cannot shard weights in four bits (adapters.kind qlora)")
        return self

    @model_validator(mode="after")
    def _attention_has_a_backward_pass(self) -> "Experiment":
        kernel = self.model.attention
        if kernel not in ("flex_attention", "flash_attention_2"):
            return self
        if not self.resources.gpus_per_worker:
            raise ValueError(
                f"model.attention {kernel} trains on GPUs only, and resources.gpus_per_worker is 0; "
                "set it to 1, or model.attention to sdpa"
            )
        if kernel == "flash_attention_2" and self.model.dtype == "float32":
            raise ValueError(
                "model.attention flash_attention_2 computes in half precision, and model.dtype is float32; "
                "set it to bfloat16, or model.attention to flex_attention"
            )
        return self

    @model_validator(mode="after")
    def _kept_features_stay_true(self) -> "Experiment":
        if not self.compute.cache_vision:
            return self
        full = self.adapters.kind == "full"
        key, trained = (
            ("model.train", self.model.train) if full else ("adapters.targets", self.adapters.targets)
        )
        if others := [part for part in trained if part != "text"]:
            raise ValueError(
                f"compute.cache_vision keeps what a frozen tower and connector make of a picture, and {key} "
                f"trains {', '.join(others)}; set {key} to [text], or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _shards_are_called_alike(self) -> "Experiment":
        if self.deepspeed.zero_stage != 3:
            return self
        if self.compute.cache_vision:
            raise ValueError(
                "zero_stage 3 gathers the tower's weights at every call, and compute.cache_vision lets "
                "ranks call it unequally often; use zero_stage 2, or leave it out"
            )
        if self.compute.compile:
            raise ValueError(
                "zero_stage 3 gathers weights within a block, so compute.compile cannot compile it as one; "
                "use zero_stage 2, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _tuned_parts_have_effect(self) -> "Experiment":
        # by value: a stored experiment spells the default out
        tuned, usual = set(self.model.train), set(Model.model_fields["train"].default)
        if self.adapters.kind != "full" and tuned != usual:
            raise ValueError(
                f"model.train has no effect with adapters (adapters.kind {self.adapters.kind}); "
                "leave it out, and say in adapters.targets what is adapted"
            )
        return self

    @model_validator(mode="after")
    def _checkpoints_are_saved(self) -> "Experiment":
        if self.tracking.checkpoint_every is not None and not self.resources.workers:
            raise ValueError(
                "checkpoints are Ray Train's (tracking.checkpoint_every), and resources.workers 0 trains "
                "without it; leave one of them out"
            )
        return self

    def has_feed(self, feed: str) -> bool:
        """Whether any stage takes rows of this feed."""
        return any(feed in stage.feeds for stage in self.stages)

    def digest(self) -> str:
        """Twelve hex digits that change with any setting that can change the trained weights.

        The data and the model count by content, which a setting does not tell: `training.identity` adds it.
        Where, on how much and by which kernels a run is done is no part of what it is.
        """
        left_out: dict[str, Any] = dict.fromkeys(
            ("name", "resources", "deepspeed", "compute", "evaluation", "tracking"), True
        )
        left_out |= {"data": {"dataset"}, "model": {"path", "revision", "attention"}}
        if self.adapters.kind == "full":
            left_out["adapters"] = True  # there are none
        document = self.model_dump(mode="json", exclude=left_out)
        for stage in document["stages"]:
            if stage["negatives"] == MINED:  # the dataset's, whose content counts by itself
                del stage["negatives"]
            if not stage["learn_prompt"]:  # an answer is learned alone, as it was before there was a choice
                del stage["learn_prompt"]
        if not self.model.processor:  # the checkpoint's own, as if there were no such key
            del document["model"]["processor"]
        if not self.has_feed("inferred"):  # nobody asks how probable an inferred label is
            del document["data"]["inferred_probability"]
        return digest_of(document)


def load_experiment(
    path: str | Path, overrides: Iterable[str] = (), defaults: Mapping[str, Any] | None = None
) -> Experiment:
    """Read an experiment file.

    Args:
        path: a YAML file.
        overrides: ``a.b=c`` assignments; the value is read as YAML, list items are addressed by position
            (``stages.0.steps=10``).
        defaults: dotted keys filled in only where the file is silent (the CLI's workspace conventions).

    Raises:
        FinedeficsError: the file is missing or unreadable, or a key or value is wrong (exit code 2).
    """
    document = read_yaml(path, "experiment")
    fill(document, defaults or {}, place=str(path))
    for assignment in overrides:
        override_by_text(document, assignment)
    return parse_experiment(document, place=str(path))


def parse_experiment(document: Mapping[str, Any], *, place: str) -> Experiment:
    """Validate a mapping; FinedeficsError (exit code 2) names the first wrong key."""
    return parse_document(Experiment, document, place=place)
