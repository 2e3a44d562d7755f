"""What feeds a run, and in what words the model is asked."""

from typing import Literal

from pydantic import Field, model_validator

from finedefics.conversation import Templates
from finedefics_platform.config.section import Section

Sampler = Literal["shuffled", "confusable"]

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
    inferred_probability: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Least probability of an inferred label that the feed `inferred` takes; default: the "
        "threshold of the dataset's labels, at which they had the precision that was wanted.",
    )
    templates: TemplateTexts = Field(
        TemplateTexts(), description="What the model is asked, in training and later; stored with it."
    )
