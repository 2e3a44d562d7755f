"""The training stream: its speed beside a torch DataLoader, and how long a step waits for it."""

import io
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.registry import Result, benchmark, in_turn, speedup
from benchmarks.samples import SIZES
from benchmarks.stage_one import STAGE_ONE
from benchmarks.stored import stored
from finedefics.base_model import untrained_backbone
from finedefics.batch import Batch
from finedefics.collation import Collator
from finedefics.objective import Objective
from finedefics.records import Sample
from finedefics_platform.base.cluster_session import ensure_ray
from finedefics_platform.base.workspace import open_workspace
from finedefics_platform.config.stage import Stage
from finedefics_platform.data.store import Dataset
from finedefics_platform.training import collating
from finedefics_platform.training.collating import STEPS_AHEAD
from finedefics_platform.training.stream import TrainingStream, ahead

ROWS = 4096
BATCH = 32
REPEATS = 5
NEGATIVES = 3
AT_ONCE = 2  # processes of either
WAIT_STEPS = 40


def photograph(rng: np.random.Generator, side: int = 256) -> bytes:
    """A JPEG with coarse and fine structure, about as large as a photograph of its size."""
    coarse = Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).resize((side, side), 2)
    noise = rng.integers(-8, 8, (side, side, 3))
    pixels = np.clip(np.asarray(coarse).astype(int) + noise, 0, 255).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=85)
    return content.getvalue()


class Files(torch.utils.data.Dataset[Sample]):
    """JPEG files of a folder, read as a plain program would; what belongs to them is in memory."""

    def __init__(self, folder: Path, samples: list[Sample]) -> None:
        self.samples = [(folder / f"{s.sample_id}.jpg", s) for s in samples]
        for path, sample in self.samples:
            path.write_bytes(sample.image)
        self.samples = [(path, Sample(**{**vars(s), "image": b""})) for path, s in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> Sample:
        path, sample = self.samples[number]
        return Sample(**{**vars(sample), "image": path.read_bytes()})


def collated(stream: TrainingStream, collate: Collator, processes: int) -> Iterator[Batch]:
    """Batches as a training worker makes them."""
    rows = ahead(stream, STEPS_AHEAD)
    return (batch for _, batch in collating.collated(rows, collate, processes))


@benchmark("stream_vs_dataloader")
def stream_vs_dataloader() -> Mapping[str, Result]:
    """Rows a second over an epoch of the same pictures, decoded and collated by the same code."""
    ensure_ray()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    processor = untrained_backbone(SIZES).processor
    with tempfile.TemporaryDirectory() as folder:
        dataset, pictures = _photographs(Path(folder), ROWS)
        files = Files(pictures, dataset.samples("train"))
        collate = Collator(processor, dataset.categories(), STAGE_ONE, negatives=NEGATIVES)
        loader = torch.utils.data.DataLoader(
            files,
            batch_size=BATCH,
            shuffle=True,
            num_workers=AT_ONCE,
            persistent_workers=True,
            collate_fn=lambda rows: collate({"labelled": rows}, step=0),
        )
        stage = _stage(ROWS // BATCH)
        collating.prepare(AT_ONCE)

        def drained(processes: int) -> None:
            _drained(collated(TrainingStream(dataset, stage, 0, 0, 1), collate, processes))

        seconds = in_turn(
            {
                "loader": lambda: _drained(loader),
                "stream": lambda: drained(AT_ONCE),
                "threads": lambda: drained(0),
            },
            REPEATS,
        )
    rates = {name: ROWS / statistics.median(times) for name, times in seconds.items()}
    how = (
        f"an epoch of {ROWS} JPEG pictures (256 x 256) in batches of {BATCH}, decoded and collated: "
        f"{rates['stream']:.0f} rows/s by our stream with {AT_ONCE} processes, which it starts anew "
        f"({rates['threads']:.0f} in threads of one), {rates['loader']:.0f} by a torch DataLoader with "
        f"{AT_ONCE} workers, which it keeps, on the same files"
    )
    return {"stream_vs_dataloader": speedup(seconds["loader"], seconds["stream"], aim=1.0, how=how)}


@benchmark("data_wait_share")
def data_wait_share() -> Mapping[str, Result]:
    """Share of a training step that waits for its batch, in a real small loop."""
    ensure_ray()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    backbone = untrained_backbone(SIZES)
    objective = Objective(backbone, STAGE_ONE)
    optimizer = torch.optim.AdamW(objective.parameters(), 1e-4)
    with tempfile.TemporaryDirectory() as folder:
        dataset, _ = _photographs(Path(folder), ROWS)
        collate = Collator(backbone.processor, dataset.categories(), STAGE_ONE, negatives=NEGATIVES)
        shares = []
        for seed in range(3):
            batches = collated(TrainingStream(dataset, _stage(WAIT_STEPS + 1), seed, 0, 1), collate, 0)
            waited = 0.0
            for step in range(WAIT_STEPS + 1):
                asked = time.perf_counter()
                if step == 1:  # the first batch waits for whatever starts
                    started = asked
                batch = next(batches)
                waited += (time.perf_counter() - asked) if step else 0.0
                objective(batch).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            shares.append(waited / (time.perf_counter() - started))
    how = (
        f"{WAIT_STEPS} steps of {BATCH} rows of a 1.4 M model on the CPU, pictures of 256 x 256 read, "
        "decoded and collated beside them; the first step is left out"
    )
    spread = (min(shares), max(shares))
    return {"data_wait_share": Result(statistics.median(shares), "share", "lower", 0.05, spread, how)}


def _photographs(folder: Path, rows: int) -> tuple[Dataset, Path]:
    rng = np.random.default_rng(0)
    pictures = [photograph(rng) for _ in range(64)]
    dataset = stored(
        open_workspace(folder / "workspace"), "photographs", rows, lambda row: pictures[row % 64]
    )
    (folder / "files").mkdir()
    return dataset, folder / "files"


def _stage(steps: int) -> Stage:
    return Stage(name="one", steps=steps, feeds={"labelled": BATCH}, terms={"answer": 1})


def _drained(batches: object) -> None:
    for batch in batches:  # type: ignore[attr-defined]
        assert batch.size == BATCH
