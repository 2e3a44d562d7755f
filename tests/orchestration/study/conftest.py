"""Study documents of small worlds."""

from typing import Any

STAGE = {"name": "a", "steps": 2, "feeds": {"labelled": 2}, "terms": {"answer": 1}, "warmup_steps": 1}
EXPERIMENT: dict[str, Any] = {"name": "one", "stages": [STAGE], "resources": {"workers": 1}}
BASE = {"birds": 40, "vision_steps": 1, "language_steps": 1}
SMALL = {"families": 2, "labelled": 2, "captioned": 2, "val": 1, "test": 2, "base": BASE}


def document_of(**changes: Any) -> dict[str, Any]:
    """Two arms over two worlds: the base, and one that is trained on the truth."""
    return {
        "name": "small",
        "worlds": {"seeds": [0, 1], "settings": SMALL},
        "experiment": "one.yaml",
        "evaluation": {"answers": ["names"]},
        "arms": {"base": {"train": False}, "oracle": {"labels": "truth"}},
        "comparisons": [{"arm": "oracle", "against": "base", "metric": "new/names"}],
        **changes,
    }
