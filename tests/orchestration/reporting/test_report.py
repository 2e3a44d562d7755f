"""The report: one file that holds everything, escapes what it shows, and leaves out what there is not."""

import io
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from finedefics.evaluation import accuracy_table, differences, verdict
from finedefics_platform.base.storage import Location
from finedefics_platform.reporting.report import ReportData, write_report
from finedefics_platform.reporting.results_table import terminal_table

ANSWERS = ("names", "alignment", "describe")
# Percent right on labelled and new categories: what such a comparison looks like.
RATES: dict[str, dict[str, tuple[int, int]]] = {
    "base": {"names": (4, 2), "alignment": (22, 22), "describe": (78, 80)},
    "instruction": {"names": (85, 0), "alignment": (21, 8), "describe": (9, 1)},
    "control": {"names": (84, 0), "alignment": (22, 17), "describe": (87, 90)},
    "two_stage": {"names": (82, 1), "alignment": (44, 50), "describe": (6, 4)},
    "joint": {"names": (82, 1), "alignment": (80, 92), "describe": (85, 90)},
}
SPEEDS = {arm: {"names": 160.0, "alignment": 980.0 + len(arm), "describe": 96.0} for arm in RATES}
NASTY = "Gilt <b>wren</b> & 'co'"
VOID = {"meta", "img", "link", "br"}


def items_of(arm: str, rng: np.random.Generator, scope: str) -> pd.DataFrame:
    rows = []
    for answer in ANSWERS:
        for group, count, rate in zip(("labelled", "new"), (288, 96), RATES[arm][answer], strict=True):
            chance = rate / 100 if scope == "all" else 0.25 + 0.75 * rate / 100
            rows += [
                {
                    "sample_id": f"{group}{i}",
                    "group": group,
                    "answer": answer,
                    "scope": scope,
                    "correct": bool(right),
                }
                for i, right in enumerate(rng.random(count) < chance)
            ]
    return pd.DataFrame(rows)


def history(arm: str) -> list[dict[str, Any]]:
    stages = {"two_stage": ["align", "instruct"]}.get(arm, ["train"])
    terms = {"align": ["object_attribute", "attribute_category"], "instruct": ["answer"]}
    rows = []
    for stage in stages:
        for step in range(1, 41):
            own = {
                f"loss_{term}": 3.2 * 0.96**step for term in terms.get(stage, ["answer", "object_attribute"])
            }
            metrics = {**own, "loss": sum(own.values()), "learning_rate": 1e-4}
            metrics["object_attribute_temperature"] = 0.07 + 0.0002 * step
            rows.append({"stage": stage, "step": step, "metrics": metrics})
    return rows


def embedded(rng: np.random.Generator, noise: float) -> dict[str, Any]:
    names = [NASTY, *(f"Species {i}" for i in range(1, 24))]
    texts = rng.normal(size=(24, 16))
    categories = [name for name in names for _ in range(10)]
    objects = np.repeat(texts, 10, axis=0) * (1 - noise) + rng.normal(size=(240, 16)) * (0.3 + noise)
    return {
        "objects": objects + 2 * noise,
        "object_groups": ["new" if names.index(name) % 4 == 0 else "labelled" for name in categories],
        "object_categories": categories,
        "texts": texts,
        "text_names": names,
    }


def drawing(colour: tuple[int, int, int], kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(buffer, kind)
    return buffer.getvalue()


def sample(number: int) -> dict[str, Any]:
    truth = NASTY if number == 0 else f"Species {number}"
    return {
        "image": drawing((30 * number, 120, 90), "PNG" if number % 2 else "JPEG"),
        "truth": truth,
        "group": "new" if number % 2 == 0 else "labelled",
        "description": "a bird with a red crown, a white belly, a blue wing, two bars and a <spotted> breast",
        "answers": {
            arm: {answer: {"name": truth, "correct": arm in ("joint", "control")} for answer in ANSWERS}
            for arm in RATES
        },
    }


@pytest.fixture(scope="module")
def data() -> ReportData:
    rng = np.random.default_rng(5)
    items = {arm: pd.concat([items_of(arm, rng, "all"), items_of(arm, rng, "options")]) for arm in RATES}
    table, rows = accuracy_table(items, SPEEDS), differences(items)
    return ReportData(
        title="New species from a dozen captioned pictures",
        table=table,
        options_table=accuracy_table(items, {}, scope="options"),
        differences=rows,
        verdict=verdict(table, rows),
        retrieval={
            arm: {"object_to_name": 0.2 + 0.15 * i, "object_to_description": 0.22 + 0.17 * i}
            for i, arm in enumerate(RATES)
        },
        histories={arm: history(arm) for arm in RATES if arm != "base"},
        trials=[
            {
                "trial": f"{n:05}",
                "parameters": {"negatives": n, "temperature": 0.07},
                "validation": 0.71 + n / 50,
                "state": "stopped" if n == 1 else "done",
            }
            for n in range(4)
        ],
        samples=[sample(n) for n in range(4)],
        provenance={
            "dataset": "birds@3f9a01c2d4e5",
            "experiments": {arm: "9c1d2e3f" for arm in RATES if arm != "base"},
            "seed": 0,
            "versions": {"torch": "2.13.0", "ray": "2.60.0"},
            "commands": ["finedefics demo --seed 0", "finedefics train --config 'joint.yaml'"],
        },
        embeddings={"base": embedded(rng, 0.9), "joint": embedded(rng, 0.1)},
    )


@pytest.fixture(scope="module")
def page(data: ReportData, tmp_path_factory: pytest.TempPathFactory) -> str:
    place = Location.of(tmp_path_factory.mktemp("report") / "deeper" / "report.html")
    write_report(data, place)
    return place.read_text()


class Tags(HTMLParser):
    """Collects tags and attributes, and complains of a tag that closes what is not open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"


def test_page_is_well_formed(page: str) -> None:
    tags = Tags(page)
    assert tags.open == []
    assert [tag for tag, _ in tags.found].count("h1") == 1


def test_page_needs_nothing_from_outside(page: str) -> None:
    for tag, attributes in Tags(page).found:
        assert tag not in {"script", "link", "iframe", "object"}
        for name in ("src", "href", "xlink:href", "data", "srcset"):
            value = attributes.get(name) or "data:"
            assert value.startswith("data:image/"[: len(value)]), f"{tag} {name}={value[:60]}"
    assert "http://" not in page
    assert "https://" not in page
    assert "url(" not in page
    assert "@import" not in page


def test_pictures_are_carried_with_their_type(page: str) -> None:
    sources = [attributes["src"] or "" for tag, attributes in Tags(page).found if tag == "img"]
    assert len(sources) == 4
    assert sources[0].startswith("data:image/jpeg;base64,")
    assert sources[1].startswith("data:image/png;base64,")


def test_what_others_wrote_is_escaped(page: str) -> None:
    assert "<b>wren</b>" not in page
    assert "&lt;b&gt;wren&lt;/b&gt;" in page
    assert "<spotted>" not in page


def test_every_arm_answer_and_sentence_is_there(page: str, data: ReportData) -> None:
    for arm, answers in data.table.items():
        assert f"</span>{arm}" in page
        for cells in answers.values():
            for group in ("new", "labelled"):
                assert f"<b>{100 * cells[group]['accuracy']:.1f}</b>" in page
    assert "In one pass (alignment), joint names categories it never had a label for" in page
    assert "anything about photographs" in page
    assert page.count("Not shown: ") == 0
    for name in ("loss_answer", "loss_attribute_category", "object_attribute_temperature"):
        assert f"<code>{name}</code>" in page
    assert "<code>learning_rate</code>" not in page


def test_right_and_wrong_do_not_hang_on_colour(page: str) -> None:
    assert page.count('aria-label="right">✓') == 4 * 2 * 3
    assert page.count('aria-label="wrong">✗') == 4 * 3 * 3


def test_a_difference_whose_interval_holds_zero_is_marked(page: str, data: ReportData) -> None:
    undecided = sum(row["low"] <= 0 <= row["high"] for row in data.differences)
    assert 0 < undecided < len(data.differences)
    assert page.count("] holds 0</small>") == undecided


def test_a_smaller_comparison_leaves_sections_out(data: ReportData, tmp_path: Path) -> None:
    labelled = {"control": {"names": {"labelled": data.table["control"]["names"]["labelled"]}}}
    small = replace(
        data,
        table=labelled,
        options_table={},
        differences=[],
        verdict=[],
        retrieval={},
        histories={"control": [{"stage": "train", "step": 1, "metrics": {"loss": float("nan")}}]},
        trials=[],
        samples=[],
        embeddings=None,
    )
    write_report(small, Location.of(tmp_path / "small.html"))
    text = (tmp_path / "small.html").read_text()
    assert Tags(text).open == []
    for heading in ("Four hard options", "Search trials", "Training", "Embeddings", "Paired", "costs"):
        assert f"<h2>{heading}" not in text


def test_the_console_shows_the_same_figures(data: ReportData) -> None:
    console = Console(width=80, record=True, file=io.StringIO(), color_system=None)
    console.print(terminal_table(data.table, data.differences))
    lines = console.export_text().splitlines()
    assert all(arm in "\n".join(lines) for arm in RATES)
    aligned = next(line for line in lines if "alignment" in line and " 985 " in line)
    cell = data.table["joint"]["alignment"]["new"]
    percent = [f"{100 * cell[key]:.0f}" for key in ("accuracy", "low", "high")]
    assert f"{percent[0]} [{percent[1]}-{percent[2]}] ▲" in aligned
    assert sum(line.count("] *") for line in lines) >= 2
    assert max(map(len, lines)) <= 80
