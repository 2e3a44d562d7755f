"""The next command that works: found by looking at what a dataset has, and never promised blindly."""

from typing import TYPE_CHECKING

from finedefics.errors import FinedeficsError

if TYPE_CHECKING:
    from finedefics_platform.data.store import Dataset


def after_ingest(dataset: "Dataset") -> str:
    """Describe, where somebody has something to say without a model; else as after describing."""
    from finedefics_platform.data.describing import best_describer

    try:
        best_describer(dataset)
    except FinedeficsError:
        return after_describe(dataset)
    return f"finedefics data describe {dataset.name}"


def after_describe(dataset: "Dataset") -> str:
    """Mine, where something can be compared; else as after mining."""
    from finedefics_platform.data.mining import choose

    try:
        choose(dataset)
    except FinedeficsError:
        return after_mine(dataset)
    return f"finedefics data mine {dataset.name}"


def after_mine(dataset: "Dataset") -> str:
    """A first experiment, where something can be learned; else what has to be known first."""
    from finedefics_platform.training.starter import Facts

    facts = Facts.of(dataset)
    if facts.labelled or facts.captioned or facts.inferred:
        return f"finedefics init {dataset.name}"
    return f"finedefics data describe {dataset.name} --describer openai:MODEL"
