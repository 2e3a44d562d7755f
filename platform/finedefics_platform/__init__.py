"""The platform: the method on Ray, DeepSpeed and MLflow, from a laptop to a cluster.

What a script needs is imported from here (`finedefics_platform.api` says what each does); a name is looked up
when it is used first, so that importing the package costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finedefics_platform.api import (
        Evaluation,
        FinedeficsError,
        Named,
        add_category,
        describe,
        evaluate,
        ingest,
        load_experiment,
        mine,
        open_dataset,
        open_workspace,
        predict,
        prepare,
        train,
        tune,
    )

__all__ = [
    "Evaluation",
    "FinedeficsError",
    "Named",
    "add_category",
    "describe",
    "evaluate",
    "ingest",
    "load_experiment",
    "mine",
    "open_dataset",
    "open_workspace",
    "predict",
    "prepare",
    "train",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("finedefics_platform.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
