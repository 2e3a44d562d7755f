"""Named components: a reader, a describer, an embedder, a miner or an answer is registered by name.

A component lies in one file: in a package of ours, in an installed package that names it as an entry point,
or in a ``.py`` file of the user's own that is named in its place.
"""

import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from finedefics.errors import FinedeficsError, wrong_use

T = TypeVar("T")

_FILES = "finedefics_file_"  # modules made from a user's files, under the digest of their content
_ALL: "list[Registry[Any]]" = []


class Registry(Generic[T]):
    """Maps names to components of one kind; an unknown name lists the known ones.

    Args:
        kind: what a component is called in messages.
        package: whose modules register components when they are imported, at the first question.
        group: entry points by which installed packages bring components.
    """

    def __init__(self, kind: str, *, package: str | None = None, group: str | None = None) -> None:
        self.kind = kind
        self._package, self._group = package, group
        self._entries: dict[str, T] = {}
        self._points: dict[str, EntryPoint] | None = None
        _ALL.append(self)

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: make a component available under ``name`` (ValueError if the name is taken)."""

        def add(component: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = component
            return component

        return add

    def __getitem__(self, name: str) -> T:
        """The component of a name, or the one that a ``.py`` file registers.

        Raises:
            FinedeficsError: the name is unknown, or what should bring the component fails.
        """
        if name.endswith(".py"):
            return self._of_file(Path(name).expanduser())
        points = self._discover()
        if name not in self._entries and name in points:
            self._entries[name] = self._of_point(points[name])
        if name not in self._entries:
            raise wrong_use(
                f"unknown {self.kind}", place=repr(name), cure=f"choose one of: {', '.join(self)}"
            )
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        """All names, sorted; those of installed packages too, whether or not they can be loaded."""
        return iter(sorted({*self._discover(), *self._entries}))

    def identity(self, name: str) -> str:
        """What a name stands for, as a part of a digest: of a file, its content."""
        if not name.endswith(".py"):
            return name
        return f"{Path(name).name}-{_digest(_read(Path(name).expanduser(), self.kind))}"

    def _discover(self) -> dict[str, EntryPoint]:
        if self._points is None:
            self._points = {}  # first, as a module that is imported may ask
            if self._package is not None:
                package = importlib.import_module(self._package)
                for module in pkgutil.iter_modules(package.__path__, f"{self._package}."):
                    importlib.import_module(module.name)
            if self._group is not None:
                # ours go first: no installed package changes what a known name means
                found = entry_points(group=self._group)
                self._points = {p.name: p for p in found if p.name not in self._entries}
        return self._points

    def _of_point(self, point: EntryPoint) -> T:
        try:
            component = point.load()
        except Exception as error:
            where = f"package {point.dist.name}" if point.dist else point.value
            raise FinedeficsError(
                f"the {self.kind} {point.name!r} cannot be loaded ({type(error).__name__}: {error})",
                place=where,
                cure="update or remove that package",
            ) from error
        # a module may have registered it itself, by being imported
        return self._entries.get(point.name, component)

    def _of_file(self, file: Path) -> T:
        code = _read(file, self.kind)
        module = sys.modules.get(_FILES + _digest(code)) or _execute(file, code, self.kind)
        made: list[T] = [component for kind, component in module.__registered__ if kind == self.kind]
        if len(made) != 1:
            raise wrong_use(
                f"it registers {len(made)} components of the kind {self.kind!r}, and one is wanted",
                place=str(file),
                cure="register one under any name, as the product's own are",
            )
        return made[0]


def file_modules() -> list[ModuleType]:
    """Modules made from users' files in this process: other machines do not have them."""
    return [module for name, module in list(sys.modules.items()) if name.startswith(_FILES)]


def split_spec(spec: str) -> tuple[str, str | None]:
    """``name:argument`` as its parts; the argument may have colons of its own, and is None without one."""
    name, colon, argument = spec.partition(":")
    return name, argument if colon else None


def _read(file: Path, kind: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise wrong_use(
            f"cannot be read ({error.strerror})", place=str(file), cure=f"name a file that registers a {kind}"
        ) from error


def _digest(code: bytes) -> str:
    return hashlib.sha256(code).hexdigest()[:12]


def _execute(file: Path, code: bytes, kind: str) -> ModuleType:
    """Run a user's file as a module; what it registers is kept with it, and is named by the file alone."""
    module = ModuleType(_FILES + _digest(code))
    module.__file__ = str(file)
    sys.modules[module.__name__] = module
    before = [set(registry._entries) for registry in _ALL]
    try:
        exec(compile(code, str(file), "exec"), module.__dict__)
    except Exception as error:
        del sys.modules[module.__name__]
        raise FinedeficsError(
            f"this {kind} cannot be loaded ({type(error).__name__}: {error})",
            place=str(file),
            cure="mend the file",
        ) from error
    module.__dict__["__registered__"] = [
        (registry.kind, registry._entries.pop(name))
        for registry, known in zip(_ALL, before, strict=False)
        for name in sorted(set(registry._entries) - known)
    ]
    return module
