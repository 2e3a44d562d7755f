"""The experiment: one typed, overridable document that says what is trained, on what, and how it is judged.

A YAML file is read into `Experiment`; unknown keys are refused; ``--set a.b=c`` overrides single values.
A stage names what feeds it and the weight of each objective term, so the paper's two stages, contrast kept
alive during instruction tuning, and the joint recipe are three files and no code.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from finedefics.conversation import Templates
from finedefics.errors import FinedeficsError, wrong_use
from finedefics.readout import DEFAULT, Readout
from finedefics.terms import TERM_FEEDS
from finedefics_platform.documents import fill, override_by_text, read_yaml

if TYPE_CHECKING:
    from finedefics.adapters import AdapterSettings

Feed = Literal["labelled", "captioned", "text"]
Sampler = Literal["shuffled", "confusable"]
Term = Literal[
    "answer",  # next-token loss of the category's name, given picture and question (instruction tuning)
    "caption",  # next-token loss of the description, given picture and request
    "text",  # next-token loss of sentences that tie a category's name and its description
    "choice",  # next-token loss of the right letter, given picture and hard options (multiple choice)
    "object_attribute",
    "attribute_category",
    "category_category",
    "object_category",  # the ablation "contrast without attributes"
]


Document = TypeVar("Document", bound=BaseModel)


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


_SAID = Templates()


class TemplateTexts(Section):
    """What the model is asked, in training and wherever it answers later; stored with it."""

    question: str = Field(_SAID.question, description="Asks for the category.")
    request: str = Field(_SAID.request, description="Asks for the attribute description.")
    statements: tuple[str, ...] = Field(
        _SAID.statements, description="Tie {name} and {description}; the last one ends with {name}."
    )
    choices: str = Field(_SAID.choices, description="A multiple choice with {question} and {options}.")
    begin_texts: bool = Field(
        _SAID.begin_texts, description="Embedded texts begin as the tokenizer begins every text."
    )

    @model_validator(mode="after")
    def _places_are_there(self) -> "TemplateTexts":
        self.as_templates()
        return self

    def as_templates(self) -> Templates:
        """As the method takes them."""
        return Templates(**dict(self))


class Data(Section):
    """Which dataset version feeds the run, and in what words."""

    dataset: str = Field(description="Name (`birds`), name and digest (`birds@1a2b…`) or path of a version.")
    negatives: int = Field(
        3, ge=0, le=64, description="Hard negatives a sample, a prefix of the mined ranking."
    )
    sampler: Sampler = Field(
        "shuffled",
        description="Order of rows: shuffled, or `confusable` batches of similar categories, where a row's "
        "hard negatives are other rows.",
    )
    templates: TemplateTexts = TemplateTexts()


class Model(Section):
    """The Hugging Face model that is tuned."""

    path: str = Field(description="Folder or hub name of any image-text-to-text model.")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Dtype of weights and activations.")
    train: tuple[Literal["text", "connector", "vision"], ...] = Field(
        ("text", "connector"), min_length=1, description="Parts whose weights are tuned; the rest is frozen."
    )
    object_readout: Readout = Field(
        DEFAULT,
        description="Where a picture is embedded: `eos`, a pass of its own; `prompt`, within the answer's.",
    )


class Adapters(Section):
    """Low-rank adapters; with them everything else is frozen, and `model.train` does not apply.

    They are merged into the weights at the end of each stage, and the next one starts with fresh ones; those
    beside weights in four bits are carried on to the end, for quantizing merged weights anew would add
    NF4's noise once more. What a run leaves is an ordinary model either way.
    """

    kind: Literal["full", "lora", "dora", "qlora"] = Field(
        "full",
        description="`full` tunes weights; `qlora` is LoRA beside weights in four bits.",
    )
    rank: int = Field(8, ge=1, description="Rank of the update.")
    alpha: float = Field(8.0, gt=0, description="The update is scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="On the adapters' input.")
    init: Literal["kaiming", "gaussian"] = Field(
        "kaiming", description="Of one factor; the other starts at zero."
    )
    targets: tuple[Literal["text", "projection", "resampler", "vision"], ...] = Field(
        ("text", "projection", "resampler"),
        min_length=1,
        description="Whose linear layers are adapted; a family without a resampler has none there.",
    )

    @model_validator(mode="after")
    def _adapters_are_asked_for(self) -> "Adapters":
        if twice := [name for name in self.targets if self.targets.count(name) > 1]:
            raise ValueError(f"adapters.targets names {twice[0]} twice; name it once")
        if self.kind == "full":
            # A stored experiment spells every default out, so with a kind it is the values that tell.
            asked = self.model_fields_set if "kind" not in self.model_fields_set else ()
            fields = type(self).model_fields
            if given := [n for n in fields if n in asked or getattr(self, n) != fields[n].default]:
                raise ValueError(
                    f"adapters.{given[0]} has no effect without adapters (adapters.kind full); "
                    "set adapters.kind to lora, dora or qlora, or leave it out"
                )
        return self

    def as_settings(self) -> "AdapterSettings":
        """As the method takes them."""
        from finedefics.adapters import AdapterSettings

        return AdapterSettings(**dict(self))

    def identity(self) -> str | None:
        """``lora r8 alpha8 on text, projection``; None without adapters."""
        if self.kind == "full":
            return None
        return f"{self.kind} r{self.rank} alpha{self.alpha:g} on {', '.join(self.targets)}"


class TermSetting(Section):
    """The weight of one term of the objective and the feeds whose rows take part in it."""

    weight: float = Field(ge=0)
    feeds: tuple[Feed, ...] | None = Field(None, description="Default: every feed the term is defined on.")


def _number_is_weight(value: Any) -> Any:
    return {"weight": value} if isinstance(value, int | float) else value


class Temperatures(Section):
    """Temperatures of the contrastive terms, clamped to [0.001, 0.5]."""

    object_attribute: float = Field(0.07, gt=0)
    attribute_category: float = Field(0.07, gt=0)
    learnable: bool = False
    learning_rate: float = Field(
        5e-3, gt=0, description="Peak rate of learnable ones, on the stage's schedule; they do not decay."
    )

    @model_validator(mode="after")
    def _a_rate_has_effect(self) -> "Temperatures":
        # by value: a stored experiment spells the default out
        usual = type(self).model_fields["learning_rate"].default
        if not self.learnable and self.learning_rate != usual:
            raise ValueError(
                "temperatures.learning_rate has no effect on fixed temperatures; set temperatures.learnable"
            )
        return self


class Stage(Section):
    """One stretch of training: an optimizer, a schedule, feeds and an objective of its own."""

    name: str = Field(pattern=r"^[a-z0-9_-]+$")
    steps: int = Field(gt=0, description="Optimizer steps.")
    learning_rate: float = Field(5e-4, gt=0)
    warmup_steps: int = Field(10, ge=0)
    final_learning_rate: float = Field(
        0.1, ge=0, le=1, description="Last rate as a share of the peak (linear)."
    )
    weight_decay: float = Field(0.01, ge=0)
    gradient_clip: float = Field(1.0, gt=0)
    feeds: dict[Feed, Annotated[int, Field(gt=0)]] = Field(
        description="Rows of each feed in the global batch."
    )
    terms: dict[Term, Annotated[TermSetting, BeforeValidator(_number_is_weight)]]
    temperatures: Temperatures = Temperatures()

    @model_validator(mode="after")
    def _terms_are_fed(self) -> "Stage":
        if not any(setting.weight > 0 for setting in self.terms.values()):
            raise ValueError("no term has a weight above 0, so nothing would be trained")
        for name, setting in self.terms.items():
            defined = TERM_FEEDS[name]
            if setting.feeds is not None and (wrong := set(setting.feeds) - set(defined)):
                raise ValueError(
                    f"term {name} is not defined on feed {sorted(wrong)[0]} (only on {', '.join(defined)})"
                )
            if setting.weight > 0 and not set(self.term_feeds(name)) & set(self.feeds):
                wanted = " or ".join(self.term_feeds(name))
                raise ValueError(f"term {name} needs the feed {wanted}, and the stage has none")
        return self

    def term_feeds(self, term: str) -> tuple[str, ...]:
        """Feeds whose rows take part in ``term``."""
        return self.terms[term].feeds or TERM_FEEDS[term]  # type: ignore[index]


class Resources(Section):
    """What the run asks of the cluster."""

    workers: int = Field(2, ge=1, description="Data-parallel training processes.")
    cpus_per_worker: float = Field(1, gt=0)
    gpus_per_worker: float = Field(0, ge=0)
    threads_per_worker: int = Field(1, ge=1, description="Torch threads of one worker on CPU.")
    max_failures: int = Field(2, ge=0, description="Lost workers survived before the run fails.")


class DeepSpeed(Section):
    """How DeepSpeed shards the run."""

    zero_stage: Literal[0, 1, 2, 3] = Field(1, description="1 shards optimizer state; 3 parameters as well.")
    micro_batch: int | None = Field(
        None, gt=0, description="Rows whose activations a worker holds at a time; default: all its rows."
    )


class Evaluation(Section):
    """How the run is judged, during training (cheap) and at its end."""

    split: Literal["val", "test"] = "test"
    answers: tuple[str, ...] = ("names", "alignment", "describe")
    seed: int = Field(0, description="Of the order in which a multiple choice shows its options.")
    options: int = Field(4, ge=2, description="Options of the multiple choice, the truth and hard ones.")
    every: int | None = Field(None, gt=0, description="Steps between checks on `val` during training.")
    limit: int | None = Field(None, gt=0, description="Use only so many pictures.")


class Tracking(Section):
    """Where runs are recorded; the server itself is named by MLFLOW_TRACKING_URI."""

    experiment: str = "finedefics"
    log_every: int = Field(1, ge=1, description="Steps between two recorded metrics.")
    checkpoint_every: int | None = Field(
        None, gt=0, description="Steps between checkpoints; default: stage ends."
    )


class Experiment(Section):
    """Everything that determines a training run."""

    name: str = Field(pattern=r"^[a-z0-9_.-]+$")
    seed: int = 0
    data: Data
    model: Model
    adapters: Adapters = Adapters()
    stages: tuple[Stage, ...] = Field(min_length=1)
    resources: Resources = Resources()
    deepspeed: DeepSpeed = DeepSpeed()
    evaluation: Evaluation = Evaluation()
    tracking: Tracking = Tracking()

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
    def _tuned_parts_have_effect(self) -> "Experiment":
        # by value: a stored experiment spells the default out
        tuned, usual = set(self.model.train), set(Model.model_fields["train"].default)
        if self.adapters.kind != "full" and tuned != usual:
            raise ValueError(
                f"model.train has no effect with adapters (adapters.kind {self.adapters.kind}); "
                "leave it out, and say in adapters.targets what is adapted"
            )
        return self

    def digest(self) -> str:
        """Twelve hex digits that change with any value that can change the trained weights."""
        left_out = {"name", "tracking", "evaluation"}
        if self.adapters.kind == "full":
            left_out.add("adapters")  # there are none
        determining = self.model_dump(mode="json", exclude=left_out)
        return digest_of(determining)


def digest_of(value: Any) -> str:
    """Twelve hex digits of a JSON-able value, independent of key order."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


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


def parse_document(kind: type[Document], document: Mapping[str, Any], *, place: str) -> Document:
    """Validate a mapping as a document of a kind; FinedeficsError (exit code 2) names the first wrong key."""
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise _explain(error, place, kind) from error


def _explain(error: ValidationError, place: str, kind: type[BaseModel]) -> FinedeficsError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "the document"
    if first["type"] == "extra_forbidden":
        return wrong_use(
            f"unknown key `{key}`", place=place, cure=f"use one of: {_known_keys(first['loc'], kind)}"
        )
    if first["type"] == "missing":
        return wrong_use(f"`{key}` is missing", place=place, cure="add it")
    reason = first["msg"].removeprefix("Value error, ").lower()
    return wrong_use(f"`{key}` is wrong: {reason}", place=place, cure="correct the value")


def _known_keys(location: tuple[int | str, ...], kind: type[BaseModel]) -> str:
    schema = kind.model_json_schema()
    definitions, node = schema.get("$defs", {}), schema
    for part in location[:-1]:
        node = node["items"] if isinstance(part, int) else node.get("properties", {}).get(part, {})
        if isinstance(node.get("additionalProperties"), dict):
            node = {"properties": dict.fromkeys(TERM_FEEDS, node["additionalProperties"])}
        if "$ref" in node:
            node = definitions[node["$ref"].rsplit("/", 1)[-1]]
    return ", ".join(node.get("properties", {})) or "the documented keys"
