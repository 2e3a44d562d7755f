"""What travels with a job: its document, the files that it and the arguments name, and what it includes.

Files keep their places relative to each other and to the current folder, so that every relative path of a
document or an argument means the same on the cluster. Folders (pictures, models) do not travel unless they
are included: they are named by a URI or by a path that the cluster sees.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from finedefics.errors import FinedeficsError, wrong_use
from finedefics_platform.config.job import Job

MARK = ".finedefics-job"  # makes the folder that the command runs in, though it may hold no other file
_NEVER = {".git", ".venv", "__pycache__", ".finedefics", ".gitignore", ".rayignore", ".DS_Store"}
_DOCUMENTS = (".yaml", ".yml")
_MIB = 2**20


@dataclass(frozen=True)
class Package:
    """What is sent.

    Attributes:
        files: where each lies in the package, and here.
        folder: of the package, in which the command runs.
        command: what follows `finedefics`, paths as they are there.
        outside: absolute paths that are named and do not travel: the cluster must see them.
    """

    files: dict[str, Path]
    folder: str
    command: tuple[str, ...]
    outside: tuple[str, ...]

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        return {way: path.stat().st_size for way, path in self.files.items()}

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(self.sizes.values())

    @cached_property
    def digest(self) -> str:
        """Of names and contents."""
        total = hashlib.sha256(repr((self.folder, self.command)).encode())
        for way, path in sorted(self.files.items()):
            with path.open("rb") as stream:
                total.update(f"{way}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\0".encode())
        return total.hexdigest()

    def check_size(self) -> None:
        """FinedeficsError where Ray would not take it; it names what makes it large."""
        from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

        if self.size < GCS_STORAGE_MAX_SIZE:
            return
        largest = sorted(self.sizes.items(), key=lambda item: -item[1])[:3]
        named = ", ".join(f"{way} {size / _MIB:.0f} MiB" for way, size in largest)
        raise FinedeficsError(
            f"{self.size / _MIB:.0f} MiB, and Ray takes less than {GCS_STORAGE_MAX_SIZE / _MIB:.0f}; "
            f"the largest: {named}",
            place="the job's package",
            cure="put them into shared storage and name them by URI, or leave them out by `.rayignore`",
        )

    def write(self, to: Path) -> None:
        """Lay the files out below ``to``."""
        for way, path in self.files.items():
            (to / way).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to / way)
        (to / self.folder).mkdir(parents=True, exist_ok=True)
        (to / self.folder / MARK).write_text("")


def gather(job: Job, spec: Path, here: Path | None = None) -> Package:
    """The package of a job.

    Args:
        spec: the job's file; its `document` and `include` count from there.
        here: the folder that arguments count from; default: the current one.

    Raises:
        FinedeficsError: a file that is named is not there, or a folder is named by a path that would mean
            nothing on the cluster (exit code 2).
    """
    return _Gathering(job, spec.resolve(), (here or Path.cwd()).resolve()).package()


class _Gathering:
    def __init__(self, job: Job, spec: Path, here: Path) -> None:
        self._job, self._spec, self._here = job, spec, here
        self._found: set[Path] = set()
        self._walked: set[Path] = set()  # documents whose own references were followed
        self._outside: set[str] = set()
        self._loose: list[tuple[str, Path]] = []  # folders by a relative path, and who names them

    def package(self) -> Package:
        for pattern in self._job.include:
            self._include(pattern)
        document = None
        if self._job.document is not None:
            document = self._spec.parent / Path(self._job.document).expanduser()
            self._document(document.resolve())
        arguments = tuple(self._argument(text) for text in self._job.arguments)
        for named_by, folder in self._loose:
            if not any(folder in file.parents for file in self._found):
                raise wrong_use(
                    f"the folder {os.path.relpath(folder, self._here)} does not travel with the job",
                    place=named_by,
                    cure="give a URI or an absolute path that the cluster sees, or list it in `include`",
                )
        root = Path(os.path.commonpath([self._here, *(file.parent for file in self._found)]))
        command = self._job.command
        if document is not None:
            first = len(command) - len(arguments) - 1
            command = (*command[:first], os.path.relpath(document.resolve(), self._here), *arguments)
        elif arguments:
            command = (*command[: -len(arguments)], *arguments)
        return Package(
            {file.relative_to(root).as_posix(): file for file in sorted(self._found)},
            self._here.relative_to(root).as_posix(),
            command,
            tuple(sorted(self._outside)),
        )

    def _include(self, pattern: str) -> None:
        found = (
            sorted(self._spec.parent.glob(pattern)) if not Path(pattern).is_absolute() else [Path(pattern)]
        )
        found = [path for path in found if path.exists()]
        if not found:
            raise wrong_use(
                "nothing is there", place=f"include: {pattern}", cure="correct it or leave it out"
            )
        for path in found:
            if path.is_file():
                self._found.add(path.resolve())
            else:
                self._found |= set(_walk(path.resolve(), self._ignored(path)))

    def _ignored(self, path: Path) -> list[Any]:
        """What `.rayignore` files of the folders above say: of the spec's, and of the current one."""
        above = {folder for folder in (self._spec.parent, self._here) if folder in path.resolve().parents}
        return [match for folder in sorted(above) for match in _ignore_file(folder)]

    def _document(self, file: Path) -> None:
        if not file.is_file():
            raise wrong_use("there is no such file", place=str(file), cure="correct `document` or the path")
        if file in self._walked:
            return
        self._found.add(file)
        self._walked.add(file)
        if file.suffix not in _DOCUMENTS:
            return
        try:
            content = yaml.safe_load(file.read_text())
        except (yaml.YAMLError, UnicodeDecodeError):
            return  # whoever reads it says what is wrong with it
        for text in _texts(content):
            for part in _candidates(text):
                if part.startswith("/"):
                    self._outside.add(part)
                    continue
                self._named(part, (file.parent, self._here), f"{file.name}: {text[:80]}")

    def _named(self, part: str, bases: tuple[Path, ...], named_by: str) -> None:
        for base in bases:
            path = (base / part).resolve()
            if path.is_file():
                self._document(path)
                return
            if path.is_dir() and "/" in part.rstrip("/"):
                self._loose.append((named_by, path))
                return

    def _argument(self, text: str) -> str:
        """An argument as it is on the cluster; the file it names travels."""
        for part in _candidates(text):
            path = (self._here / Path(part).expanduser()).resolve()
            if path.is_file():
                self._document(path)
                return text[: len(text) - len(part)] + os.path.relpath(path, self._here)
            if part.startswith(("/", "~")):
                whole = str(Path(part).expanduser())
                self._outside.add(whole)
                return text[: len(text) - len(part)] + whole
            if path.is_dir() and ("/" in part or part in (".", "..")):
                self._loose.append((f"argument {text}", path))
                return text
        return text


def _candidates(text: str) -> Iterator[str]:
    """What of a text may be a path: all of it, or what follows `file:` or `key=`."""
    longest = max(map(len, text.split("/")))
    if not text or longest > 255 or len(text) > 4000 or "\n" in text or "://" in text:
        return  # no file is called so
    if text.startswith("/") and (any(c.isspace() for c in text) or text == "/"):
        return
    yield text
    for separator in ("=", ":"):
        _, found, rest = text.partition(separator)
        if found and rest and not rest[0].isspace():
            yield rest


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        for value in content.values():
            yield from _texts(value)
    elif isinstance(content, list):
        for value in content:
            yield from _texts(value)


def _walk(folder: Path, ignored: list[Any]) -> Iterator[Path]:
    ignored = [*ignored, *_ignore_file(folder)]
    for path in sorted(folder.iterdir()):
        if path.name in _NEVER or any(match(path) for match in ignored):
            continue
        if path.is_dir():
            yield from _walk(path, ignored)
        elif path.is_file():
            yield path


def _ignore_file(folder: Path) -> list[Any]:
    """As Ray reads it: patterns of git, relative to the folder that the file is in."""
    import logging

    from ray._private.runtime_env.packaging import get_excludes_from_ignore_files

    return get_excludes_from_ignore_files(folder, include_gitignore=False, logger=logging.getLogger("silent"))
