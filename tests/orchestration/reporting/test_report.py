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
from finedefics_platform.reporting.mistakes import NOTHING, Mistakes, Said, Shot, View, for_page, matrix_order
from finedefics_platform.reporting.report import Differing, PerCategory, ReportData, write_report
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


def looked_at() -> Mistakes:
    names = [NASTY, *(f"Species {i}" for i in range(1, 24))]
    views = [
        View(arm, f"{answer}, all categories", {(0, 0): 3, (0, 1): 4, (1, 0): 1, (2, NOTHING): 1})
        for arm in RATES
        for answer in ANSWERS
    ]
    words = "a bird with a red crown, a white belly, a blue wing, two bars and a <spotted> breast"
    shots = [
        Shot(
            drawing((30 * number, 120, 90), "PNG" if number % 2 else "JPEG"),
            number,
            {
                0: Said(1 - number if number < 2 else NOTHING, 0.4, "Answer: <B>", (1, 0, 2, 3), 1),
                1: Said(number, words=words),
            },
        )
        for number in range(4)
    ]
    groups = ["new" if number % 4 == 0 else "labelled" for number in range(24)]
    return Mistakes(names, groups, views, 0, shots, "4 of 6 wrong answers have their picture here.")


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
        facts=[("date", "2026-01-02"), ("commit", "0123abcd")],
        arms={"base": "the model before tuning", "joint": "every feed in every step, contrast kept alive"},
        checks=[("good", "chance", "every interval lies above 4.2 %"), ("bad", "leak", "3 of 96 pictures")],
        chance={"all": 1 / 24},
        mistakes=looked_at(),
        per_category=PerCategory(
            [{"arm": "joint", "answer": "names"}],
            [
                {
                    "category": NASTY,
                    "group": "new",
                    "n": 8,
                    "cells": [{"accuracy": 0.5, "low": 0.2, "high": 0.8}],
                },
                {"category": "Species 1", "group": "labelled", "n": 4, "cells": [None]},
            ],
            "All 2 categories.",
        ),
        differing=Differing(["joint", "two_stage"], [("stages.align.steps", (None, "40"))]),
        experiments={"joint": "name: joint\nseed: 0\n"},
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
        assert tag not in {"link", "iframe", "object"}
        for name in ("src", "href", "xlink:href", "data", "srcset"):
            value = attributes.get(name) or "data:image/"
            if tag == "a" and name == "href":
                assert value.startswith("#"), value
            else:
                assert value.startswith("data:image/"), f"{tag} {name}={value[:60]}"
    assert "http://" not in page
    assert "https://" not in page
    assert "url(" not in page
    assert "default-src 'none'" in page
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


def test_what_stands_first_is_the_verdict_and_what_it_was_measured_on(page: str, data: ReportData) -> None:
    head = page[: page.index("<main")]
    assert head.count("<p>") == 3
    assert data.verdict[0].split(",")[0] in head
    for told in ("2026-01-02", "0123abcd"):
        assert told in head
    assert "the model before tuning" in page
    assert "What the numbers show" in page, "and the further sentences below"


def test_contents_name_every_section_that_is_there(page: str) -> None:
    tags = Tags(page).found
    sections = [attributes["id"] for tag, attributes in tags if tag == "section"]
    links = [(attributes["href"] or "")[1:] for tag, attributes in tags if tag == "a"]
    assert links == ["content", *sections]
    assert {"headline", "accuracy", "differences", "mistakes", "categories", "training", "provenance"} <= {
        *sections
    }


def test_right_and_wrong_do_not_hang_on_colour(page: str) -> None:
    assert page.count('aria-label="wrong">✗') == 4
    assert page.count('class="wrong-answer"') == 4


def test_a_page_has_what_was_shown_to_the_model_and_what_it_wrote() -> None:
    found = for_page(looked_at())
    first = found["data"]["shots"][0]
    assert first == {
        "truth": 0,
        "said": {
            "0": {"p": 1, "s": 0.4, "r": "Answer: <B>", "o": [1, 0, 2, 3], "k": 1},
            "1": {
                "p": 0,
                "w": "a bird with a red crown, a white belly, a blue wing, two bars and a <spotted> breast",
            },
        },
    }
    assert [shot["first"] for shot in found["shots"]] == [True] * 4
    assert found["frequent"] == [{"truth": NASTY, "named": "Species 1", "count": 4, "of": 7}]
    assert found["data"]["views"][0]["nothing"]
    assert "Answer: \\u003cB\\u003e" in render(looked_at()), (
        "nothing a model writes ends the script it stands in"
    )


def render(mistakes: Mistakes) -> str:
    from finedefics_platform.reporting.report import render_report

    return render_report(ReportData("one", mistakes=mistakes))


def test_a_matrix_keeps_the_most_confused_and_puts_them_together() -> None:
    pairs = {(n, n): 10 for n in range(60)} | {(0, 50): 9, (50, 0): 9, (3, 7): 2, (59, NOTHING): 1}
    order = matrix_order(pairs)
    assert len(order) == 40
    assert {0, 50, 3, 7, 59} <= {*order}
    assert abs(order.index(0) - order.index(50)) == 1
    view = View("one", "names", pairs | {(58, 57): 1, (55, 54): 1})
    small = for_page(Mistakes([f"c{n}" for n in range(60)], ["new"] * 60, [view], 0))
    assert small["data"]["views"][0]["left"].startswith("The 40 of 60 categories")
    assert matrix_order({(1, 1): 2, (0, 1): 1}) == [0, 1]


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
        mistakes=None,
        per_category=None,
        differing=None,
        embeddings={},
    )
    write_report(small, Location.of(tmp_path / "small.html"))
    text = (tmp_path / "small.html").read_text()
    assert Tags(text).open == []
    left = {attributes["id"] for tag, attributes in Tags(text).found if tag == "section"}
    assert left == {"headline", "arms", "checks", "accuracy", "provenance"}


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
