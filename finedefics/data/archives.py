"""Archives as trees: members are read where they stand; a compressed tar is first made a plain one."""

import bz2
import contextlib
import gzip
import hashlib
import lzma
import os
import posixpath
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from finedefics.data.keeping import Keep, keep_for_now
from finedefics.data.tree import ARCHIVES, ArchiveTree, Tree, is_inside, is_text
from finedefics.errors import FinedeficsError, wrong_use

_ESCAPES = "leaves the archive"
_LINKS_AT_MOST = 16  # a longer chain is a circle
_DECOMPRESS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}


class TarMember(NamedTuple):
    """Where a member's content stands in the tar."""

    offset: int
    size: int
    mtime_ns: int


class ZipTree(ArchiveTree):
    """A zip archive."""

    def __init__(self, place: str, keep: Keep = keep_for_now) -> None:
        super().__init__(place, keep=keep)
        self._zip: zipfile.ZipFile | None = None

    def _scan(self) -> Iterator[tuple[str, zipfile.ZipInfo]]:
        try:
            infos = self._file.infolist()
        except (OSError, zipfile.BadZipFile) as error:
            raise self._damaged(error) from error
        found: dict[str, zipfile.ZipInfo] = {}
        links: dict[str, str] = {}
        for info in infos:
            name = _zip_name(info)
            if info.is_dir():
                continue
            if (path := self._admitted(name, found)) is None:
                continue
            if stat.S_ISLNK(info.external_attr >> 16):
                links[path] = posixpath.join(
                    posixpath.dirname(path), self._file.read(info).decode("utf-8", "replace")
                )
            else:
                found[path] = info
        yield from found.items()
        yield from _linked(links, found, self._refused)

    def _stamp(self, path: str) -> tuple[int, int]:
        info: zipfile.ZipInfo = self._members()[path]
        return info.file_size, info.CRC

    def _content(self, member: zipfile.ZipInfo) -> bytes:
        try:
            return self._file.read(member)
        except zipfile.BadZipFile as error:
            raise ValueError(str(error)) from error

    def _admitted(self, name: str, found: Mapping[str, Any]) -> str | None:
        return _admitted(name, found, self._refused)

    @property
    def _file(self) -> zipfile.ZipFile:
        if self._zip is None:
            self._zip = zipfile.ZipFile(self.place)
        return self._zip


class TarTree(ArchiveTree):
    """A tar archive; a compressed one is decompressed once, as nothing in it can be found otherwise."""

    def __init__(self, place: str, keep: Keep = keep_for_now) -> None:
        super().__init__(place, keep=keep)
        self._descriptor: int | None = None

    def _scan(self) -> Iterator[tuple[str, TarMember]]:
        found: dict[str, TarMember] = {}
        links: dict[str, str] = {}
        try:
            with tarfile.open(self._plain(), "r:", encoding="utf-8", errors="surrogateescape") as archive:
                for info in archive:
                    archive.members.clear()  # type: ignore[attr-defined]  # it would keep every header
                    if info.isdir() or (path := _admitted(info.name, found, self._refused)) is None:
                        continue
                    if info.issym():
                        links[path] = posixpath.join(posixpath.dirname(path), info.linkname)
                    elif info.islnk():
                        links[path] = info.linkname
                    elif not info.isreg() or info.sparse is not None:
                        self._refused.append((path, "is no plain file"))
                    else:
                        found[path] = TarMember(info.offset_data, info.size, int(info.mtime * 1e9))
                self._check_end(archive.offset)
        except (OSError, tarfile.TarError, EOFError) as error:
            raise self._damaged(error) from error
        yield from found.items()
        yield from _linked(links, found, self._refused)

    def _check_end(self, end: int) -> None:
        """Where reading stopped the archive must end: a damaged header in the middle stops it as well."""
        with open(self._plain(), "rb") as raw:
            raw.seek(end)
            block = raw.read(tarfile.BLOCKSIZE)
            if any(block) or 0 < len(block) < tarfile.BLOCKSIZE:
                raise self._damaged(f"it breaks off at byte {end}")
            while more := raw.read(2**20):
                if any(more):
                    raise self._damaged(f"its end is at byte {end}, and another one follows")
        if not block:
            self._refused.append((self.name, "the archive has no end: what came after may be cut off"))

    def _stamp(self, path: str) -> tuple[int, int]:
        member: TarMember = self._members()[path]
        return member.size, member.mtime_ns

    def _content(self, member: TarMember) -> bytes:
        if self._descriptor is None:
            self._descriptor = os.open(self._plain(), os.O_RDONLY)
        content = os.pread(self._descriptor, member.size, member.offset)
        while len(content) < member.size:  # one read gives 2 GiB at most
            more = os.pread(self._descriptor, member.size - len(content), member.offset + len(content))
            if not more:
                raise ValueError("it is cut off")
            content += more
        return content

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            os.close(self._descriptor)  # type: ignore[arg-type]

    def _plain(self) -> Path:
        file = Path(self.place)
        with file.open("rb") as stream:
            head = stream.read(8)
        opener = next((opener for magic, opener in _DECOMPRESS.items() if head.startswith(magic)), None)
        if opener is None:
            return file
        status = file.stat()
        identity = f"{os.path.realpath(file)}\0{status.st_size}\0{status.st_mtime_ns}"
        key = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        return self._keep(f"files/{key}/unpacked.tar", lambda aside: self._decompress(opener, file, aside))

    def _decompress(self, opener: Callable[..., Any], file: Path, aside: Path) -> None:
        try:
            with opener(file) as packed, aside.open("wb") as plain:
                shutil.copyfileobj(packed, plain, 1 << 20)
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise self._damaged(error) from error
        except OSError as error:
            if error.errno is None:  # bz2's way to say that the data are no such stream
                raise self._damaged(error) from error
            raise FinedeficsError(
                f"the archive cannot be unpacked ({error.strerror})",
                place=self.place,
                cure="free space, or unpack it yourself and give the folder",
            ) from error


def open_archive(path: str, keep: Keep) -> Tree:
    """The tree of an archive file, known by its content; opened once a process as long as it is the same.

    Raises:
        FinedeficsError: it is none (exit code 2), or a damaged one.
    """
    status = os.stat(path)
    return _opened(path, status.st_size, status.st_mtime_ns, keep)


def is_archive(path: str) -> bool:
    """Whether a file of this machine is an archive, or says by its name that it is one."""
    return path.lower().endswith(ARCHIVES) or _kind(path) is not None


@lru_cache(maxsize=8)
def _opened(path: str, size: int, mtime_ns: int, keep: Keep) -> Tree:
    kind = _kind(path)
    if kind is not None:
        return kind(path, keep)
    if path.lower().endswith(ARCHIVES):
        raise FinedeficsError(
            "the archive is damaged: it does not begin or end as one",
            place=path,
            cure="fetch it again, or unpack it yourself",
        )
    raise wrong_use(
        "neither a folder nor an archive", place=path, cure=f"give a folder, or one of: {', '.join(ARCHIVES)}"
    )


def _kind(path: str) -> Callable[[str, Keep], Tree] | None:
    try:
        if zipfile.is_zipfile(path):
            return ZipTree
        return TarTree if tarfile.is_tarfile(path) else None
    except (OSError, EOFError, zlib.error, lzma.LZMAError):
        return TarTree if path.lower().endswith(ARCHIVES) else None


def _zip_name(info: zipfile.ZipInfo) -> str:
    """A member's name: many writers store UTF-8 without saying so, and some write backslashes."""
    name = info.filename
    if not info.flag_bits & 0x800:
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/")


def _admitted(name: str, found: Mapping[str, Any], refused: list[tuple[str, str]]) -> str | None:
    """The path of a member; None, with the reason in ``refused``, for one that leaves the archive."""
    if not is_inside(name):
        refused.append((name if is_text(name) else repr(name), _ESCAPES))
        return None
    path = posixpath.normpath(name)
    if path in found:
        refused.append((path, "stands in the archive twice; the last one is read"))
    return path


def _linked(
    links: Mapping[str, str], found: Mapping[str, Any], refused: list[tuple[str, str]]
) -> Iterator[tuple[str, Any]]:
    """Links to other members, as those members; others are refused."""
    for path, link in links.items():
        target = posixpath.normpath(link)
        for _ in range(_LINKS_AT_MOST):
            if target not in links:
                break
            target = posixpath.normpath(links[target])
        if target in found:
            yield path, found[target]
        elif not is_inside(target):
            refused.append((path, "links out of the archive"))
        elif any(member.startswith(f"{target}/") for member in found):
            refused.append((path, "is a link to a folder"))
        else:
            refused.append((path, "links to nothing"))
