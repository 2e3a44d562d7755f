"""Pages as people meet them, in Chromium: by mouse and keyboard, on a desk and a phone, light and dark."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser import PHONE, browser, opened
from reported import workspace_of_runs

from finedefics_platform.base.workspace import Workspace, open_workspace
from finedefics_platform.comparison.making import make_report
from finedefics_platform.models.registration import register_run
from finedefics_platform.study.page import study_page
from finedefics_platform.tracking.interface import serve_interface

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow
__all__ = ["browser"]  # a fixture of this module


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = open_workspace(tmp_path_factory.mktemp("looked at"))
    workspace_of_runs(workspace)
    return workspace


@pytest.fixture(scope="module")
def page(home: Workspace) -> Path:
    made = make_report(home, ["joint", "plain"])
    assert made.place.local is not None
    return made.place.local


def test_a_report_opens_from_a_file_and_asks_for_nothing(browser: "Browser", page: Path) -> None:
    with opened(browser, page) as seen:
        assert seen.complaints == []
        assert seen.asked == []
        assert seen.broken_pictures() == []
        assert seen.page.locator("#mistakes .shot:visible").count() > 3
        assert seen.page.locator("main section").count() == seen.page.locator("nav a").count()
        seen.page.locator("nav a", has_text="Where it goes wrong").click()
        assert seen.page.locator("#mistakes").evaluate("(one) => one.getBoundingClientRect().top") < 200


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_a_phone_shows_it_without_pushing_sideways(browser: "Browser", page: Path, colours: Any) -> None:
    with opened(browser, page, size=PHONE, colours=colours) as seen:
        assert seen.complaints == []
        assert seen.wider_than_the_screen() == 0
        ink, ground = seen.page.evaluate(
            "(() => { const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]; })()"
        )
        assert ink != ground
        bright = sum(map(int, ground.removeprefix("rgb(").removesuffix(")").split(",")))
        assert (bright > 500) == (colours == "light")


def test_pictures_stand_behind_a_cell_and_the_keyboard_opens_it(browser: "Browser", page: Path) -> None:
    with opened(browser, page) as seen:
        seen.tab_to(".filters [name=view]")
        seen.tab_to(".matrix button")
        first = seen.page.evaluate("document.activeElement.getAttribute('aria-label')")
        seen.page.keyboard.press("ArrowRight")
        second = seen.page.evaluate("document.activeElement.getAttribute('aria-label')")
        assert first != second
        seen.page.keyboard.press("Enter")
        dialog = seen.page.locator("dialog.behind")
        assert dialog.is_visible()
        number, _, rest = second.partition(" of ")
        truth, _, named = rest.partition(" named ")
        assert dialog.locator("h3").inner_text() in (f"{truth}, named {named}", f"{truth}, named rightly")
        assert dialog.locator(".shot img").count() == int(number)
        assert seen.broken_pictures() == []
        seen.page.keyboard.press("Escape")
        assert not dialog.is_visible()
        assert seen.page.evaluate("document.activeElement.getAttribute('aria-label')") == second
        assert seen.complaints == []


def test_filters_choose_by_category_group_and_answer(browser: "Browser", page: Path) -> None:
    with opened(browser, page) as seen:
        shown = seen.page.locator("#mistakes > .sheet .shot:visible")
        count = seen.page.locator("#mistakes .count")
        wrong = shown.count()
        assert count.inner_text() == f"{wrong} wrong answers by joint, alignment, all categories."
        seen.page.select_option("[name=group]", "new")
        assert 0 < shown.count() < wrong
        assert {*shown.locator(".tag").all_inner_texts()} == {"new"}
        seen.page.click(".filters button[type=reset]")
        there = "document.querySelectorAll('#mistakes > .sheet .shot:not([hidden])').length"
        seen.page.wait_for_function(f"{there} === {wrong}")
        seen.page.select_option("[name=view]", label="plain: alignment, all categories")
        assert shown.count() == 30, "the rest on demand"
        seen.page.select_option("[name=truth]", label="Slate <b>crow</b>")
        assert {*shown.locator("h4").all_inner_texts()} == {"Slate <b>crow</b>"}
        seen.page.select_option("[name=view]", label="joint: letters, options")
        assert "Answer: " in shown.first.inner_text()
        assert shown.first.locator(".options li").count() == 4
        seen.page.select_option("[name=right]", "right")
        assert "right answers by joint, letters, options" in count.inner_text()


def test_a_table_of_categories_sorts_by_its_headings(browser: "Browser", page: Path) -> None:
    with opened(browser, page) as seen:
        table = seen.page.locator(".sortable")
        table.locator("thead button").first.click()
        names = table.locator("tbody th").all_inner_texts()
        assert names == sorted(names, key=str.lower)
        assert table.locator("thead th").first.get_attribute("aria-sort") == "ascending"


def told_of_a_study() -> dict[str, Any]:
    row = {"against": "base", "metric": "new/names", "planned": True, "p": 0.01, "holm": 0.02, "n": 3}
    cells = {"new/names": {"mean": 0.5, "se": 0.1, "half": 0.2, "n": 3}}
    return {
        "study": "both",
        "digest": "0a1b",
        "question": "Does it help?",
        "limits": "Drawn birds.",
        "worlds": ["w0", "w1", "w2"],
        "worlds_are": "drawn",
        "conditions": {},
        "seeds": [0],
        "answers": ["names"],
        "arms": {"base": cells, "joint": cells},
        "tokens": {"base": None, "joint": 2000.0},
        "differences": [{**row, "arm": "joint", "mean": 0.2, "low": 0.1, "high": 0.3, "missing": []}],
        "figures": {},
        "failed": [],
        "steps": {"train": {"steps": 3, "seconds": 60.0}},
        "seconds": 60.0,
        "settings": {
            "worlds": {"seeds": [0, 1, 2]},
            "arms": {"base": {"train": False}, "joint": {"experiment": "joint.yaml", "set": {"seed": 1}}},
            "evaluation": {"split": "test"},
        },
    }


@pytest.mark.parametrize("size", [(1280, 900), PHONE])
def test_a_studys_page_is_of_the_same_family(
    browser: "Browser", tmp_path: Path, size: tuple[int, int]
) -> None:
    text, lead = study_page(told_of_a_study())
    assert len(lead) == 3
    assert "joint is 20.0 points above base in new/names" in lead[1]
    (tmp_path / "study.html").write_text(text)
    with opened(browser, tmp_path / "study.html", size=size, colours="dark") as seen:
        assert (seen.complaints, seen.asked, seen.wider_than_the_screen()) == ([], [], 0)
        assert seen.page.locator("header .lead p").count() == 4, "the question, and three sentences"
        assert seen.page.locator("main section").count() == seen.page.locator("nav a").count() == 4
        assert seen.page.locator(".forest .mean").count() == 1


@pytest.mark.timeout(900)
def test_mlflows_pages_show_runs_and_models(browser: "Browser", home: Workspace, page: Path) -> None:
    from finedefics_platform.comparison.making import gathered_runs
    from finedefics_platform.comparison.subjects import find_subject

    (arm,) = gathered_runs(home, [find_subject(home, "joint")]).runs
    assert arm.run is not None
    assert arm.judged is not None
    (arm.judged.evaluations[0].folder / "index").mkdir(exist_ok=True)
    (arm.judged.evaluations[0].folder / "index" / "categories.json").write_text("[]")
    version = register_run(home, "birds", arm.run, arm.judged.evaluations[0])
    with serve_interface(home, port=0) as interface:
        run = f"{interface.url}/#/experiments/1/runs/{arm.run.parent_run_id}"
        with opened(browser, run) as seen:
            seen.page.get_by_text("train").first.wait_for()
            seen.page.get_by_text("finedefics.key").first.wait_for()
            assert [one for one in seen.complaints if "finedefics" in one] == []
            assert all(url.startswith(interface.url) for url in seen.asked if "report" in url)
        with opened(browser, f"{run}/artifacts/report/{page.name}") as seen:
            frame = seen.page.frame_locator("iframe")
            frame.locator("h1").wait_for()
            assert "joint and plain" in frame.locator("h1").inner_text()
            assert frame.locator(".matrix button").count() > 3, "its script runs there too"
        with opened(browser, f"{interface.url}/#/models/birds/versions/{version.version}") as seen:
            seen.page.get_by_text("birds").first.wait_for()
            seen.page.get_by_text("candidate").first.wait_for()
