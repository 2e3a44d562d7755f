"""A place on a disk or in an object store, named by its URI; a file of it is written whole or not at all."""

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pyarrow import fs

from finedefics.errors import FinedeficsError, wrong_use

SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss")
_WRITABLE = "free space, check the rights, or set FINEDEFICS_HOME to a place you may write to"
_REACHABLE = "check the address, the network and the credentials (AWS_* variables for s3://)"


@dataclass(frozen=True, order=True)
class Location:
    """One place. It can be pickled and opened in any process: connections are made where they are used.

    Attributes:
        uri: an absolute path for a local place, else ``scheme://bucket/key``, without a slash at its end.
    """

    uri: str

    @staticmethod
    def of(place: "str | os.PathLike[str] | Location") -> "Location":
        """The place that a path or URI names; a relative path counts from the current folder.

        Raises:
            FinedeficsError: the URI is none that can be stored to, or has keys in it (exit code 2).
        """
        if isinstance(place, Location):
            return place
        text = os.fspath(place)
        scheme, separator, rest = text.partition("://")
        if not separator:
            return Location(str(Path(text).expanduser().resolve()))
        if scheme == "file":
            return Location(str(Path(unquote(urlsplit(text).path)).resolve()))
        if scheme not in SCHEMES or not rest.strip("/"):
            raise wrong_use(
                "not a place that can be stored to",
                place=_without_user(text),
                cure=f"give a path, or {'://…, '.join(SCHEMES)}://… with a bucket",
            )
        user = rest.partition("/")[0].rpartition("@")[0]
        if ":" in user or (user and not scheme.startswith("abfs")):  # there it is the container
            raise wrong_use(
                "keys do not belong into an address: they would be written down with it",
                place=_without_user(text),
                cure="set them as variables (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for s3://)",
            )
        return Location(f"{scheme}://{rest.strip('/')}")

    @property
    def local(self) -> Path | None:
        """The path of a place on this machine's disks, None for an object store."""
        return None if "://" in self.uri else Path(self.uri)

    @property
    def name(self) -> str:
        """The last part."""
        return self.uri.rpartition("/")[2]

    @property
    def parent(self) -> "Location":
        """The place this one is in."""
        return Location(self.uri.rpartition("/")[0] or "/")

    @property
    def filesystem(self) -> fs.FileSystem:
        """The Arrow file system, as Parquet readers and Ray take it; `path` names the place within."""
        return _filesystem(self._root)[0]

    @property
    def path(self) -> str:
        """The place within `filesystem`."""
        if self.local:
            return self.uri
        below = self.uri[len(self._root) :].strip("/")
        return "/".join(part for part in (_filesystem(self._root)[1].strip("/"), below) if part)

    def __truediv__(self, name: str) -> "Location":
        return Location(f"{self.uri.rstrip('/')}/{name.strip('/')}")

    def __str__(self) -> str:
        return self.uri

    def relative_to(self, other: "Location") -> str | None:
        """The way from ``other`` down to here (``a/b``), None where this place is not inside it."""
        inside = f"{other.uri.rstrip('/')}/"
        return self.uri.removeprefix(inside) if self.uri.startswith(inside) else None

    def is_file(self) -> bool:
        """Whether a file is here."""
        return self._info().type == fs.FileType.File

    def is_folder(self) -> bool:
        """Whether something is below here."""
        return self._info().type == fs.FileType.Directory

    def exists(self) -> bool:
        """Whether anything is here."""
        return self._info().type != fs.FileType.NotFound

    def modified(self) -> datetime:
        """When the file was last written, by the clock of its store; FileNotFoundError if it is not there."""
        info = self._info()
        if info.type == fs.FileType.NotFound:
            raise FileNotFoundError(self.uri)
        return info.mtime

    def size(self) -> int:
        """Bytes of the file; FileNotFoundError if it is not there."""
        info = self._info()
        if info.type != fs.FileType.File:
            raise FileNotFoundError(self.uri)
        return int(info.size)

    def read_bytes(self) -> bytes:
        """The file's content.

        Raises:
            FileNotFoundError: it is not there.
            FinedeficsError: it cannot be read, or the store does not answer.
        """
        with self._asked(_REACHABLE), self.filesystem.open_input_stream(self.path, compression=None) as file:
            return file.read()

    def read_text(self) -> str:
        """The file's content as UTF-8; raises as `read_bytes`."""
        return self.read_bytes().decode()

    def read_json(self) -> Any:
        """The file's content as JSON; raises as `read_bytes`, and ValueError where it is none."""
        return json.loads(self.read_bytes())

    def write_bytes(self, content: bytes) -> None:
        """Write the file: readers find the old content or the new, never a part.

        Raises:
            FinedeficsError: the place cannot be written to, or the store does not answer.
        """
        with self._asked(_WRITABLE):
            if (target := self.local) is not None:
                target.parent.mkdir(parents=True, exist_ok=True)
                aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
                try:
                    aside.write_bytes(content)
                    aside.replace(target)
                finally:
                    aside.unlink(missing_ok=True)
            else:
                # an object appears when its upload is complete
                with self.filesystem.open_output_stream(self.path, compression=None) as stream:
                    stream.write(content)

    def write_text(self, text: str) -> None:
        """`write_bytes` of UTF-8."""
        self.write_bytes(text.encode())

    def write_json(self, value: Any, *, indent: int | None = 1) -> None:
        """`write_bytes` of JSON with a newline at its end."""
        self.write_text(json.dumps(value, indent=indent, default=str) + "\n")

    def upload(self, file: Path) -> None:
        """Write the content of a local file here, whole or not at all; raises as `write_bytes`."""
        with self._asked(_WRITABLE):
            if (target := self.local) is not None:
                target.parent.mkdir(parents=True, exist_ok=True)
                aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
                try:
                    shutil.copyfile(file, aside)
                    aside.replace(target)
                finally:
                    aside.unlink(missing_ok=True)
            else:
                fs.copy_files(str(file), self.path, fs.LocalFileSystem(), self.filesystem)

    def download(self, file: Path) -> None:
        """Write this file's content to a local one; raises as `read_bytes`."""
        with self._asked(_REACHABLE):
            fs.copy_files(self.path, str(file), self.filesystem, fs.LocalFileSystem())

    def children(self) -> list["Location"]:
        """Files and folders right below, sorted by name, hidden ones left out; empty if nothing is here."""
        selector = fs.FileSelector(self.path, allow_not_found=True)
        with self._asked(_REACHABLE):
            found = self.filesystem.get_file_info(selector)
        return sorted(self / info.base_name for info in found if not info.base_name.startswith("."))

    def files(self) -> list[str]:
        """Ways from here to every file below, sorted; hidden files and folders are left out."""
        selector = fs.FileSelector(self.path, allow_not_found=True, recursive=True)
        with self._asked(_REACHABLE):
            found = self.filesystem.get_file_info(selector)
        ways = [info.path[len(self.path) :].strip("/") for info in found if info.type == fs.FileType.File]
        return sorted(way for way in ways if not any(part.startswith(".") for part in way.split("/")))

    def sizes(self) -> dict[str, int]:
        """Bytes of every file below, by the way from here to it; hidden files and folders are left out."""
        selector = fs.FileSelector(self.path, allow_not_found=True, recursive=True)
        with self._asked(_REACHABLE):
            found = self.filesystem.get_file_info(selector)
        files = {i.path[len(self.path) :].strip("/"): i.size for i in found if i.type == fs.FileType.File}
        return {w: n for w, n in sorted(files.items()) if not any(p.startswith(".") for p in w.split("/"))}

    def held(self) -> tuple[int, datetime | None]:
        """Bytes of all files below, hidden ones too, and when the last one was written; None without any."""
        selector = fs.FileSelector(self.path, allow_not_found=True, recursive=True)
        with self._asked(_REACHABLE):
            found = self.filesystem.get_file_info(selector)
        files = [info for info in found if info.type == fs.FileType.File]
        return sum(info.size for info in files), max((info.mtime for info in files), default=None)

    def delete(self) -> None:
        """Remove the file or everything below; nothing happens where nothing is."""
        with self._asked(_WRITABLE):
            try:
                match self._info().type:
                    case fs.FileType.File:
                        self.filesystem.delete_file(self.path)
                    case fs.FileType.Directory:
                        self.filesystem.delete_dir(self.path)
            except FileNotFoundError:  # somebody else was faster
                pass

    @property
    def _root(self) -> str:
        """What a connection is made to: a bucket, or a container of an account."""
        if self.local:
            return "file:///"
        scheme, _, rest = self.uri.partition("://")
        return f"{scheme}://{rest.partition('/')[0]}"

    def _info(self) -> fs.FileInfo:
        with self._asked(_REACHABLE):
            return self.filesystem.get_file_info(self.path)

    @contextmanager
    def _asked(self, cure: str) -> Iterator[None]:
        """A file that is missing stays a FileNotFoundError; what a user can mend is said in one line."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            reason = error.strerror or (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise FinedeficsError(
                f"the storage did not do this ({reason[:200]})", place=str(self), cure=cure
            ) from error


@lru_cache(maxsize=64)
def _filesystem(root: str) -> tuple[fs.FileSystem, str]:
    # one connection pool a bucket and process; the endpoint and the credentials come from the environment
    try:
        return fs.FileSystem.from_uri(root)
    except ValueError as error:
        raise wrong_use(
            f"this address cannot be used ({str(error).splitlines()[0][:160]})",
            place=_without_user(root),
            cure="write s3://bucket/…, gs://bucket/…, or abfs://container@account.dfs.core.windows.net/…",
        ) from error


def _without_user(uri: str) -> str:
    scheme, _, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    user, at, host = host.rpartition("@")
    shown = f"{user}@" if at and scheme.startswith("abfs") and ":" not in user else ""  # its container
    return f"{scheme}://{shown}{host}{slash}{path}"
