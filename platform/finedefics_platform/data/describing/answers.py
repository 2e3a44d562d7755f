"""Answers as they arrived: what a model was asked once is never asked again.

On a disk a writer appends a line an answer to a file of its own, so that a killed process has lost nothing
that had arrived. An object store has no appending: there, answers are gathered and written as small objects,
every second or few hundred, and a killed process loses those of the last second.

Keys say all that determines an answer but the model (`finedefics.describers.questions.Question.key`), and
each model has a folder of its own. Nothing here knows of data sets: pictures are known by their content.
"""

import json
import re
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from finedefics.describers.models import Answer
from finedefics.errors import FinedeficsError
from finedefics_platform.base.digest import digest_of
from finedefics_platform.base.storage import Location, cached

FLUSH_SECONDS, FLUSH_ANSWERS = 1.0, 256  # of what an object store has not yet
_KEY = slice(9, 33)  # of a line: {"key": "…", which is written first
_TEXT = slice(33, 45)
_READERS = 16


class AnswerLog:
    """The answers of one model. Holds where each one is (some 200 bytes an answer) and reads it when asked.

    Args:
        place: folder of all answers.
        model_id: whose they are.
    """

    def __init__(self, place: Location, model_id: str) -> None:
        readable = re.sub(r"[^A-Za-z0-9.-]+", "-", model_id).strip("-.")
        self.place = place / f"{readable}-{digest_of(model_id)}"
        self._files: list[Location] = []
        self._where: dict[str, tuple[int, int, int]] = {}  # key: file, first byte, bytes
        self._fresh: dict[str, bytes] = {}  # answers that are in no file yet
        self._lock = threading.Lock()
        self._written = time.monotonic()
        self._name = f"{int(time.time()):012}-{secrets.token_hex(4)}"
        self._number = 0
        self._read_index()

    def __len__(self) -> int:
        return len(self._where) + len(self._fresh)

    def __contains__(self, key: str) -> bool:
        return key in self._where or key in self._fresh

    def get(self, key: str) -> Answer | None:
        """The answer that was kept, None where there is none."""
        line = self._fresh.get(key)
        if line is None:
            if key not in self._where:
                return None
            number, start, length = self._where[key]
            with cached(self._files[number]).open("rb") as stream:
                stream.seek(start)
                line = stream.read(length)
        kept = json.loads(line)
        return Answer(kept["text"], kept["prompt_tokens"], kept["answer_tokens"])

    def keep(self, key: str, answer: Answer) -> None:
        """Keep an answer: on a disk it is there when this returns.

        Raises:
            FinedeficsError: the place cannot be written to.
        """
        line = json.dumps({"key": key, **vars(answer)}, ensure_ascii=False).encode() + b"\n"
        with self._lock:
            self._fresh[key] = line
            waited = time.monotonic() - self._written
            if self.place.local or len(self._fresh) >= FLUSH_ANSWERS or waited >= FLUSH_SECONDS:
                self._flush()

    def flush(self) -> None:
        """Write what waits; raises as `keep`."""
        with self._lock:
            self._flush()

    def refresh(self) -> None:
        """Look again at what is kept: whoever was waited for was answered meanwhile; raises as `keep`."""
        with self._lock:
            self._flush()
            self._files, self._where = [], {}
            self._read_index()

    def _flush(self) -> None:
        if not self._fresh:
            return
        content = b"".join(self._fresh.values())
        if (folder := self.place.local) is not None:
            file = self.place / f"{self._name}.jsonl"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with (folder / file.name).open("ab") as stream:
                    start = stream.tell()
                    stream.write(content)
            except OSError as error:
                raise FinedeficsError(
                    f"an answer cannot be kept ({error.strerror})",
                    place=str(folder),
                    cure="free space and run the same command again: what is answered is kept",
                ) from error
        else:
            self._number += 1
            file, start = self.place / f"{self._name}-{self._number:08}.jsonl", 0
            file.write_bytes(content)
        self._index(file, self._fresh.items(), start)
        self._fresh = {}
        self._written = time.monotonic()

    def _index(self, file: Location, lines: Iterable[tuple[str, bytes]], start: int) -> None:
        if not self._files or self._files[-1] != file:
            self._files.append(file)
        for key, line in lines:
            if key:
                self._where[key] = (len(self._files) - 1, start, len(line))
            start += len(line)

    def _read_index(self) -> None:
        ways = [way for way in self.place.files() if way.endswith(".jsonl")]
        with ThreadPoolExecutor(_READERS) as pool:  # an object store answers many at once
            for way, content in zip(ways, pool.map(self._content, ways), strict=True):
                self._index(self.place / way, _lines(content), 0)

    def _content(self, way: str) -> bytes:
        return cached(self.place / way).read_bytes()


def _lines(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Lines by key; "" for what was being written when the process was killed, and for what is no text."""
    for line in content.splitlines(keepends=True):
        whole = line.endswith(b"\n") and line[_TEXT] == b'", "text": "'
        yield line[_KEY].decode() if whole else "", line
