"""A batch with its tensors end to end in one piece of memory, which is handed on, or pinned, as one."""

import io
import pickle
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

_ALIGNED = 16  # bytes: a view of any dtype may start there


@dataclass(frozen=True)
class Flat(Generic[T]):
    """Any picklable value, its tensors' numbers apart from it.

    A batch has some thirty tensors, and each that is handed to another process by itself holds a file
    descriptor there; as one piece of memory it holds one.

    Attributes:
        memory: [bytes] all numbers.
        places: first byte, dtype and shape of each tensor.
        value: pickle of the value, in which tensors stand by their number.
    """

    memory: Tensor
    places: tuple[tuple[int, torch.dtype, torch.Size], ...]
    value: bytes

    @classmethod
    def of(cls, value: T, memory: Literal["plain", "shared", "pinned"] = "plain") -> "Flat[T]":
        """The value with its tensors copied into memory of its own.

        Args:
            memory: ``shared`` with other processes, or ``pinned`` for copies to a CUDA device that the
                program does not wait for.
        """
        writer = _Writer()
        writer.dump(value)
        places, size = [], 0
        for tensor in writer.tensors:
            places.append((size, tensor.dtype, tensor.shape))
            size += -(-tensor.nbytes // _ALIGNED) * _ALIGNED
        held = torch.empty(size, dtype=torch.uint8, pin_memory=memory == "pinned")
        if memory == "shared":
            held.share_memory_()
        flat = cls(held, tuple(places), writer.file.getvalue())
        for number, tensor in enumerate(writer.tensors):
            flat.tensor(number).copy_(tensor)
        return flat

    def tensor(self, number: int) -> Tensor:
        """One of the tensors, a view of the memory."""
        start, dtype, shape = self.places[number]
        return self.memory[start : start + dtype.itemsize * shape.numel()].view(dtype).view(shape)

    def restored(self) -> T:
        """The value; its tensors are views of the memory, which lives as long as one of them."""
        restored: T = _Reader(self).load()
        return restored


def sent(value: Any, device: torch.device | str) -> Any:
    """A tensor, a dictionary of them or what has a `to` of its own, on a device; anything else as it is.

    From pinned memory to a CUDA device the program does not wait for the copy; in the other direction it
    does, as it could read numbers before they are there.
    """
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=torch.device(device).type != "cpu")
    if isinstance(value, dict):
        return {name: sent(each, device) for name, each in value.items()}
    return value.to(device) if hasattr(value, "to") else value


class _Writer(pickle.Pickler):
    def __init__(self) -> None:
        self.file, self.tensors = io.BytesIO(), list[Tensor]()
        super().__init__(self.file, protocol=pickle.HIGHEST_PROTOCOL)

    def persistent_id(self, value: Any) -> int | None:
        if not isinstance(value, Tensor):
            return None
        self.tensors.append(value)
        return len(self.tensors) - 1


class _Reader(pickle.Unpickler):
    def __init__(self, flat: Flat[Any]) -> None:
        super().__init__(io.BytesIO(flat.value))
        self.flat = flat

    def persistent_load(self, number: int) -> Tensor:
        return self.flat.tensor(number)
