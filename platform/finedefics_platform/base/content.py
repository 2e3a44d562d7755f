"""What a folder is by its content: copies of a model are one, a model whose weights changed is another."""

import hashlib
import json
import os
from pathlib import Path

from finedefics.errors import wrong_use
from finedefics_platform.base.storage import Location, cache_folder, fetch

_BLOCK = 1 << 20
_REMEMBERED_FROM = 64 << 20  # bytes from which hashing a file is slow enough to remember what came out
_NO_CONTENT = (".md", ".lock")  # says something about a model, or nothing; does not change it


def model_folder(place: Location) -> Path:
    """The folder of a model on this node, brought here where it lies elsewhere.

    Raises:
        FinedeficsError: nothing is there (exit code 2), or the store does not answer.
    """
    try:
        return fetch(place)
    except FileNotFoundError as error:
        raise wrong_use(
            "there is no model here",
            place=str(place),
            cure="give a folder with config.json and safetensors that every node sees, or a hub name",
        ) from error


def model_digest(folder: Path) -> str:
    """Sixteen hex digits of the content of a model folder, whatever its path and times.

    Raises:
        FinedeficsError: the folder holds no model (exit code 2).
    """
    if not (folder / "config.json").is_file():
        raise wrong_use(
            "no model in this folder",
            place=str(folder),
            cure="give a folder with config.json and safetensors",
        )
    ways = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    kept = {w: p for w, p in ways.items() if not _is_hidden(w) and p.suffix not in _NO_CONTENT}
    digests = [(way, _file_digest(kept[way])) for way in sorted(kept)]
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()[:16]


def _is_hidden(way: str) -> bool:
    return any(part.startswith(".") for part in way.split("/"))


def _file_digest(file: Path) -> str:
    status = os.stat(file)
    if status.st_size < _REMEMBERED_FROM:
        return _hash(file)
    version = [str(file.resolve()), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    key = hashlib.sha256(json.dumps(version).encode()).hexdigest()[:32]
    note = cache_folder() / "digests" / key
    if not note.is_file():
        digest = _hash(file)
        note.parent.mkdir(exist_ok=True)
        aside = note.with_name(f".{key}.{os.getpid()}")
        aside.write_text(digest)
        aside.replace(note)
    return note.read_text()


def _hash(file: Path) -> str:
    sha = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            sha.update(block)
    return sha.hexdigest()
