"""Alignment before and after training: what probes read from the object embeddings of a model and its base.

Both models are taken as frozen encoders of the same pictures (`finedefics_platform.evaluation.encoders`), so
each has an evaluation of its own, which is kept. ``zero_shot`` is the nearest category name (alignment
itself), ``knn`` and ``linear_probe`` what labelled training pictures can tell from the embeddings: a probe
that was good before and stays so, while the nearest name becomes right, is what aligning means.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from finedefics_platform.base.progress import SILENT, Progress
from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.experiment import Evaluation as Settings
from finedefics_platform.evaluation.encoders import default_answers, evaluate_encoder
from finedefics_platform.evaluation.items import Evaluated

if TYPE_CHECKING:
    import pyarrow as pa

BASE, TUNED = "base", "tuned"


def probe(
    workspace: Workspace,
    models: Mapping[str, Location],
    dataset_reference: str,
    settings: Settings,
    *,
    gpus_per_worker: float | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Probe the object embeddings of a model and of its base, on the same pictures.

    Args:
        models: places of the two, `BASE` and `TUNED`.
        settings: split, limit, options and seed.
        gpus_per_worker: of each process that embeds.

    Returns:
        ``{"tables": {model: {answer: {group: cell}}}, "differences": [{"answer", "group", "mean", "low",
        "high", "n"}], "evaluations": {model: place}}``: accuracies among all categories as
        `finedefics.evaluation.accuracy_table` gives them, and tuned less base on the same pictures, with
        Tango's 95 % interval.

    Raises:
        FinedeficsError: as `evaluate_encoder`.
    """
    from finedefics.evaluation.tables import accuracy_table

    done: dict[str, Evaluated] = {}
    for name in (BASE, TUNED):
        encoder = f"tuned:{models[name]}"
        answers = default_answers(workspace, encoder, dataset_reference)
        asked = Settings(
            split=settings.split,
            answers=answers,
            limit=settings.limit,
            options=settings.options,
            seed=settings.seed,
        )
        done[name] = evaluate_encoder(
            workspace, encoder, dataset_reference, asked, gpus_per_worker=gpus_per_worker, progress=progress
        )
    items = {name: evaluated.items() for name, evaluated in done.items()}
    return {
        "tables": accuracy_table(items, {}),
        "differences": _differences(items[TUNED], items[BASE]),
        "evaluations": {name: workspace.name_of(evaluated.place) for name, evaluated in done.items()},
    }


def _differences(tuned: "pa.Table", base: "pa.Table") -> list[dict[str, Any]]:
    """Tuned less base, by answer and group."""
    from finedefics.evaluation.statistics import paired_difference

    keys = ["answer", "group", "sample_id"]
    frames = []
    for items in (tuned, base):
        frame = items.select([*keys, "scope", "correct"]).to_pandas()
        frames.append(frame[frame["scope"] == "all"].set_index(keys)["correct"].sort_index())
    both = frames[0].to_frame("tuned").join(frames[1].rename("base"), how="inner")
    return [
        {"answer": answer, "group": group, **asdict(paired_difference(part["tuned"], part["base"]))}
        for (answer, group), part in both.groupby(level=["answer", "group"])
    ]
