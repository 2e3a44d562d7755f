"""The model card of a registered version: what it is, what it showed, how to load it, what it cannot do.

Markdown with the front matter that the Hugging Face Hub reads. Pure but for what is handed in.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from finedefics_platform.models.evidence import Evidence, evidence_of
from finedefics_platform.models.registry import ModelVersion
from finedefics_platform.tracking.notes import figure_rows, figure_table, table

UNKNOWN = "unknown: fill in"
_HUB = r"[\w.-]+(/[\w.-]+)?@[0-9a-f]{7,40}"  # a hub name and a commit, as a run names such a base model


def card(
    version: ModelVersion,
    training: Mapping[str, Any],
    *,
    categories: Sequence[str] = (),
    licence: str | None = None,
    folder: str = "FOLDER",
) -> str:
    """A version's card.

    Args:
        training: what the version was trained on and from, as its package keeps it (``training.json``).
        categories: names of those it can name; empty where it has no index.
        licence: the identifier (``apache-2.0``); None leaves it to be filled in.
        folder: where it lies, for the lines that load it.
    """
    shown = evidence_of(version)
    parts = [
        _front(version, training, shown, licence),
        f"# {version.name}, version {version.version}\n",
        _what(version, training, categories),
        _figures(shown),
        _made(version, training),
        _load(folder, bool(categories)),
        _limits(shown, training, categories),
        f"## Licence\n\n{licence or UNKNOWN}. Base model and pictures have licences of their own.\n",
    ]
    return "\n".join(parts)


def _front(
    version: ModelVersion, training: Mapping[str, Any], shown: Sequence[Evidence], licence: str | None
) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    base = training["base"].partition("@")[0] if re.fullmatch(_HUB, training["base"]) else None
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=one.ground.dataset.partition("@")[0],
            dataset_name=f"{one.ground.dataset.partition('@')[0]} {one.ground.split}",
            dataset_split=one.ground.split,
            dataset_revision=one.ground.digest,
            metric_type="accuracy",
            metric_name=f"accuracy, {row['answer']}, {row['categories']} categories",
            metric_value=round(row["accuracy"], 6),
        )
        for one in shown
        for row in figure_rows("", one.figures)
    ]
    data = ModelCardData(
        license=licence or "unknown",
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        base_model=base,
        tags=["fine-grained-recognition", "finedefics"],
        model_name=version.name if results else None,
        eval_results=results or None,
    )
    text = data.to_yaml()
    if licence is None:
        text = text.replace("license: unknown", f"license: unknown  # {UNKNOWN}", 1)
    return f"---\n{text}\n---\n"


def _what(version: ModelVersion, training: Mapping[str, Any], categories: Sequence[str]) -> str:
    few = ", ".join(categories[:8]) + (", …" if len(categories) > 8 else "")
    names = f" It names {len(categories)} categories ({few})." if categories else ""
    return (
        "A multimodal language model tuned to tell similar categories apart: attribute descriptions are the "
        f"bridge between what a picture shows and what a category is called.{names} "
        f"It is `{version.reference}` of the registry, made by the run `{training['run']}`.\n"
    )


def _figures(shown: Sequence[Evidence]) -> str:
    lines = ["## Figures\n"]
    for one in shown:
        asked = f"at most {one.limit} pictures" if one.limit else "every picture"
        lines.append(f"On `{one.ground.dataset}`, split {one.ground.split}, {asked}:\n")
        lines.append(figure_table(figure_rows(one.ground.dataset.partition("@")[0], one.figures)))
        among = [answer for answer, scope in one.scopes.items() if scope != "all"]
        if among:
            lines.append(
                f"Among {one.ground.options} options: {', '.join(among)}; else among all categories.\n"
            )
    lines.append(
        '"labelled" are categories with a labelled training picture, "new" those known from a text or '
        "captioned pictures only. Intervals are Wilson's, over pictures.\n"
    )
    return "\n".join(lines)


def _made(version: ModelVersion, training: Mapping[str, Any]) -> str:
    facts = {
        "data": training["dataset"],
        "categories with labels": len(training["labelled"]),
        "base model": training["base"],
        "adapters": training["adapter"] or "none, all weights named in the recipe",
        "seed": training.get("seed", "not recorded"),
        "code": version.tags.get("code", "not recorded"),
        "configuration": training["config_digest"],
        "model digest": version.tags["model_digest"],
    }
    text = "## Data and recipe\n\n" + "".join(f"- {what}: `{value}`\n" for what, value in facts.items())
    stages = [
        (
            one["name"],
            one["steps"],
            f"{one['learning_rate']:g}",
            ", ".join(f"{rows} {feed}" for feed, rows in one["feeds"].items()),
            ", ".join(f"{term} {setting['weight']:g}" for term, setting in one["terms"].items()),
        )
        for one in training.get("stages", ())
    ]
    heads = ("stage", "steps", "learning rate", "feeds", "terms and weights")
    return f"{text}\n{table(heads, stages)}" if stages else text


def _load(folder: str, named: bool) -> str:
    command = f"```\nfinedefics predict {folder} PICTURE.jpg\n```"
    predict = f"\nWith Finedefics, which has the category index (`index/`):\n\n{command}\n"
    return f"""## How to load it

```python
from transformers import AutoModelForImageTextToText, AutoProcessor

processor = AutoProcessor.from_pretrained("{folder}")
model = AutoModelForImageTextToText.from_pretrained("{folder}")
```
{predict if named else ""}"""


def _limits(shown: Sequence[Evidence], training: Mapping[str, Any], categories: Sequence[str]) -> str:
    lines = ["## Limits\n"]
    if categories and len(categories) > len(training["labelled"]):
        known = len(categories) - len(training["labelled"])
        lines.append(
            f"- {known} of its categories had no label in training: read the figures of `new` for them."
        )
    lines.append(
        "- It names the nearest of its categories for any picture. *Unknown* is said only where a threshold "
        "is asked for, which is chosen on validation pictures: it means that no category's score is high "
        "enough, not that the picture shows nothing known."
    )
    lines.append(
        "- Figures hold for pictures like those they were measured on; light, region and camera matter."
    )
    for one in shown:
        where = f"`{one.ground.dataset}` {one.ground.split}"
        if one.leaks is None:
            lines.append(f"- Whether test pictures of {where} were training pictures was not looked for.")
        elif one.leaks["pictures"]:
            counts = f"{one.leaks['pictures']} of {one.leaks['of']}"
            lines.append(f"- {counts} test pictures of {where} are training pictures: its figures flatter.")
        for answer, share in (one.unparseable or {}).items():
            if share:
                lines.append(f"- {100 * share:.1f} % of the replies of {answer} on {where} named nothing.")
    return "\n".join(lines) + "\n"
