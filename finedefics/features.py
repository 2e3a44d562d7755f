"""What a frozen vision tower and connector make of pictures, kept on disk: a picture is encoded once, ever.

A store is a folder of safetensors files of some hundred pictures each, named by what made them
(`maker_digest`); within it a picture is found by the SHA-256 of its encoded bytes, as the dataset's
``content_hash``. A file appears whole (written aside, then renamed) and never changes, so any number of
processes reads and writes one store at once, on one machine or on a shared disk: two that encode one picture
write the same. The token ids that stand for a picture are kept too, so one that is found is not decoded.
"""

import contextlib
import hashlib
import json
import os
import threading
import time
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from finedefics.backbones import Backbone
from finedefics.backbones.family import Grid, ImageTokens
from finedefics.errors import FinedeficsError, reason_of, wrong_use
from finedefics.flat import sent
from finedefics.pictures import ImageEncoder

FILE_BYTES = 64 << 20  # of features that wait in memory before a file of them is written
FILE_SECONDS = 30.0  # or so long: other processes find what is in files
_ENDING = ".safetensors"


@dataclass(frozen=True)
class Features:
    """One picture as the language model takes it.

    Attributes:
        tokens: [tokens, hidden], on the CPU.
        block: token ids that stand for it in a sequence, boundary tokens included.
        grid: rows and columns of its tokens, None where the family counts on one axis.
    """

    tokens: Tensor
    block: tuple[int, ...]
    grid: Grid | None = None


@dataclass(frozen=True)
class Recalled:
    """A batch's pictures of which some were found in a store; the others stand in `Batch.images`.

    Attributes:
        count: pictures of the batch.
        found: places of those that were found, among all.
        lengths, grids: of each of those.
        tokens: [tokens, hidden] of those, one after the other.
        keys, blocks: of the others, in their order.
    """

    count: int
    found: tuple[int, ...]
    lengths: tuple[int, ...]
    grids: tuple[Grid | None, ...]
    tokens: Tensor
    keys: tuple[str, ...]
    blocks: tuple[tuple[int, ...], ...]

    def to(self, device: torch.device | str) -> "Recalled":
        """The same on a device."""
        return replace(self, tokens=sent(self.tokens, device))

    def beside(self, made: ImageTokens) -> ImageTokens:
        """All pictures of the batch in their order, ``made`` being those that were not found."""
        tokens = dict(zip(self.found, self.tokens.split(self.lengths), strict=True))
        grids = dict(zip(self.found, self.grids, strict=True))
        missing = (place for place in range(self.count) if place not in tokens)
        own: Sequence[Grid | None] = made.grids or [None] * len(made)
        fresh = zip(missing, made, own, strict=True)
        for place, each, grid in list(fresh):
            tokens[place], grids[place] = each, grid
        places = [grid for _, grid in sorted(grids.items()) if grid is not None]
        return ImageTokens((tokens[place] for place in range(self.count)), places or None)


class FeatureStore:
    """Features of pictures in a folder. It can be pickled, and reads and writes the same folder elsewhere.

    Args:
        folder: of one maker alone (`maker_digest`); made when first written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.RLock()
        self._listed: dict[str, tuple[int, Any]] = {}  # file -> its bytes, and the open file
        self._changed = -1
        self._places: dict[str, tuple[str, dict[str, Any]]] = {}  # key -> file, and what is told of it
        self._blocks: dict[tuple[int, ...], tuple[int, ...]] = {}  # equal ones are kept once
        self._waiting: dict[str, Features] = {}
        self._flushed = time.monotonic()
        self._arrived: Any = None  # of what waits and is still on its way from a card

    def __reduce__(self) -> Any:
        return FeatureStore, (self.folder,)

    def find(self, key: str) -> Features | None:
        """The picture of this key; None where nobody kept it, or what was kept is damaged."""
        with self._lock:
            if key in self._waiting:
                self._arrive()
                return self._waiting[key]
            if key not in self._places:
                self._list()
            place = self._places.get(key)
            if place is None:
                return None
            file, told = place
            try:
                tokens = self._listed[file][1].get_tensor(key)
                if _checksum(tokens) == told["checksum"]:
                    return Features(tokens, told["block"], told["grid"])
            except Exception:  # safetensors has an error of its own, which is no OSError
                pass
            del self._places[key]  # encoded again, and kept in a file that is read after this one
            return None

    def add(self, keys: Sequence[str], tokens: ImageTokens, blocks: Sequence[tuple[int, ...]]) -> None:
        """Keep pictures that were encoded. From a card nothing waits for them.

        Raises:
            FinedeficsError: there is no room for them, or the folder cannot be written to.
        """
        grids: Sequence[Grid | None] = tokens.grids or [None] * len(tokens)
        with self._lock:
            for key, each, block, grid in zip(keys, tokens, blocks, grids, strict=True):
                if key not in self._waiting:
                    here = each.detach().to("cpu", copy=True, non_blocking=each.is_cuda).contiguous()
                    self._waiting[key] = Features(here, tuple(block), grid)
            if tokens and tokens[0].is_cuda:
                self._arrived = torch.cuda.Event()
                self._arrived.record()
            held = sum(each.tokens.nbytes for each in self._waiting.values())
            if held >= FILE_BYTES or time.monotonic() - self._flushed > FILE_SECONDS:
                self.flush()

    def flush(self) -> None:
        """Write what waits in memory; as `add`."""
        from safetensors.torch import save_file

        with self._lock:
            if not self._waiting:
                return
            self._arrive()
            told = {
                key: json.dumps({"checksum": _checksum(each.tokens), "block": each.block, "grid": each.grid})
                for key, each in self._waiting.items()
            }
            aside = self.folder / f".{uuid.uuid4().hex}"
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                save_file({key: each.tokens for key, each in self._waiting.items()}, aside, told)
                os.replace(aside, self.folder / f"{uuid.uuid4().hex}{_ENDING}")
            except Exception as error:  # safetensors tells a full disk by an error of its own
                with contextlib.suppress(OSError):
                    aside.unlink()
                raise FinedeficsError(
                    f"features of pictures cannot be kept ({reason_of(error)})",
                    place=str(self.folder),
                    cure="free space (the folder may be deleted), or leave compute.cache_vision out",
                ) from error
            self._waiting.clear()
            self._flushed = time.monotonic()

    def size(self) -> tuple[int, int]:
        """Pictures that are kept, and their bytes on disk."""
        with self._lock:
            self._list()
            return len(self._places), sum(size for size, _ in self._listed.values())

    def _arrive(self) -> None:
        if self._arrived is not None:
            self._arrived.synchronize()
            self._arrived = None

    def _list(self) -> None:
        """Learn of files that appeared since; of two with one picture the later one counts."""
        from safetensors import safe_open

        try:
            changed = self.folder.stat().st_mtime_ns
        except OSError:
            return
        if changed == self._changed:
            return
        self._changed = changed
        new = [file for file in self.folder.glob(f"*{_ENDING}") if file.name not in self._listed]
        for file in sorted(new, key=lambda file: (file.stat().st_mtime_ns, file.name)):
            try:
                opened = safe_open(str(file), framework="pt")
                places = {key: json.loads(told) for key, told in (opened.metadata() or {}).items()}
            except Exception:  # damaged: what was in it is encoded again
                with contextlib.suppress(OSError):
                    file.unlink()
                continue
            self._listed[file.name] = (file.stat().st_size, opened)
            for key, told in places.items():
                block = tuple(told["block"])
                told["block"] = self._blocks.setdefault(block, block)
                told["grid"] = told["grid"] and tuple(told["grid"])
                self._places[key] = (file.name, told)


def check_frozen(backbone: Backbone) -> None:
    """FinedeficsError (exit code 2) where what is made of a picture changes while the model is trained."""
    beside = [backbone.model.get_parameter(name) for name in backbone.family.beside_connector]
    for part, own in (
        ("vision tower", list(backbone.part("vision").parameters())),
        ("connector", [*backbone.part("connector").parameters(), *beside]),
    ):
        if any(parameter.requires_grad for parameter in own):
            raise wrong_use(
                f"the {part} is trained, so what it makes of a picture changes with every step",
                place="compute.cache_vision",
                cure="train the language model alone (model.train: [text], or adapters.targets: [text]), "
                "or leave it out",
            )


def maker_digest(backbone: Backbone) -> str:
    """32 hex digits of all that decides what is made of a picture, but for the picture itself.

    Weights of tower and connector, the model's configuration without its language model's, the dtype, the
    processor's settings and the token ids it writes for a picture, and transformers' version.

    Args:
        backbone: with whole weights, not in shards.
    """
    import transformers

    sha = hashlib.sha256()
    config = backbone.model.config.to_dict()
    for name in ("text_config", "_name_or_path", "dtype", "torch_dtype", "quantization_config"):
        config.pop(name, None)
    images = backbone.processor.image_processor
    _, (block,) = ImageEncoder(backbone.processor)([Image.new("RGB", (64, 64))])
    told = [transformers.__version__, type(images).__name__, str(backbone.dtype), block, config]
    sha.update(json.dumps([*told, images.to_dict()], sort_keys=True, default=str).encode())
    weights = [
        (f"{part}.{name}", parameter)
        for part in ("vision", "connector")
        for name, parameter in backbone.part(part).named_parameters()
    ]
    weights += [(name, backbone.model.get_parameter(name)) for name in backbone.family.beside_connector]
    for name, parameter in weights:
        sha.update(name.encode())
        sha.update(_bytes(parameter))
        if (state := getattr(parameter, "quant_state", None)) is not None:  # the scales of four-bit weights
            for value in state.as_dict(packed=True).values():
                sha.update(_bytes(value))
    return sha.hexdigest()[:32]


def picture_key(image: bytes) -> str:
    """The SHA-256 of an encoded picture, as the dataset's ``content_hash``."""
    return hashlib.sha256(image).hexdigest()


def recalled(store: FeatureStore, images: Sequence[bytes]) -> tuple[Recalled, list[Features | None]]:
    """What a store has of a batch's pictures; the blocks of the others are to be filled in."""
    keys = [picture_key(image) for image in images]
    there = [store.find(key) for key in keys]
    known = [(place, each) for place, each in enumerate(there) if each is not None]
    tokens = torch.cat([each.tokens for _, each in known]) if known else torch.empty(0, 0)
    return (
        Recalled(
            len(images),
            tuple(place for place, _ in known),
            tuple(len(each.tokens) for _, each in known),
            tuple(each.grid for _, each in known),
            tokens,
            tuple(key for key, each in zip(keys, there, strict=True) if each is None),
            (),
        ),
        there,
    )


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()


def _checksum(tokens: Tensor) -> int:
    return zlib.crc32(_bytes(tokens))
