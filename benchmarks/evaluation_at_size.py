"""An evaluation of many pictures with three answers, killed in the middle and gone on with (Linux).

    python -m benchmarks.evaluation_at_size                     # 20,000 pictures; takes minutes
    python -m benchmarks.evaluation_at_size --pictures 1000 --folder /somewhere/empty

Drawn birds, a tiny base model, and the product's own evaluation in a process of its own, which gets SIGKILL
when half of its parts are written and is then started again. Printed is one JSON object: memory of the driver
alone (PSS, twice a second) at the quarters of either half and at its peak, seconds, and how many parts that
were there at the kill were written a second time.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

ANSWERS = ("alignment", "names", "describe")
EVERY_SECONDS = 0.5
SETTLES_SECONDS = 5.0  # what the killed driver's processes had in hand is written by then, or lost with them
MIB = 1 << 20


def prepare(home: Path, pictures: int) -> tuple[str, str]:
    """A drawn world and its base model; the reference of the dataset and the model's folder."""
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.data.ingesting import ingest
    from finedefics_platform.worlds.settings import BaseSettings, WorldSettings, world_base, world_data

    workspace = open_workspace(home)
    species = 24
    settings = WorldSettings(
        labelled=1,
        captioned=1,
        val=2,
        test=-(-pictures // species),
        base=BaseSettings(birds=500, vision_steps=50, language_steps=50),
    )
    world, folder = world_data(workspace, 0, settings)
    dataset = ingest(workspace, "many", folder)
    return dataset.reference, str(world_base(workspace, world, settings))


def evaluate(home: Path, dataset: str, model: str) -> None:
    """What the process that is watched does."""
    from finedefics_platform.base.workspace import open_workspace
    from finedefics_platform.config.experiment import Evaluation
    from finedefics_platform.evaluation.run import evaluate as ask

    settings = Evaluation(answers=ANSWERS, calibration="off")
    done = ask(open_workspace(home), model, dataset, settings)
    items = done.items().filter(_in_all(done.items()))
    told = items.group_by(["sample_id", "answer"]).aggregate([([], "count_all")])
    twice = sum(count > 1 for count in told["count_all"].to_pylist())
    print(json.dumps({"pictures": done.summary["pictures"], "answers": len(told), "told_twice": twice}))


def _in_all(items: Any) -> Any:
    import pyarrow.compute as pc

    return pc.equal(items["scope"], "all")


class Driver:
    """An evaluating process: its memory, and the parts that it has written."""

    def __init__(self, home: Path, dataset: str, model: str) -> None:
        self.parts, self.memory = home / "evaluations" / ".parts", [0.0]
        self.started = time.perf_counter()
        asked = [str(home), dataset, model]
        command = [sys.executable, "-m", "benchmarks.evaluation_at_size", "--drive", *asked]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def written(self) -> dict[str, int]:
        """Parts with answers, and when each was written."""
        return {file.name: file.stat().st_mtime_ns for file in self.parts.glob("*/asked-*.npz")}

    def watch(self, until: int | None) -> dict[str, int]:
        """Look on until so many parts are written, or it ends; every part that was ever seen."""
        seen: dict[str, int] = {}
        while self.process.poll() is None:
            try:
                self.memory.append(psutil.Process(self.process.pid).memory_full_info().pss / MIB)
                seen |= self.written()
            except (psutil.Error, FileNotFoundError):  # it has just ended, or tidies up
                continue
            if until is not None and len(seen) >= until:
                break
            time.sleep(EVERY_SECONDS)
        return seen

    def told(self) -> dict[str, Any]:
        """Seconds, and MiB of the driver over time."""
        quarters = statistics.quantiles(range(len(self.memory)), n=4)
        return {
            "seconds": round(time.perf_counter() - self.started),
            "memory_at_quarters": [round(self.memory[int(place)]) for place in quarters],
            "memory_peak": round(max(self.memory)),
        }


def run(home: Path, pictures: int) -> dict[str, Any]:
    """Prepare, kill, go on; what `main` prints."""
    from finedefics_platform.evaluation.parts import PART

    dataset, model = prepare(home, pictures)
    parts = -(-pictures // PART)
    first = Driver(home, dataset, model)
    first.watch(until=max(1, parts // 2))
    told = first.told()
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    time.sleep(SETTLES_SECONDS)
    before = first.written()
    second = Driver(home, dataset, model)
    seen = second.watch(until=None)
    said, _ = second.process.communicate()
    if second.process.returncode:
        raise SystemExit("error: the evaluation that went on failed")
    again = [name for name in before if name in seen and seen[name] != before[name]]
    return {
        **json.loads(said.splitlines()[-1]),
        "unit": "MiB, seconds",
        "killed": {**told, "parts_written": len(before)},
        "went_on": second.told(),
        "parts_written_again": len(again),
    }


def main(arguments: list[str]) -> int:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--folder", help="the workspace; kept")
    parser.add_argument("--drive", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.drive:
        home, dataset, model = chosen.drive
        evaluate(Path(home), dataset, model)
        return 0
    if chosen.folder:
        print(json.dumps(run(Path(chosen.folder), chosen.pictures)))
        return 0
    with tempfile.TemporaryDirectory() as made:
        print(json.dumps(run(Path(made), chosen.pictures)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
