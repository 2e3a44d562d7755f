"""Imports of a command that asks a model once and ends: without what is there for training and compiling.

While transformers' modelling code is imported, it marks a method of a cache for paged attention as one not to
be compiled, for which torch imports its compiler, and takes scipy's optimisers for the losses of detection
models. No answer needs either, and together they are a fifth of the seconds of `finedefics predict FOLDER
one.jpg` (benchmark ``predict_one_seconds``).
"""

import sys
from collections.abc import Callable
from typing import Any


def import_transformers_lean() -> None:
    """Import transformers' modelling code; does nothing where it is there already."""
    if "transformers.modeling_utils" in sys.modules:
        return
    import torch
    import transformers.utils

    marks, has_scipy = torch.compiler.disable, transformers.utils.is_scipy_available
    torch.compiler.disable = _unmarked
    transformers.utils.is_scipy_available = lambda: False
    try:
        import transformers.modeling_utils
    finally:
        torch.compiler.disable, transformers.utils.is_scipy_available = marks, has_scipy


def _unmarked(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """In the place of `torch.compiler.disable`, with and without its options: nothing is compiled here."""
    return function if function is not None else lambda own: own
