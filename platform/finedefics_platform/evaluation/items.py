"""What an evaluation leaves: an item table, a summary, embeddings and the category index, in one folder."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finedefics.evaluation.schema import ITEMS
from finedefics_platform.base.storage import Location, fetch
from finedefics_platform.evaluation.asked import told
from finedefics_platform.evaluation.parts import Part, read_arrays, read_rows

if TYPE_CHECKING:
    from finedefics.scoring import CategoryIndex, Unknown

_UNPACKED = "objects.npy"

FORMAT = 2  # of an evaluation's folder: what an older one lacks is not taken for an answer


@dataclass(frozen=True)
class Evaluated:
    """A finished evaluation.

    Attributes:
        folder: on this node; holds ``items.parquet``, ``summary.json``, ``embeddings.npz`` and the category
            ``index/``.
        place: of the folder in the workspace.
        summary: what was measured on (``dataset``, its ``dataset_digest``, ``split``, ``limit``,
            ``pictures``, ``categories``, ``model_digest``, ``labelled_digest``; ``model`` is what it was
            called where it was first asked, None of a folder) and how (``format``; ``protocol``: answers,
            options, seed, and for options of a file its digest, ``options_of``; and the model's
            ``dtype``); how many pictures were asked on random options (``options_random``), what ``chance``
            gives, and what of an ``options_file`` was asked; the answers that guessing reaches
            (``near_chance``), and how many of the pictures are training pictures too (``leaks``);
            ``finished`` in Unix seconds; ``pictures_per_second`` and ``tokens_per_picture`` by answer (a
            speed is that of one process that gives this answer alone: what several answers share was done
            once and counts for each), the ``unparseable`` share of replies, the weight of the ``ensemble``
            and what it was chosen on, whether alignment's ``calibration`` is ``on``, ``why``, on how many
            pictures it was ``fitted``, and the ``trial`` that decided (None where no answer could use one),
            ``retrieval`` of names and descriptions from
            object embeddings; and by answer what a threshold on its score does (``unknown``,
            `finedefics.evaluation.selective`), how its choices follow the order of the options
            (``rotations``, of answers that were asked in several), and how often a free reply was a name
            (``open_set``).
    """

    folder: Path
    place: Location
    summary: dict[str, Any]

    @property
    def index(self) -> Path:
        """Folder of the category index."""
        return self.folder / "index"

    @property
    def items_file(self) -> Path:
        """The item table, Parquet."""
        return self.folder / "items.parquet"

    def items(self, *, rotated: bool = False) -> pa.Table:
        """The item table (schema `ITEMS`), in which each picture, answer and scope stands once.

        What the tables of older formats lack is null.

        Args:
            rotated: with what was asked in other orders of the options, too.
        """
        stored = pq.read_table(self.items_file)
        for column in ITEMS:
            if column.name not in stored.column_names:
                stored = stored.append_column(column, pa.nulls(len(stored), column.type))
        stored = stored.select(ITEMS.names)
        return stored if rotated else stored.filter(pc.equal(stored["rotation"].fill_null(0), 0))

    def embeddings(self) -> dict[str, np.ndarray]:
        """``objects`` [pictures, dim], ``name`` and ``description`` [categories, dim], and their ids."""
        with np.load(self.folder / "embeddings.npz", allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}


def open_evaluation(place: Location) -> Evaluated:
    """A finished evaluation; FileNotFoundError where there is none."""
    folder = fetch(place)
    return Evaluated(folder, place, json.loads((folder / "summary.json").read_text()))


def write_evaluation(
    folder: Path,
    parts: Location,
    asked: Sequence[Part],
    index: "CategoryIndex",
    unknown: "Unknown | None",
    about: dict[str, Any],
) -> None:
    """Fill an evaluation's folder from its finished parts.

    Args:
        parts: where they are kept.
        asked: all of them, in the order of their pictures.
        index: of the model, with what was decided.
        unknown: thresholds, where any were chosen; kept with the index.
        about: what was measured on and how; the head of the summary.
    """
    from finedefics.evaluation.chance import near_chance

    rows = read_rows(parts, asked)
    # a stable order: within an answer, scope and rotation that of the pictures
    order = [(column, "ascending") for column in ("answer", "scope", "rotation")]
    rows = rows.take(pc.sort_indices(rows, order))
    pq.write_table(rows, folder / "items.parquet")
    index.save(folder / "index")
    if unknown is not None:
        unknown.save(folder / "index")
    gathered = _gather(folder, parts, asked, index)
    texts = {"name": index.names.numpy(), "description": index.descriptions.numpy()}
    np.savez(
        folder / "embeddings.npz",
        objects=gathered.objects,
        sample_ids=np.array(gathered.sample_ids),
        category_ids=np.array([category.category_id for category in index.categories]),
        **texts,  # type: ignore[arg-type]
    )
    (folder / _UNPACKED).unlink()
    pictures, answers = len(gathered.sample_ids), about["protocol"]["answers"]
    asked_of = told(len(index.categories), gathered.drawn, gathered.sizes)
    summary = {
        **about,
        **asked_of,
        "near_chance": near_chance(rows.filter(pc.equal(rows["rotation"], 0)), asked_of["chance"]),
        "pictures": pictures,
        "pictures_per_second": dict(zip(answers, (pictures / gathered.seconds).tolist(), strict=True)),
        "tokens_per_picture": {
            answer: {"forwarded": forwarded, "generated": generated}
            for answer, (forwarded, generated) in zip(
                answers, (gathered.tokens / pictures).tolist(), strict=True
            )
        },
        **figures_of(rows, {one.category_id: one.name for one in index.categories}, unknown),
        "ensemble": asdict(index.ensemble) if index.ensemble else None,
        "retrieval": {f"object_to_{of}": hits / pictures for of, hits in gathered.retrieved.items()},
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1))


def figures_of(rows: pa.Table, names: Mapping[str, str], unknown: "Unknown | None" = None) -> dict[str, Any]:
    """For a summary, what the item table says beside accuracy: what was unparsed, unknown, turned and free.

    Args:
        rows: of schema `ITEMS`, of answers that the product's own registry has.
        names: of all categories, by id.
        unknown: thresholds, where any were chosen.
    """
    from finedefics.evaluation.categories import open_set
    from finedefics.evaluation.items import unparseable
    from finedefics.evaluation.rotations import rotation_figures
    from finedefics.evaluation.selective import selective

    ordinary = rows.filter(pc.equal(rows["rotation"], 0))
    return {
        "unparseable": unparseable(ordinary),
        "unknown": selective(ordinary, unknown),
        "rotations": rotation_figures(rows),
        "open_set": open_set(ordinary, names),
    }


@dataclass
class _Gathered:
    """What the parts' arrays say together (`finedefics_platform.evaluation.recogniser.Answering`)."""

    objects: np.ndarray
    sample_ids: list[str] = field(default_factory=list)
    retrieved: Counter[str] = field(default_factory=Counter)
    sizes: Counter[int] = field(default_factory=Counter)
    seconds: Any = 0.0
    tokens: Any = 0
    drawn: int = 0


def _gather(folder: Path, parts: Location, asked: Sequence[Part], index: "CategoryIndex") -> _Gathered:
    from finedefics.evaluation.items import retrieved

    texts = {"name": index.names.numpy(), "description": index.descriptions.numpy()}
    # on the disk: of many pictures and a large model they are gigabytes
    shape = (sum(len(part.places) for part in asked), index.names.shape[1])
    found = _Gathered(np.lib.format.open_memmap(folder / _UNPACKED, "w+", np.float32, shape))
    for one in read_arrays(parts, asked):
        objects, start = one["objects"], len(found.sample_ids)
        found.objects[start : start + len(objects)] = objects
        found.sample_ids += one["sample_ids"].tolist()
        for of, rows in texts.items():
            found.retrieved[of] += retrieved(objects, rows, one["truth"])
        found.sizes.update(dict(one["sizes"].tolist()))
        found.seconds = found.seconds + one["seconds"]
        found.tokens = found.tokens + one["tokens"]
        found.drawn += int(one["drawn"])
    return found
