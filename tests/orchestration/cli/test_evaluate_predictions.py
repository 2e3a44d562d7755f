"""`finedefics evaluate --from-predictions`: figures for a machine and a person, comparisons, wrong uses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from finedefics.evaluation.schema import ITEMS
from finedefics_platform.cli.figures import by_category
from finedefics_platform.cli.main import main

NAMES = ["Wren", "Lark", "Crow", "Tern"]
CAR = Path(__file__).parents[4] / "shared" / "reference" / "foci" / "predictions-car-196.json"

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes replies as a file of FOCI predictions; every right option is another letter."""

    def made(name: str, replies: list[str], data: str = "") -> str:
        rows = [
            {"image": f"{n}.jpg", "options": NAMES, "correct": NAMES[n % 4], "predicted_raw": reply}
            for n, reply in enumerate(replies)
        ]
        place = tmp_path / name
        place.write_text(json.dumps({"predictions": rows, "config": {"dataset": data or None}}))
        return str(place)

    return made


def told(capfd: Any, *arguments: str) -> dict[str, Any]:
    assert main(["evaluate", *arguments, "--json"]) == 0
    (line,) = capfd.readouterr().out.splitlines()
    return json.loads(line)  # type: ignore[no-any-return]


def right(count: int, of: int = 40) -> list[str]:
    return ["ABCD"[n % 4] if n < count else "ABCD"[(n + 1) % 4] for n in range(of)]


@pytest.mark.skipif(not CAR.is_file(), reason="the published predictions are not here")
def test_the_published_cars(capfd: Any) -> None:
    found = told(capfd, "--from-predictions", str(CAR))
    assert found["event"] == "done"
    assert (found["accuracy"], found["n"], found["unparsed"]) == (0.23865190896654645, 8041, 0)
    assert found["near_chance"] is True
    low, high = found["ci95"]
    assert 0.229 < low < found["accuracy"] < high < 0.249
    assert found["foci"]["accuracy"] == found["accuracy"]
    assert main(["evaluate", "--from-predictions", str(CAR)]) == 0
    said = capfd.readouterr().out
    assert "23.87" in said
    assert "warning: predictions-car-196.json: near chance: 23.87 % [22.95, 24.81] of 8041 is below" in said


def test_both_parses_stand_side_by_side_and_either_can_lead(write: Write, capfd: Any) -> None:
    file = write("hand.json", ["Answer: B", "b)", "The answer is C", "", "AB"])
    strict = told(capfd, "--from-predictions", file)
    assert (strict["parse"], strict["accuracy"], strict["unparsed"]) == ("strict", 2 / 5, 2)
    assert (strict["foci"]["accuracy"], strict["foci"]["unparsed"]) == (3 / 5, 2)
    foci = told(capfd, "--from-predictions", file, "--parse", "foci")
    assert (foci["parse"], foci["accuracy"], foci["strict"]["accuracy"]) == ("foci", 3 / 5, 2 / 5)


def test_several_data_sets_are_held_against_chance_by_holm(write: Write, capfd: Any) -> None:
    birds, cars = write("b.json", right(38), "birds"), write("c.json", right(14), "cars")
    found = told(capfd, "--from-predictions", birds, "--from-predictions", cars)
    sure, unsure = found["files"]
    assert (sure["data"], unsure["data"]) == ("birds", "cars")
    assert sure["p_chance_holm"] == pytest.approx(2 * sure["p_chance"])
    assert unsure["p_chance_holm"] == unsure["p_chance"]
    assert (sure["near_chance"], unsure["near_chance"]) == (False, True)
    assert found["mean_accuracy"] == pytest.approx((38 + 14) / 80)
    assert "accuracy" not in found, "no figure of one file stands for several"


def test_methods_are_compared_by_data_set(write: Write, capfd: Any) -> None:
    ours = [write("ours-b.json", right(36), "birds"), write("ours-c.json", right(36), "cars")]
    theirs = [write("theirs-b.json", right(20), "birds"), write("theirs-c.json", right(35), "cars")]
    asked = [word for file in ours for word in ("--from-predictions", file)]
    asked += [word for file in theirs for word in ("--against", file)]
    found = told(capfd, *asked)
    birds, cars = found["differences"]
    assert (birds["data"], birds["difference"], birds["gained"], birds["lost"]) == ("birds", 0.4, 16, 0)
    assert birds["ci95"][0] > 0 > cars["ci95"][0]
    assert birds["p_holm"] == pytest.approx(2 * birds["p"])
    assert cars["p_holm"] == cars["p"] == 1.0
    assert {"p_clustered_holm", "ci95_clustered"} <= birds.keys()
    assert main(["evaluate", *asked]) == 0
    said = capfd.readouterr().out
    assert "+40.00" in said
    assert "Holm's over 2" in said
    assert "4 categories are few" in said


def test_seeds_are_told_by_their_questions(write: Write, capfd: Any) -> None:
    files = [write(f"seed-{seed}.json", right(30 + seed), "birds") for seed in range(3)]
    asked = [word for file in files for word in ("--from-predictions", file)]
    seeds = told(capfd, *asked)["seeds"]["birds"]
    assert (seeds["n"], seeds["mean"]) == (3, pytest.approx(31 / 40))
    assert seeds["low"] < 31 / 40 < seeds["high"]
    assert main(["evaluate", *asked]) == 0
    assert "birds: 3 files on the same questions: mean 77.50 % [" in capfd.readouterr().out


def test_the_item_table_has_the_columns_of_an_evaluation(write: Write, tmp_path: Path, capfd: Any) -> None:
    place = tmp_path / "new" / "items.parquet"
    asked = ["--from-predictions", write("p.json", right(30)), "--items", str(place)]
    told(capfd, *asked)
    table = pq.read_table(place)
    assert (len(table), sum(table["correct"].to_pylist())) == (40, 30)
    for field in ITEMS:
        assert table.schema.field(field.name).type == field.type
    before = place.read_bytes()
    assert main(["evaluate", *asked]) == 2
    assert "there is a file already; give a new name" in capfd.readouterr().err
    assert place.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["b.json"], "MODEL has no meaning beside --from-predictions; give each file an option of its own"),
        (
            ["--probes"],
            "finedefics evaluate: --probes has no meaning beside --from-predictions; leave it out",
        ),
        (["--unknown", "off"], "--unknown has no meaning beside --from-predictions; leave it out"),
        (["--limit", "3"], "--limit has no meaning beside --from-predictions; leave it out"),
        (["--from-predictions", "b.json", "--data", "birds"], "--data: one dataset of 2 files; name one"),
        (["--against", "items.parquet"], "items.parquet: an evaluation of ours, whose pictures have other"),
        (["--register", "birds"], "--register has no meaning beside --from-predictions"),
        (["--parse", "loose"], "loose: there is no such parse; choose one of: strict, foci"),
        (["--against", "x.json", "--against", "y.json"], "--against: 1 files against 2; name one for each"),
        (["--from-predictions", "b.json", "--items", "t.parquet"], "--items: one item table of 2 files"),
        (["--against", "absent.json"], "absent.json: cannot be read (No such file or directory); give"),
    ],
)
def test_wrong_uses_are_named(write: Write, capfd: Any, arguments: list[str], line: str) -> None:
    assert main(["evaluate", "--from-predictions", write("a.json", right(30)), *arguments]) == 2
    said = capfd.readouterr()
    assert said.out == ""
    (error,) = said.err.splitlines()
    assert line in error


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--against", "x.json", "--data", "birds"], "--against without --from-predictions; name a file"),
        (["joint-1a2b"], "finedefics evaluate: missing option '--data'; name a dataset"),
        ([], "finedefics evaluate: missing option '--data'; name a dataset"),
    ],
)
def test_what_belongs_together_is_asked_for(capfd: Any, arguments: list[str], line: str) -> None:
    assert main(["evaluate", *arguments]) == 2
    assert line in capfd.readouterr().err


def test_a_cell_says_how_many_categories_it_is_of() -> None:
    wide = {"low_clustered": 0.25, "high_clustered": 0.75}
    assert by_category({**wide, "clusters": 40}) == "25.0 to 75.0 (40)"
    assert by_category({**wide, "clusters": 4}) == "25.0 to 75.0 (4 few)"
    assert by_category({"low_clustered": None, "high_clustered": None, "clusters": 1}) == "(1)"
    assert by_category({"low": 0.1, "high": 0.2}) == "", "of an older evaluation"
