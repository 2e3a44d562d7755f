"""Decoder blocks compiled each in its place: one program serves all of a kind, whatever the lengths.

Names of weights stay as they are, and so does what is saved. Compiled is what trains; where a model is asked
(`Backbone.padded`) blocks run as they were, as caches and short rows would make programs of their own.
"""

import importlib.util
import os
import shutil

from finedefics.backbones.base import Backbone
from finedefics.errors import FinedeficsError

INDUCTOR = "inductor"  # torch's own compiler; "aot_eager" and "eager" run the traced graph uncompiled


def compile_blocks(backbone: Backbone, backend: str = INDUCTOR) -> None:
    """Compile the language model's blocks at their first step.

    Args:
        backbone: its adapters, if any, in place.
        backend: of ``torch.compile``.
    """
    for block in backbone.part("text").layers:
        # dynamic: rows and widths differ from step to step, and each size would be compiled anew
        block.compile(backend=backend, dynamic=True)
    backbone.compiled = True


def check_compiler(device: str) -> None:
    """FinedeficsError where torch could not compile for a device: found before anything is loaded."""
    if device.startswith("cuda"):
        if importlib.util.find_spec("triton") is None:
            raise _missing("Triton is not installed", "pip install triton")
        if not any(map(shutil.which, [os.environ.get("CC") or "cc", "gcc", "clang"])):
            raise _missing("Triton finds no C compiler", "install gcc, or name one in CC")
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, OSError) as error:
        raise _missing("torch finds no C++ compiler", "install g++, or name one in CXX") from error


def _missing(thing: str, cure: str) -> FinedeficsError:
    return FinedeficsError(thing, place="compute.compile", cure=f"{cure}; or leave compute.compile out")
