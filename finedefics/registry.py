"""Named components: a reader, a describer, a miner or an answer is registered by name."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from finedefics.errors import wrong_use

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps names to components of one kind; an unknown name lists the known ones."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: make a component available under ``name`` (ValueError if the name is taken)."""

        def add(component: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = component
            return component

        return add

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            known = ", ".join(sorted(self._entries))
            raise wrong_use(f"unknown {self.kind}", place=repr(name), cure=f"choose one of: {known}")
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))
