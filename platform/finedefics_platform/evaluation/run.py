"""Evaluation spread over the cluster: a model's answers to every picture, kept as one item table."""

import json
import shutil
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from finedefics.errors import FinedeficsError, wrong_use
from finedefics.records import Sample
from finedefics_platform.base.cluster_session import ensure_ray
from finedefics_platform.base.content import model_digest
from finedefics_platform.base.digest import digest_of
from finedefics_platform.base.progress import SILENT, Progress
from finedefics_platform.base.storage import Location, fetch
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.experiment import Evaluation as Settings
from finedefics_platform.config.experiment import Experiment
from finedefics_platform.data.store import Dataset, open_dataset

if TYPE_CHECKING:
    from finedefics.backbones import Backbone
    from finedefics.evaluation.items import Items
    from finedefics.scoring import EnsembleWeight, Recogniser

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
        folder: holds ``items.parquet``, ``summary.json``, ``embeddings.npz`` and the category ``index/``.
        summary: pictures, settings, ``pictures_per_second`` and ``tokens_per_picture`` by answer (a speed is
            that of one process), the ``unparseable`` share of replies, the weight of the ``ensemble`` and
            what it was chosen on, and ``retrieval`` of names and descriptions from object embeddings.
    """

    folder: Path
    summary: dict[str, Any]

    @property
    def place(self) -> Location:
        """Where it is kept."""
        return Location.of(self.folder)

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


def evaluate(
    workspace: Workspace,
    model: Path | Location,
    dataset_reference: str,
    settings: Settings,
    *,
    labelled: Collection[str] | None = None,
    shards: int = 2,
    progress: Progress = SILENT,
) -> Evaluated:
    """Evaluate a model folder; an equal evaluation that is finished is returned at once.

    Args:
        model: Hugging Face folder.
        dataset_reference: the dataset whose split, categories and negatives are used.
        settings: split, answers, options and limit.
        shards: processes that share the pictures.

    Raises:
        FinedeficsError: the split is empty, an answer is unknown, or negatives were never mined.
    """
    from finedefics.evaluation.items import check_answers

    model = fetch(model) if isinstance(model, Location) else model
    check_answers(settings.answers)
    if "ensemble" in settings.answers and settings.split == "val":
        raise wrong_use(
            "the ensemble's weight is chosen on val, so its accuracy there would flatter it",
            place="answer `ensemble`",
            cure="evaluate on the split test, or leave the answer out",
        )
    dataset = open_dataset(workspace, dataset_reference)
    samples = [s for s in dataset.samples(settings.split) if s.category_id is not None][: settings.limit]
    if not samples:
        raise FinedeficsError(
            f"no labelled picture in the split {settings.split}",
            place=dataset.reference,
            cure="evaluate on another split with --split",
        )
    determining = settings.model_dump(mode="json", exclude={"every"})
    folder = workspace.local.evaluations / digest_of(
        [model_digest(model), dataset.digest, determining, sorted(labelled or ())]
    )
    if not (folder / "summary.json").is_file():
        _evaluate(
            model,
            dataset,
            samples,
            settings,
            folder,
            min(shards, len(samples)),
            progress,
            set(labelled or ()),
        )
    return Evaluated(folder, json.loads((folder / "summary.json").read_text()))


def _evaluate(
    model: Path,
    dataset: Dataset,
    samples: list[Sample],
    settings: Settings,
    folder: Path,
    shards: int,
    progress: Progress,
    labelled: set[str],
) -> None:
    ensure_ray()
    import ray

    labelled = labelled or dataset.labelled_category_ids()
    aside = folder.with_name(f".{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    task = ray.remote(num_cpus=1, max_retries=2)
    place = (str(model), str(dataset.root))
    weighed = "ensemble" in settings.answers
    weight = _result(task(_ensemble_weight).remote(*place, settings)) if weighed else None
    remote = task(_answer_shard)
    waiting = [
        remote.remote(*place, samples[shard::shards], settings, labelled, index, weight)
        for shard in range(shards)
        for index in [str(aside / "index") if shard == 0 else None]
    ]
    parts: list[tuple[Items, dict[str, np.ndarray]]] = []
    order = list(waiting)
    with progress.progress("evaluating", len(samples)) as advance:
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1)
            advance(len(_result(done[0])[0].sample_ids))
        parts = [_result(reference) for reference in order]
    measured = {"dataset": dataset.reference, "dataset_digest": dataset.digest, "limit": settings.limit}
    _write(aside, parts, samples, settings, weight, measured | {"model_digest": model_digest(model)})
    aside.replace(folder)


def _result(reference: Any) -> Any:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.as_instanceof_cause()
        raise (error.cause if isinstance(error.cause, FinedeficsError) else cause) from None


def _answer_shard(
    model: str,
    dataset: str,
    samples: list[Sample],
    settings: Settings,
    labelled: set[str],
    index_folder: str | None,
    weight: "EnsembleWeight | None",
) -> "tuple[Items, dict[str, np.ndarray]]":
    """One process's share of the pictures (a Ray task)."""
    from finedefics.evaluation.items import evaluate_samples, text_embeddings

    recogniser = _recogniser(model, dataset, settings, weight)
    if index_folder is not None:
        recogniser.index.save(Path(index_folder))
    items = evaluate_samples(
        recogniser, samples, settings.answers, labelled=labelled, options=settings.options
    )
    texts = text_embeddings(recogniser)
    texts["category_ids"] = np.array([c.category_id for c in recogniser.categories])
    return items, texts


def _recogniser(
    model: str, dataset: str, settings: Settings, weight: "EnsembleWeight | None" = None
) -> "Recogniser":
    """The model as it was trained to be asked, with the categories of the dataset."""
    import torch

    from finedefics.backbones import load_backbone
    from finedefics.conversation import Templates
    from finedefics.readout import load_readout
    from finedefics.scoring import Recogniser
    from finedefics_platform.base.workspace import open_workspace

    if not torch.cuda.is_available():
        torch.set_num_threads(1)  # processes share the cores; a speed is that of one of them
    categories = open_dataset(open_workspace(), dataset).categories()
    backbone, templates = load_backbone(model), Templates.load(model)
    return Recogniser(
        backbone,
        categories,
        templates=templates,
        object_readout=load_readout(model),
        ensemble=weight,
        seed=settings.seed,
    )


def _ensemble_weight(model: str, dataset: str, settings: Settings) -> "EnsembleWeight":
    """Choose the ensemble's weight on the validation split (a Ray task)."""
    import torch

    from finedefics.evaluation.items import BATCH
    from finedefics.scoring import choose_weight
    from finedefics.scoring.ensemble import PARTS

    samples = _validation_samples(dataset, settings.limit, cure="leave the answer `ensemble` out")
    recogniser = _recogniser(model, dataset, settings)
    batches = [[s.image for s in samples[i : i + BATCH]] for i in range(0, len(samples), BATCH)]
    names, alignment = (
        torch.cat([recogniser.answer(batch, part).scores for batch in batches]) for part in PARTS
    )
    place = {category.category_id: i for i, category in enumerate(recogniser.categories)}
    truth = [place[sample.category_id or ""] for sample in samples]
    return choose_weight(names, alignment, truth, dataset=Path(dataset).name, split="val")


def _write(
    folder: Path,
    parts: "Sequence[tuple[Items, dict[str, np.ndarray]]]",
    samples: list[Sample],
    settings: Settings,
    weight: "EnsembleWeight | None",
    measured: dict[str, Any],
) -> None:
    from finedefics.evaluation.items import retrieval, unparseable

    order = {sample.sample_id: i for i, sample in enumerate(samples)}
    rows = [row for items, _ in parts for row in items.rows]
    rows.sort(key=lambda row: (row["answer"], row["scope"], order[row["sample_id"]]))
    pq.write_table(pa.Table.from_pylist(rows, ITEMS), folder / "items.parquet")
    ids = [sample_id for items, _ in parts for sample_id in items.sample_ids]
    place = np.argsort([order[i] for i in ids])
    objects = np.concatenate([items.objects for items, _ in parts])[place]
    texts = parts[0][1]
    np.savez(folder / "embeddings.npz", objects=objects, sample_ids=np.array(ids)[place], **texts)  # type: ignore[arg-type]
    position = {category_id: i for i, category_id in enumerate(texts["category_ids"].tolist())}
    truth = [position[sample.category_id or ""] for sample in samples]
    seconds = {a: sum(items.seconds[a] for items, _ in parts) for a in settings.answers}
    tokens = {a: np.sum([items.tokens[a] for items, _ in parts], axis=0) for a in settings.answers}
    summary = {
        "pictures": len(samples),
        **measured,
        **settings.model_dump(mode="json", exclude={"every", "limit"}),
        "pictures_per_second": {a: len(samples) / s for a, s in seconds.items()},
        "tokens_per_picture": {
            a: {"forwarded": float(t[0]) / len(samples), "generated": float(t[1]) / len(samples)}
            for a, t in tokens.items()
        },
        "unparseable": unparseable(rows),
        "ensemble": asdict(weight) if weight else None,
        "retrieval": {
            "object_to_name": retrieval(objects, texts["name"], truth),
            "object_to_description": retrieval(objects, texts["description"], truth),
        },
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1))


def validate_alignment(
    backbone: "Backbone", dataset: Dataset, experiment: Experiment, rank: int, world: int
) -> dict[str, float]:
    """Accuracy of the alignment answer on the validation split, during training: a `worker.Validate`.

    Every rank answers an equal share of the pictures, so that sharded weights are gathered by all together.
    """
    import torch

    from finedefics.distributed import total
    from finedefics.scoring import Recogniser

    samples = _validation_samples(
        str(dataset.root), experiment.evaluation.limit, cure="leave out evaluation.every"
    )
    share = samples[: len(samples) - len(samples) % world][rank::world]
    labelled = dataset.labelled_category_ids()
    templates = experiment.data.templates.as_templates()
    recogniser = Recogniser(
        backbone,
        dataset.categories(),
        templates=templates,
        object_readout=experiment.model.object_readout,
    )
    ranked = recogniser.recognise([sample.image for sample in share], "alignment", top=1)
    counts = torch.zeros(2, 2)
    for sample, best in zip(share, ranked, strict=True):
        counts[int(sample.category_id in labelled)] += torch.tensor(
            [float(best[0][0] == sample.category_id), 1.0]
        )
    (new_right, new), (old_right, old) = total(counts.to(backbone.device)).tolist()
    figures = {"val_alignment": (new_right + old_right) / max(new + old, 1)}
    figures |= {"val_alignment_new": new_right / new} if new else {}
    figures |= {"val_alignment_labelled": old_right / old} if old else {}
    return figures


@lru_cache(maxsize=4)
def _validation_samples(root: str, limit: int | None, cure: str) -> tuple[Sample, ...]:
    from finedefics_platform.base.workspace import open_workspace

    dataset = open_dataset(open_workspace(), root)
    samples = [s for s in dataset.samples("val") if s.category_id is not None]
    if not samples:
        raise FinedeficsError(
            "no labelled picture in the split val",
            place=root,
            cure=f"{cure}, or add a val split",
        )
    # spread over the split: a limit must not leave whole categories out
    stride = max(1, len(samples) // limit) if limit else 1
    return tuple(samples[::stride][:limit])
