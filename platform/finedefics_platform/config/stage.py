"""A stage: what feeds it, which terms it weighs, and how long and fast it learns."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from finedefics.terms import TERM_FEEDS
from finedefics_platform.config.section import Section

MINED, MODEL = "mined", "model"  # sources of hard negatives

Feed = Literal["labelled", "captioned", "text", "inferred"]
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


class TermSetting(Section):
    """The weight of one term of the objective and the feeds whose rows take part in it."""

    weight: float = Field(
        ge=0, description="Factor of the term in the sum that is minimised; 0 leaves it out."
    )
    feeds: tuple[Feed, ...] | None = Field(None, description="Default: every feed the term is defined on.")


Weight = Annotated[float, Field(ge=0)] | TermSetting  # how a term may be written


def _number_is_weight(value: Any) -> Any:
    return {"weight": value} if isinstance(value, int | float) else value


class Temperatures(Section):
    """Temperatures of the contrastive terms, clamped to [0.001, 0.5]."""

    object_attribute: float = Field(
        0.07,
        gt=0,
        description="Of object-attribute, category-category and object-category contrast; lower presses "
        "harder on the nearest wrong ones.",
    )
    attribute_category: float = Field(0.07, gt=0, description="Of attribute-category contrast.")
    learnable: bool = Field(False, description="Learn both, from these values on; otherwise they are fixed.")
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

    name: str = Field(
        pattern=r"^[a-z0-9_-]+$", description="What the stage is called in logs and MLflow; no two alike."
    )
    steps: int = Field(gt=0, description="Optimizer steps.")
    learning_rate: float = Field(
        5e-4,
        gt=0,
        description="Peak rate of AdamW. The default suits a tiny model; 2e-4 suits adapters of a large one, "
        "and whole weights a tenth of that.",
    )
    warmup_steps: int = Field(10, ge=0, description="Steps in which the rate rises from 0 to its peak.")
    final_learning_rate: float = Field(
        0.1, ge=0, le=1, description="Last rate as a share of the peak (linear)."
    )
    weight_decay: float = Field(0.01, ge=0, description="AdamW's, of all that is trained but temperatures.")
    gradient_clip: float = Field(
        1.0, gt=0, description="Largest norm of the whole gradient; a larger one is scaled down to it."
    )
    feeds: dict[Feed, Annotated[int, Field(gt=0)]] = Field(
        description="Rows of each feed in the global batch: `labelled` pictures, `captioned` ones without a "
        "label, `text` of categories, and `inferred`, pictures without a label that learn the name which "
        "`finedefics data label` inferred (as far as it is sure: data.inferred_probability)."
    )
    terms: dict[
        Term, Annotated[TermSetting, BeforeValidator(_number_is_weight, json_schema_input_type=Weight)]
    ] = Field(
        description="The objective: each term with its weight, or `{weight: 1, feeds: [labelled]}`. Text: "
        "`answer` (the name, given picture and question), `caption` (the description), `text` "
        "(sentences that tie name and description), `choice` (the letter of the right option). Contrast: "
        "`object_attribute` (picture and description), `attribute_category` (description and name), "
        "`category_category` (keeps sibling names apart), `object_category` (picture and name, without "
        "attributes as the bridge)."
    )
    temperatures: Temperatures = Field(
        Temperatures(), description="Of the contrastive terms; clamped to [0.001, 0.5]."
    )
    learn_prompt: bool = Field(
        False,
        description="Learn question and picture places beside the answer, as the method's release does; they "
        "are the same for every picture and many times as many as the answer's tokens.",
    )
    negatives: str = Field(
        MINED,
        min_length=1,
        description="Where hard negatives come from: `mined`, those of the dataset; `model`, mined anew by "
        "the model itself as the stage starts; or another version of the dataset (`birds@1a2b…`), whose "
        "pictures are the same and whose negatives were mined otherwise.",
    )

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
