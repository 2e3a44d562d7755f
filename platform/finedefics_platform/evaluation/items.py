"""What an evaluation leaves: an item table, a summary, embeddings and the category index, in one folder."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from finedefics.records import Sample
from finedefics_platform.base.storage import Location, fetch

if TYPE_CHECKING:
    from finedefics.evaluation.items import Items
    from finedefics.scoring import CategoryIndex, EnsembleWeight

ITEMS = pa.schema(
    [
        ("sample_id", pa.string()),
        ("category_id", pa.string()),
        ("group", pa.string()),
        ("answer", pa.string()),
        ("scope", pa.string()),
        ("predicted", pa.string()),
        ("correct", pa.bool_()),
        ("description", pa.string()),
    ]
)


@dataclass(frozen=True)
class Evaluated:
    """A finished evaluation.

    Attributes:
        folder: on this node; holds ``items.parquet``, ``summary.json``, ``embeddings.npz`` and the category
            ``index/``.
        place: of the folder in the workspace.
        summary: what was measured on (``dataset``, its ``dataset_digest``, ``split``, ``limit``,
            ``pictures``, ``categories``, ``model_digest``, ``labelled_digest``) and how (``protocol``:
            answers, options, seed, and for options of a file its digest, ``options_of``); how many pictures
            were asked on random options (``options_random``), what ``chance`` gives, and what of an
            ``options_file`` was asked; ``finished`` in Unix seconds; ``pictures_per_second`` and
            ``tokens_per_picture`` by answer (a speed is that of one process), the ``unparseable`` share of
            replies, the weight of the ``ensemble`` and what it was chosen on, whether alignment's
            ``calibration`` is ``on``, ``why``, on how many pictures it was ``fitted``, and the ``trial`` that
            decided (None where no answer could use one), and ``retrieval`` of names and descriptions from
            object embeddings.
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

    def items(self) -> pa.Table:
        """The item table (schema `ITEMS`)."""
        return pq.read_table(self.items_file)

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
    parts: "Sequence[Items]",
    index: "CategoryIndex",
    samples: Sequence[Sample],
    about: dict[str, Any],
) -> None:
    """Fill an evaluation's folder.

    Args:
        parts: answers of the processes that shared ``samples``, in any order.
        index: of the model, with the ensemble's weight where one was chosen.
        about: what was measured on and how; the head of the summary.
    """
    order = {sample.sample_id: i for i, sample in enumerate(samples)}
    rows = [row for items in parts for row in items.rows]
    rows.sort(key=lambda row: (row["answer"], row["scope"], order[row["sample_id"]]))
    pq.write_table(pa.Table.from_pylist(rows, ITEMS), folder / "items.parquet")
    index.save(folder / "index")
    ids = [sample_id for items in parts for sample_id in items.sample_ids]
    place = np.argsort([order[i] for i in ids])
    objects = np.concatenate([items.objects for items in parts])[place]
    texts = {"name": index.names.numpy(), "description": index.descriptions.numpy()}
    categories = [category.category_id for category in index.categories]
    np.savez(
        folder / "embeddings.npz",
        objects=objects,
        sample_ids=np.array(ids)[place],
        category_ids=np.array(categories),
        **texts,  # type: ignore[arg-type]
    )
    position = {category_id: i for i, category_id in enumerate(categories)}
    truth = [position[sample.category_id or ""] for sample in samples]
    summary = {
        **about,
        "pictures": len(samples),
        **_costs(parts, len(samples)),
        **_figures(rows, objects, texts, truth, index.ensemble),
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1))


def _costs(parts: "Sequence[Items]", pictures: int) -> dict[str, Any]:
    answers = list(parts[0].seconds)
    seconds = {a: sum(items.seconds[a] for items in parts) for a in answers}
    tokens = {a: np.sum([items.tokens[a] for items in parts], axis=0) for a in answers}
    return {
        "pictures_per_second": {a: pictures / s for a, s in seconds.items()},
        "tokens_per_picture": {
            a: {"forwarded": float(t[0]) / pictures, "generated": float(t[1]) / pictures}
            for a, t in tokens.items()
        },
    }


def _figures(
    rows: Sequence[dict[str, Any]],
    objects: np.ndarray,
    texts: dict[str, np.ndarray],
    truth: Sequence[int],
    weight: "EnsembleWeight | None",
) -> dict[str, Any]:
    from finedefics.evaluation.items import retrieval, unparseable

    return {
        "unparseable": unparseable(rows),
        "ensemble": asdict(weight) if weight else None,
        "retrieval": {
            "object_to_name": retrieval(objects, texts["name"], truth),
            "object_to_description": retrieval(objects, texts["description"], truth),
        },
    }
