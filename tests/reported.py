"""A workspace with two trained runs, their base, evaluations and pictures, made without any training."""

import io
import json
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw
from registered import trained_run

from finedefics.evaluation.schema import ITEMS
from finedefics.records import CATEGORIES, ROW_GROUPS, SAMPLES
from finedefics_platform.base.content import model_digest
from finedefics_platform.base.digest import digest_of
from finedefics_platform.base.storage import commit, fetch
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.parquet import write_part
from finedefics_platform.data.store import Dataset
from finedefics_platform.data.versions import new_version
from finedefics_platform.training.trained import TrainedRun

NAMES = ("Gilt wren", "Ash wren", "Dusk lark", "Marsh lark", "Slate <b>crow</b>", "Moss tit")
NEW = ("c4", "c5")  # ids of the categories without a labelled training picture
CURVE = [[0.25, 0.0], [0.5, 0.05], [0.75, 0.1], [1.0, 0.3]]  # coverage and risk
PICTURES = 8  # of each category in the split test
# Of 8 pictures of each category, how many each arm names rightly, by names and by alignment.
RIGHT = {"base": (1, 2), "joint": (6, 7), "plain": (5, 3)}
LATER = {
    "options": pa.list_(pa.string()),
    "position": pa.int32(),
    "reply": pa.string(),
    "score": pa.float32(),
}
STAGE = {"steps": 4, "feeds": {"labelled": 8}}


def drawing(category: int, number: int) -> bytes:
    """A bird of a kind: colours by its category, a place of its own."""
    image = Image.new("RGB", (96, 96), (228, 236 - 8 * number, 240))
    draw = ImageDraw.Draw(image)
    colour = [(186, 142, 35), (128, 132, 130), (92, 70, 60), (70, 100, 84), (52, 60, 82), (96, 140, 52)][
        category
    ]
    left = 16 + 2 * number
    draw.ellipse((left, 36, left + 52, 78), fill=colour)
    draw.ellipse((left + 34, 20, left + 62, 48), fill=colour)
    draw.polygon([(left + 60, 32), (left + 74, 36), (left + 60, 40)], fill=(200, 120, 30))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def picture_set(workspace: Workspace) -> Dataset:
    """Six kinds of birds, `PICTURES` of each in the split test."""
    rows = [
        {
            "sample_id": f"p{kind}-{number}",
            "image": drawing(kind, number),
            "category_id": f"c{kind}",
            "split": "test",
            "width": 96,
            "height": 96,
            "content_hash": f"h{kind}-{number}",
            "source": f"test/{kind}/{number}.png",
            "look": kind * 100 + number,
        }
        for kind in range(len(NAMES))
        for number in range(PICTURES)
    ]
    draft = new_version(workspace, "birds")
    group = pa.Table.from_pylist(rows, SAMPLES)
    draft.parts("samples", [write_part(draft.home, "samples", [group])], {"step": "test"})
    about = {"file": 0, "index": 0, "rows": len(rows), "bytes": 9, "split": "test", "labelled": True}
    about |= {"described": 0, "categories": [int(row["category_id"][1:]) for row in rows]}
    draft.write("row_groups", pa.Table.from_pylist([about], ROW_GROUPS), {"step": "test"})
    told = [{"category_id": f"c{kind}", "name": name} for kind, name in enumerate(NAMES)]
    draft.write("categories", pa.Table.from_pylist(told, CATEGORIES), {"step": "test"})
    draft.count({"test": {f"c{kind}": PICTURES for kind in range(len(NAMES))}})
    return draft.publish("made")


def answered(arm: str) -> list[dict[str, Any]]:
    """Items of an arm: by names and alignment among all, by letters among four options."""
    rows = []
    for kind in range(len(NAMES)):
        for number in range(PICTURES):
            sibling = kind ^ 1  # a wren is taken for the other wren
            for place, answer in enumerate(("names", "alignment", "letters")):
                right = number < RIGHT[arm][min(place, 1)]
                options = [f"c{(kind + step) % len(NAMES)}" for step in range(4)]
                options[1 + number % 3], options[0] = options[0], options[1 + number % 3]
                wrong = None if answer == "letters" and number == 7 else f"c{sibling}"
                letters = answer == "letters"
                rows.append(
                    {
                        "sample_id": f"p{kind}-{number}",
                        "category_id": f"c{kind}",
                        "group": "new" if f"c{kind}" in NEW else "labelled",
                        "answer": answer,
                        "scope": "options" if letters else "all",
                        "predicted": f"c{kind}" if right else wrong,
                        "correct": right,
                        "description": None,
                        "options": options if letters else None,
                        "position": options.index(f"c{kind}") if letters else None,
                        "reply": f"Answer: {'ABCD'[number % 4]}" if letters else None,
                        "score": 0.9 - 0.05 * number,
                    }
                )
    return rows


def evaluated(workspace: Workspace, dataset: Dataset, arm: str, digest: str, **more: Any) -> None:
    """An evaluation as `finedefics evaluate` leaves it."""
    about = {
        "dataset": dataset.reference,
        "dataset_digest": dataset.digest,
        "split": "test",
        "limit": None,
        "protocol": {"answers": ["names", "alignment", "letters"], "options": 4, "seed": 0},
        "model_digest": digest,
        "labelled_digest": "labelled",
        "pictures": PICTURES * len(NAMES),
        "categories": len(NAMES),
        "chance": {"all": 1 / len(NAMES), "options": 0.25},
        "pictures_per_second": {"names": 40.0, "alignment": 160.0, "letters": 20.0},
        "unparseable": {"letters": 1 / PICTURES},
        "retrieval": {"object_to_name": RIGHT[arm][1] / 8, "object_to_description": RIGHT[arm][0] / 8},
        "rotations": {"letters": {"orders": 4, "questions": 48, "consistency": 0.5}},
        "unknown": {"alignment": {"threshold": 0.6, "coverage": 0.75, "risk": 0.1, "curve": CURVE}},
        "leaks": {"pictures": 0, "of": PICTURES * len(NAMES)},
        "finished": 1_790_000_000.0 + len(arm),
        **more,
    }
    rng = np.random.default_rng(len(arm))
    texts = rng.normal(size=(len(NAMES), 8)).astype(np.float32)
    apart = 8 / (1 + RIGHT[arm][1])
    objects = np.repeat(texts, PICTURES, 0) + apart * rng.normal(size=(PICTURES * len(NAMES), 8)) / 4
    schema = ITEMS
    for name, kind in LATER.items():
        schema = schema if name in ITEMS.names else schema.append(pa.field(name, kind))
    with commit(workspace.evaluations / digest_of([arm, about])) as draft:
        pq.write_table(pa.Table.from_pylist(answered(arm), schema), draft / "items.parquet")
        (draft / "summary.json").write_text(json.dumps(about))
        np.savez(
            draft / "embeddings.npz",
            objects=objects.astype(np.float32),
            sample_ids=np.array([f"p{k}-{n}" for k in range(len(NAMES)) for n in range(PICTURES)]),
            category_ids=np.array([f"c{kind}" for kind in range(len(NAMES))]),
            name=texts,
            description=texts,
        )


def with_events(run: TrainedRun, terms: tuple[str, ...], stages: tuple[str, ...] = ("joint",)) -> None:
    """A course of training, and the record of the driver that did it."""
    lines, total = [], 0
    for stage in stages:
        for step in range(1, 21):
            total += 1
            losses = {f"loss_{term}": 3.0 * 0.9**total for term in terms}
            metrics = {
                "loss": sum(losses.values()),
                **losses,
                "object_attribute_temperature": 0.07 + total / 1000,
            }
            lines.append(
                {
                    "event": "step",
                    "time": total,
                    "stage": stage,
                    "step": step,
                    "total_step": total,
                    "metrics": metrics,
                }
            )
    training = run.model.parent
    (training / "events" / "0001-0001-aaaaaa.jsonl").write_text(
        "".join(json.dumps(one) + "\n" for one in lines)
    )
    (training / "attempts" / "0001.json").write_json(
        {
            "number": 1,
            "user": "ada",
            "started": time.time() - 60,
            "ended": 1_789_000_000.0,
            "outcome": "finished",
            "topology": {"resources": {"workers": 2, "cpus_per_worker": 1}, "deepspeed": {"zero_stage": 1}},
            "versions": {
                "python": "3.11",
                "machine": "Linux x86_64",
                "git_commit": "0123456789abcdef",
                "version.torch": "2.13",
            },
        }
    )


def workspace_of_runs(workspace: Workspace) -> tuple[TrainedRun, TrainedRun]:
    """The runs `joint` and `plain` (of two stages), which began with one base; all three are evaluated."""
    dataset = picture_set(workspace)
    labelled = [f"c{kind}" for kind in range(len(NAMES)) if f"c{kind}" not in NEW]
    common: dict[str, Any] = {"labelled": labelled, "dataset": dataset.reference}
    joint = {"name": "joint", **STAGE, "terms": {"answer": 1, "object_attribute": 0.5}}
    runs = (
        trained_run(workspace, "joint-0a1b2c", name="joint", stages=[joint], **common),
        trained_run(
            workspace,
            "plain-3d4e5f",
            name="plain",
            seed=1,
            stages=[
                {"name": "align", **STAGE, "terms": {"answer": 1}},
                {"name": "tune", **STAGE, "steps": 6, "terms": {"answer": 1}},
            ],
            **common,
        ),
    )
    with_events(runs[0], ("answer", "object_attribute"))
    with_events(runs[1], ("answer",), ("align", "tune"))
    for run in runs:
        arm = run.key.partition("-")[0]
        evaluated(workspace, dataset, arm, model_digest(fetch(run.model)))
    evaluated(workspace, dataset, "base", runs[0].base)
    return runs
