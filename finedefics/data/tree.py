"""A tree: the files below one place, in a folder, an archive or a store, read by their relative paths.

Hidden files, ``__MACOSX`` and ``._`` forks are no part of a tree. Nothing is ever written where a member of
an archive says: members are read in place, and one that leaves the archive is refused.
"""

import io
import os
import posixpath
import re
import unicodedata
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Self
from urllib.parse import quote

from pyarrow import fs

from finedefics.data.cells import CELL, read_cell
from finedefics.data.keeping import Keep, keep_for_now
from finedefics.data.names import LISTS, SPLIT_WORDS
from finedefics.errors import FinedeficsError, reason_of, wrong_use

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
UNLISTED = "this folder cannot be listed"  # begins the reason of one that nobody may look into


class Tree(ABC):
    """Files by relative path, with forward slashes. Pickled, it travels as its place.

    A path is found as it is written, or as the same text in another Unicode form (é as one sign or as two).

    Attributes:
        place: where it is on this machine, or its URI.
        called: what messages name it by.
    """

    def __init__(self, place: str, *, keep: Keep = keep_for_now) -> None:
        self.place, self.called, self._keep = place, place, keep
        self._again: tuple[Callable[..., Any], tuple[Any, ...]] = (type(self), (place,))
        self._listed: dict[str, Any] | None = None
        self._refused: list[tuple[str, str]] = []
        self._forms: dict[str, str] | None = None
        self._endings: dict[str, list[str]] | None = None

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._again

    def reopened_by(self, function: Callable[..., Any], place: str) -> Self:
        """The same tree, called ``place``, which another process will open by ``function(place)``."""
        self.called, self._again = place, (function, (place,))
        return self

    @property
    def name(self) -> str:
        """The last part of its place."""
        return self.called.rstrip("/").rpartition("/")[2]

    def files(self) -> Iterator[str]:
        """Every file's path, sorted; hidden ones and forks are left out.

        Raises:
            FinedeficsError: the place cannot be listed, or the archive is damaged.
        """
        return iter(sorted(self._members()))

    @property
    def refused(self) -> tuple[tuple[str, str], ...]:
        """Files that cannot be part of the tree, each with the reason."""
        self._members()
        return tuple(self._refused)

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return self._found(path) is not None

    def written(self, path: str) -> str:
        """The path as the tree has it, where the same text in another Unicode form was asked for."""
        if path.isascii():
            return path
        self._members()  # of a store, one listing instead of a question for every path
        return self._found(path) or path

    def stamp(self, path: str) -> tuple[int, int]:
        """Size in bytes, and a number that changes when the content does (time of change, or a checksum).

        Raises:
            FileNotFoundError: there is no such file.
        """
        file = path.partition(CELL)[0] if CELL in path and self._found(path) is None else path
        if (found := self._found(file)) is None:
            raise FileNotFoundError(2, "there is no such file", path)
        return self._stamp(found)

    def read(self, path: str) -> bytes:
        """The content of a file, or of a cell of a Parquet file (``file::column::row``).

        Raises:
            FileNotFoundError: there is no such file.
            OSError: its content cannot be read: no right to, or a damaged member of an archive.
            FinedeficsError: the store does not answer.
        """
        if (found := self._found(path)) is not None:
            return self._read(found)
        if CELL in path:
            return read_cell(self, path, self._keep)
        raise FileNotFoundError(2, "there is no such file", path)

    def open(self, path: str) -> BinaryIO:
        """A file to read from and seek in; raises as `read`."""
        if (found := self._found(path)) is None:
            raise FileNotFoundError(2, "there is no such file", path)
        return self._open(found)

    def text(self, path: str) -> str:
        """A file's content as UTF-8 text.

        Raises:
            FinedeficsError: there is no such file, or it cannot be read as text.
        """
        try:
            return self.read(path).decode("utf-8-sig")
        except FileNotFoundError as error:
            raise FinedeficsError(
                "there is no such file", place=self.where(path), cure="add it, or give the place where it is"
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise FinedeficsError(
                "cannot read this file", place=self.where(path), cure="save it as UTF-8 text"
            ) from error

    def where(self, path: str = "") -> str:
        """A path within the tree as a message names it."""
        return posixpath.join(self.called, path) if path else self.called

    def find(self, *names: str, depth: int = 3) -> str | None:
        """The file whose path ends so, below at most ``depth`` folders more; the least deep one, or None."""
        if self._endings is None:  # most files are pictures, and most questions are of the others
            self._endings = {}
            for path in self._members():
                self._endings.setdefault(posixpath.splitext(path)[1], []).append(path)
        found = [
            path
            for name in names
            for path in self._endings.get(posixpath.splitext(name)[1], ())
            if path == name or (path.endswith(f"/{name}") and path.count("/") - name.count("/") <= depth)
        ]
        return min(found, key=lambda path: (path.count("/"), path), default=None)

    def _members(self) -> dict[str, Any]:
        if self._listed is None:
            self._listed = {}
            for path, member in self._scan():
                if not is_text(path):
                    self._refused.append((shown(path), "its name is no valid text"))
                elif is_visible(path):
                    self._listed[path] = member
            self._listed = self._peeled(self._listed)
        return self._listed

    def _peeled(self, members: dict[str, Any]) -> dict[str, Any]:
        return members

    def _found(self, path: str) -> str | None:
        """The path as the tree writes it."""
        if not is_inside(path):
            return None
        path = posixpath.normpath(path)
        if self._has(path):
            return path
        if path.isascii():
            return None
        if self._forms is None:
            self._forms = {unicodedata.normalize("NFC", member): member for member in self._members()}
        return self._forms.get(unicodedata.normalize("NFC", path))

    def _has(self, path: str) -> bool:
        return path in self._members()

    def _open(self, path: str) -> BinaryIO:
        return io.BytesIO(self._read(path))

    @abstractmethod
    def _scan(self) -> Iterator[tuple[str, Any]]:
        """Every file with what is needed to read it."""

    @abstractmethod
    def _stamp(self, path: str) -> tuple[int, int]: ...

    @abstractmethod
    def _read(self, path: str) -> bytes: ...


class FolderTree(Tree):
    """A folder of this machine. Links are followed, every folder once, wherever they lead."""

    def _scan(self) -> Iterator[tuple[str, None]]:
        seen: dict[str, str] = {}

        def unreadable(error: OSError) -> None:
            if error.filename == self.place:
                raise FinedeficsError(
                    f"{UNLISTED} ({error.strerror})",
                    place=self.place,
                    cure="check its rights",
                ) from error
            path = os.path.relpath(error.filename, self.place)
            self._refused.append((shown(path), f"{UNLISTED} ({error.strerror})"))

        for folder, folders, files in os.walk(self.place, followlinks=True, onerror=unreadable):
            real, path = os.path.realpath(folder), os.path.relpath(folder, self.place)
            if real in seen:
                folders.clear()
                above = os.path.realpath(os.path.dirname(folder))
                if not f"{above}{os.sep}".startswith(f"{real}{os.sep}"):  # else it goes round in a circle
                    self._refused.append((shown(path), f"the same folder as {seen[real]}, taken once"))
                continue
            seen[real] = shown(path)
            folders[:] = sorted(name for name in folders if is_visible(name))
            for name in files:
                yield os.path.relpath(os.path.join(folder, name), self.place).replace(os.sep, "/"), None

    def _has(self, path: str) -> bool:
        if self._listed is not None and path in self._listed:
            return True
        try:
            return is_visible(path) and os.path.isfile(self._path(path))
        except ValueError:  # a null byte
            return False

    def _stamp(self, path: str) -> tuple[int, int]:
        status = os.stat(self._path(path))
        return status.st_size, status.st_mtime_ns

    def _read(self, path: str) -> bytes:
        return Path(self._path(path)).read_bytes()

    def _open(self, path: str) -> BinaryIO:
        return open(self._path(path), "rb")

    def _path(self, path: str) -> str:
        return os.path.join(self.place, *path.split("/"))


class StoreTree(Tree):
    """A folder of a file system of Arrow, named by its URI; it is listed once."""

    def __init__(self, place: str, *, keep: Keep = keep_for_now) -> None:
        super().__init__(place.rstrip("/"), keep=keep)
        try:
            self._store, self._root = fs.FileSystem.from_uri(_quoted(self.place))
        except (ValueError, OSError) as error:
            raise wrong_use(
                f"this address cannot be used ({reason_of(error)})",
                place=place,
                cure="give a folder, an archive, or an address such as s3://bucket/folder",
            ) from error

    def _scan(self) -> Iterator[tuple[str, fs.FileInfo]]:
        selector = fs.FileSelector(self._root, recursive=True, allow_not_found=True)
        try:
            found = self._store.get_file_info(selector)
        except OSError as error:
            raise self._silent(error) from error
        for info in found:
            if info.type == fs.FileType.File:
                yield info.path[len(self._root) :].strip("/"), info

    def _stamp(self, path: str) -> tuple[int, int]:
        info = self._info(path) if self._listed is None else self._listed[path]
        return int(info.size), int(info.mtime_ns or 0)

    def _has(self, path: str) -> bool:
        if self._listed is not None:
            return path in self._listed
        return is_visible(path) and self._info(path).type == fs.FileType.File

    def _info(self, path: str) -> fs.FileInfo:
        """A task reads what the driver has listed: it asks for one file, and does not list again."""
        try:
            return self._store.get_file_info(posixpath.join(self._root, path))
        except OSError as error:
            raise self._silent(error) from error

    def _read(self, path: str) -> bytes:
        with self._open(path) as file:
            try:
                return bytes(file.read())
            except OSError as error:
                raise self._silent(error) from error

    def _open(self, path: str) -> BinaryIO:
        try:
            file: BinaryIO = self._store.open_input_file(posixpath.join(self._root, path))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._silent(error) from error
        return file

    def _silent(self, error: OSError) -> FinedeficsError:
        return FinedeficsError(
            f"the storage did not do this ({reason_of(error)})",
            place=self.place,
            cure="check the address, the network and the credentials (AWS_* variables for s3://)",
        )


class ArchiveTree(Tree):
    """An archive of this machine; a folder that holds all of its files is no part of their paths.

    Unless its name says something of the pictures: it is that of a split, or of the only category.
    """

    def _peeled(self, members: dict[str, Any]) -> dict[str, Any]:
        tops = {path.partition("/")[0] if "/" in path else "" for path in members}
        if len(tops) != 1 or "" in tops:
            return members
        peeled = {path.partition("/")[2]: member for path, member in members.items()}
        folders = {path.partition("/")[0].lower() for path in peeled if "/" in path}
        if tops.pop().lower() in SPLIT_WORDS and not folders & SPLIT_WORDS.keys():
            return members
        if not folders and not any(path.lower().endswith(LISTS) for path in peeled):
            return members
        return peeled

    def _read(self, path: str) -> bytes:
        try:
            return self._content(self._members()[path])
        except (EOFError, ValueError, RuntimeError, zlib.error, NotImplementedError) as error:
            # RuntimeError: encrypted; NotImplementedError: compressed in a way that is not known
            raise OSError(5, f"a damaged member of the archive: {error}", path) from error

    @abstractmethod
    def _content(self, member: Any) -> bytes: ...

    def _damaged(self, error: BaseException | str) -> FinedeficsError:
        return FinedeficsError(
            f"the archive is damaged ({error})",
            place=self.place,
            cure="fetch it again, or unpack it yourself",
        )


def _quoted(uri: str) -> str:
    """A URI as Arrow reads it: a folder's name may have spaces and letters of any script."""
    path, mark, options = uri.partition("?")
    path = quote(path, safe="/%@:+")
    return re.sub("%(?![0-9A-Fa-f]{2})", "%25", path) + mark + options


def is_inside(path: str) -> bool:
    """Whether a relative path stays in the folder that it starts from."""
    slashed = path.replace("\\", "/")
    absolute = slashed.startswith("/") or slashed[1:3] == ":/"  # C:/ too
    return bool(path) and "\0" not in path and not absolute and ".." not in slashed.split("/")


def is_visible(path: str) -> bool:
    """Whether no part of a path is hidden, a fork, or the folder of forks of an archive from a Mac."""
    return not any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def is_text(path: str) -> bool:
    """Whether a name is Unicode text: a file system's may be any bytes."""
    return not any("\ud800" <= sign <= "\udfff" for sign in path)


def shown(path: str) -> str:
    """A name that is no valid text, so that it can be written down."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
