"""A released file becomes a dataset: pictures, descriptions, and the negatives it brought along."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finedefics_platform.base.workspace import Workspace
from finedefics_platform.cli.main import main
from finedefics_platform.data.store import open_dataset


def test_a_released_file_is_ingested_described_and_mined(
    ray_cluster: Any, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("FINEDEFICS_HOME", str(workspace.root))
    names, noise = ["Wren", "Lark", "Crow"], np.random.default_rng(0)
    (tmp_path / "train").mkdir()
    with (tmp_path / "pretrain.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(
            [
                "image_path",
                "question",
                "answer",
                "type",
                "attribute",
                "neg_attribute",
                "category",
                "neg_category",
            ]
        )
        for number, name in enumerate(names):
            pixels = noise.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"train/{number}.png")
            wrong = [other for other in reversed(names) if other != name]
            texts = "\t\n".join(f"looks like a {other}" for other in wrong)
            row = [f"{number}.png", "What is it?", name, "", f"a {name}", texts, name, "\t\n".join(wrong)]
            writer.writerow(row)
        writer.writerow(["absent.png", "What is it?", "Wren", "", "", "", "Wren", ""])
    source = str(tmp_path / "pretrain.csv")
    assert main(["data", "ingest", source, "--name", "released", "--reader", "released", "--json"]) == 0
    last = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (last["rows"]["samples"], last["rows"]["quarantine"]) == (3, 1)
    assert main(["data", "describe", "released"]) == 0
    assert main(["data", "mine", "released", "--miner", "provided"]) == 0
    samples = open_dataset(workspace, "released").samples("train")
    assert {s.category_id: (s.description, s.negatives) for s in samples} == {
        "wren": ("a Wren", ("crow", "lark")),
        "lark": ("a Lark", ("crow", "wren")),
        "crow": ("a Crow", ("lark", "wren")),
    }
    described = {c.name: c.description for c in open_dataset(workspace, "released").categories()}
    assert described == {name: f"looks like a {name}" for name in names}
