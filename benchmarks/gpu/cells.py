"""The table's cells: what is measured at which settings, and either its figures or why there are none."""

import gc
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

MODELS = ("idefics2", "qwen2_5_vl")
EDGES = (448, 672, 980)  # multiples of both models' patches
TINY_EDGES = (64, 96)
ATTENTION = ("sdpa", "flex_attention", "flash_attention_2", "eager")
LEFT = 0.5  # GiB on the card before a cell that do not matter
ANSWERS = ("alignment", "names", "describe")


@dataclass(frozen=True)
class Cell:
    """Settings of one measurement.

    Attributes:
        edge: of the pictures, in pixels.
        tuning: ``lora``, ``qlora`` or ``full`` (whole weights of language model and connector).
        attention: of the language model.
        checkpointing: the language model's layers are computed again in the backward pass.
        zero: DeepSpeed's ZeRO stage on one process; 0 is torch alone.
        schedule: ``packed`` (ours) or ``released`` (six padded passes).
        answer: measure this answer, in pictures a second, and no training.
    """

    model: str
    edge: int
    tuning: str = "lora"
    attention: str = "sdpa"
    checkpointing: bool = False
    zero: int = 0
    schedule: str = "packed"
    answer: str | None = None


def table(edges: Iterable[int] = EDGES) -> list[Cell]:
    """Every cell: for each model one setting, what differs from it on one axis at a time, and whole weights
    and shards where they go together."""
    smallest, *larger = edges
    cells: list[Cell] = []
    for model in MODELS:
        base = Cell(model, smallest)
        checked = replace(base, checkpointing=True)
        cells += [base, replace(base, schedule="released"), checked]
        cells += [replace(each, edge=edge) for edge in larger for each in (base, checked)]
        cells += [replace(base, attention=each) for each in ATTENTION[1:]]
        cells += [replace(each, tuning=tuning) for tuning in ("qlora", "full") for each in (base, checked)]
        cells += [
            replace(checked, tuning=tuning, zero=zero) for tuning in ("lora", "full") for zero in (2, 3)
        ]
        cells += [replace(base, answer=answer) for answer in ANSWERS]
    # a process group stays once it is there; without shards nothing shall be measured within one
    return sorted(cells, key=lambda cell: cell.zero > 0)


def chosen(cells: Iterable[Cell], only: Iterable[str]) -> list[Cell]:
    """The cells whose settings are those given as ``key=value``; values of one key are alternatives.

    Raises:
        ValueError: there is no such key, or no cell is left.
    """
    wanted: dict[str, set[str]] = {}
    for each in only:
        key, _, value = each.partition("=")
        if key not in Cell.__dataclass_fields__:
            raise ValueError(f"no setting {key!r}; use one of {', '.join(Cell.__dataclass_fields__)}")
        wanted.setdefault(key, set()).add(value.lower())
    left = [
        cell
        for cell in cells
        if all(str(getattr(cell, key)).lower() in values for key, values in wanted.items())
    ]
    if not left:
        raise ValueError(f"no cell has {' '.join(only)}")
    return left


def taken(cells: Iterable[Cell], measure: Callable[[Cell], dict[str, Any]]) -> list[dict[str, Any]]:
    """Each cell with ``measured``, its figures, or with ``reason``, why there are none; never with both.

    A run that is interrupted keeps what it has: the cells that it did not come to say so.
    """
    rows: list[dict[str, Any]] = []
    interrupted = False
    for cell in cells:
        found: dict[str, Any] = {"reason": "interrupted"}
        if not interrupted:
            print(f"{cell}", file=sys.stderr, flush=True)
            try:
                check_memory()
                found = {"measured": measure(cell)}
            except KeyboardInterrupt:
                interrupted = True
            except Exception as error:  # whatever fails in one cell, the others can be taken
                found = {"reason": reason(error)}
            # out of the handler: there, the error would keep the failed cell's tensors
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        rows.append({"cell": asdict(cell), **found})
    return rows


def check_memory() -> None:
    """NotMeasured where tensors of an earlier cell are left on the card: they would count as this one's."""
    left = torch.cuda.memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    if left > LEFT:
        raise NotMeasured(f"{left:.1f} GiB of an earlier cell were not freed: take this one alone by --only")


class NotMeasured(Exception):
    """Why a figure cannot be taken here."""


def reason(error: Exception) -> str:
    """In few words why a cell has no figures."""
    first = (str(error).strip() or "no message").splitlines()[0][:200]
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    if isinstance(error, NotMeasured):
        return first
    if isinstance(error, ImportError):
        return f"not installed: {first}"
    return f"{type(error).__name__}: {first}"
