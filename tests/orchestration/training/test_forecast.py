"""What a run will take is told from configurations alone, of 8B models too, and is what is measured then."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from finedefics.backbones.published import PUBLISHED, published_config
from finedefics.base_model import Sizes, untrained_backbone
from finedefics.errors import FinedeficsError
from finedefics.footprint import Activations, PartSize, Step, empty_backbone, part_sizes, picture_of
from finedefics_platform.base.resident import can_be_told
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.cli.main import app
from finedefics_platform.config.documents import parse_yaml
from finedefics_platform.config.experiment import Experiment, load_experiment, parse_experiment
from finedefics_platform.data.store import Dataset
from finedefics_platform.training.forecast import (
    GIB,
    Forecast,
    bytes_of,
    changes_that_fit,
    fitting,
    forecast,
    refuse_what_fits_nowhere,
)
from finedefics_platform.training.forecast.forecast import StageForecast
from finedefics_platform.training.forecast.measured import measured
from finedefics_platform.training.forecast.memory import rank_memory

ROOT = Path(__file__).parents[3]
IDEFICS, QWEN = "HuggingFaceM4/idefics2-8b", "Qwen/Qwen2.5-VL-7B-Instruct"
CARD = 79 * GIB  # what a card of 80 GB shows, and a little less


@pytest.fixture(autouse=True)
def _without_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def spec(name: str, *changes: str) -> Experiment:
    return load_experiment(ROOT / f"jobs/experiments/{name}.yaml", changes)


def printed_experiment() -> Experiment:
    """The first real experiment of README and of the page on training, as printed."""
    pages = ("README.md", "docs/training.md")
    printed = [
        re.findall(r"```yaml\n(name: .*?)```", (ROOT / page).read_text(), re.DOTALL)[0] for page in pages
    ]
    assert printed[0] == printed[1], "one experiment"
    return parse_experiment(parse_yaml(printed[0], place=pages[0]), place=pages[0])


def portions(told: Forecast) -> dict[str, float]:
    return {portion.part: portion.bytes / GIB for portion in told.largest.memory}


@pytest.mark.parametrize(("name", "billions"), [(IDEFICS, 8.40), (QWEN, 8.29)])
def test_parameters_of_the_published_models_are_those_that_are_known(name: str, billions: float) -> None:
    parts = {part.name: part for part in part_sizes(empty_backbone(published_config(name), dtype="bfloat16"))}
    assert sum(part.parameters for part in parts.values()) / 1e9 == pytest.approx(billions, abs=0.005)
    assert sum(part.bytes for part in parts.values()) == 2 * sum(p.parameters for p in parts.values())
    assert parts["vision"].trained == 0
    assert parts["text"].trained == parts["text"].parameters


def test_tokens_of_a_picture_follow_the_family_and_its_settings() -> None:
    idefics, qwen = published_config(IDEFICS), published_config(QWEN)
    own, bounds = PUBLISHED[IDEFICS].processor, PUBLISHED[QWEN].processor
    assert picture_of(idefics, own, 500, 375).tokens == 5 * 64
    whole = picture_of(idefics, {**own, "do_image_splitting": False}, 2000, 1500)
    assert (whole.tokens, whole.patches) == (64, 70 * 53)  # 980 x 735 pixels in patches of 14
    assert picture_of(qwen, bounds, 28 * 20, 28 * 10).tokens == 200
    assert picture_of(qwen, {**bounds, "max_pixels": 401408}, 2000, 1500).tokens == 25 * 19 + 19  # 26 x 19
    assert picture_of(qwen, bounds, 20, 20).tokens == 4  # enlarged to the least


@pytest.mark.parametrize(
    ("experiment", "at_least", "at_most"),
    [
        pytest.param(printed_experiment, 15, 40, id="printed"),
        pytest.param(
            lambda: spec(
                "one-gpu",
                f"model.path={QWEN}",
                "model.processor={max_pixels: 401408}",
                "compute.cache_vision=true",
                "adapters.targets=[text]",
            ),
            15,
            60,
            id="one-gpu Qwen, its pictures kept",
        ),
        pytest.param(lambda: spec("released-8gpu-qlora"), 4, 22, id="released-8gpu-qlora"),
        # the same reckoning of other numbers, many seconds each
        pytest.param(lambda: spec("one-gpu"), 15, 40, id="one-gpu", marks=pytest.mark.slow),
        pytest.param(lambda: spec("eight-gpu"), 15, 50, id="eight-gpu", marks=pytest.mark.slow),
        pytest.param(lambda: spec("sixty-four-gpu"), 15, 60, id="sixty-four-gpu", marks=pytest.mark.slow),
    ],
)
def test_the_experiments_that_are_printed_fit_their_cards(
    experiment: Any, at_least: float, at_most: float, drawn_workspace: Workspace
) -> None:
    asked = experiment()
    told = forecast(drawn_workspace, asked)
    assert "the hub is not reachable" in told.source
    assert told.reckoned.startswith("assumed")
    assert [stage.steps for stage in told.stages] == [stage.steps for stage in asked.stages]
    assert at_least < told.largest.total / GIB < at_most
    rows = sum(rows for feed, rows in asked.stages[0].feeds.items() if feed != "text")
    assert told.stages[0].pictures == rows * asked.stages[0].steps
    # 18 x 13 cells of 28 pixels, each a token of 3,584 numbers in bfloat16
    assert told.stages[0].kept == (18 * 13 * 3584 * 2 if asked.compute.cache_vision else None)


@pytest.mark.slow
def test_what_does_not_fit_is_told_what_to_change(drawn_workspace: Workspace) -> None:
    careless = spec("one-gpu", "compute={}", "model.processor={}")
    told = forecast(drawn_workspace, careless)
    assert portions(told)["activations"] > 300
    changes, fits = changes_that_fit(drawn_workspace, careless, told, CARD)
    assert fits
    assert changes[0].setting == "model.processor.do_image_splitting=false"
    assert {"compute.micro_tokens=16384", "compute.checkpointing=true"} <= {c.setting for c in changes}
    assert [c.bytes for c in changes] == sorted((c.bytes for c in changes), reverse=True)


@pytest.mark.slow
def test_a_model_that_fits_nowhere_is_refused_with_its_arithmetic(
    drawn_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = spec(
        "eight-gpu", "resources.workers=1", "stages.0.feeds={labelled: 1}", "stages.1.feeds={labelled: 1}"
    )
    refuse_what_fits_nowhere(drawn_workspace, whole)  # nobody knows the card
    monkeypatch.setattr(fitting, "card_memory", lambda gpus: 80 * GIB)
    with pytest.raises(
        FinedeficsError, match=r"of a card that has 80\.0 \(optimizer 89\.\d \+ weights 15\.7"
    ) as error:
        refuse_what_fits_nowhere(drawn_workspace, whole)
    assert "--set deepspeed.offload=optimizer" in str(error.value), "the first change that suffices"


def test_sharding_divides_what_it_shards() -> None:
    parts = [PartSize("text", 1000, 600, 2000)]
    step = Step(0, None, (1, 8), (0, 0), 2, 0, 8, 0, 4)
    held = Activations(0, 100, 10, 1, 8)

    def found(zero: int) -> dict[str, int]:
        asked = spec("eight-gpu", f"deepspeed.zero_stage={zero}")
        return {portion.part: portion.bytes for portion in rank_memory(asked, parts, step, held, 16)}

    assert [found(zero)["weights"] for zero in (1, 2, 3)] == [2000, 2000, 250]
    assert [found(zero)["gradients"] for zero in (1, 2, 3)] == [1200, 150, 150]
    assert [found(zero)["optimizer"] for zero in (1, 2, 3)] == [900, 900, 900]
    assert found(3)["ZeRO-3 working set"] == 2000
    assert "ZeRO-3 working set" not in found(2)


def test_what_is_offloaded_is_the_machines_and_not_the_cards() -> None:
    parts = [PartSize("text", 1000, 600, 2000)]
    step = Step(0, None, (1, 8), (0, 0), 2, 0, 8, 0, 4)

    def found(*changes: str) -> tuple[int, dict[str, int], dict[str, int]]:
        asked = spec("eight-gpu", "deepspeed.zero_stage=3", *changes)
        memory = rank_memory(asked, parts, step, Activations(0, 100, 10, 1, 8), 16)
        host, card = ({p.part: p.bytes for p in memory if p.host is on} for on in (True, False))
        return StageForecast("align", 1, 1, {}, memory).total, host, card

    whole, none, card = found()
    assert none == {}
    optimizer, host, left = found("deepspeed.offload=optimizer")
    assert host == {"optimizer": 900, "gradients to step by": 600 * 4 // 8}
    assert whole - optimizer == 900
    assert left == {part: size for part, size in card.items() if part != "optimizer"}
    both, host, left = found("deepspeed.offload=parameters")
    assert host["weights"] == 250
    assert optimizer - both == 250
    assert left["ZeRO-3 working set"] == 2000  # what is whole at a time is on the card
    sizes = "{reduce_bucket_size: 1000, stage3_max_live_parameters: 10}"
    _, _, bounded = found(f"deepspeed.options={{zero_optimization: {sizes}}}")
    assert (bounded["reduction bucket"], bounded["ZeRO-3 working set"]) == (2000, 20)
    on_a_cpu = found("deepspeed.offload=optimizer", "resources.gpus_per_worker=0")
    assert on_a_cpu[1] == {}


@pytest.mark.parametrize(("text", "size"), [("80GiB", 80 * GIB), ("80 GB", 80 * 10**9), ("0.5gib", GIB // 2)])
def test_a_size_is_read_as_people_write_it(text: str, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["80", "much", "0GiB", "80 pounds"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(FinedeficsError, match="write 80GiB"):
        bytes_of(text)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("toy") / "model"
    untrained_backbone(Sizes(latents=16, text_hidden=256, text_layers=6)).save_pretrained(folder)
    return folder


def toy_experiment(model: Path, **changes: Any) -> dict[str, Any]:
    terms = {"answer": 1, "caption": 1, "text": 1, "object_attribute": 0.5, "attribute_category": 0.5}
    stage = {"name": "one", "steps": 3, "feeds": {"labelled": 32, "captioned": 16, "text": 6}, "terms": terms}
    return {
        "name": "toy",
        "data": {"dataset": "drawn", "negatives": 3},
        "model": {"path": str(model)},
        "stages": [stage],
        "resources": {"workers": 1},
        **changes,
    }


@pytest.mark.slow
@pytest.mark.skipif(not can_be_told(), reason="no /proc to read peaks from")
@pytest.mark.parametrize("adapters", [{}, {"kind": "lora"}], ids=["whole weights", "adapters"])
def test_the_peak_that_is_foretold_is_the_one_measured(
    adapters: dict[str, Any], toy: Path, drawn_workspace: Workspace, drawn_dataset: Dataset
) -> None:
    experiment = parse_experiment(toy_experiment(toy, adapters=adapters), place="test")
    told = forecast(drawn_workspace, experiment)
    assert drawn_dataset.reference in told.reckoned
    ran = measured(drawn_workspace, experiment, told)
    assert ran is not None
    assert portions(told)["activations"] * GIB > 0.7 * ran.foretold  # else it would not be what is tested
    assert ran.bytes == pytest.approx(ran.foretold, rel=0.15)


@pytest.mark.slow
def test_the_command_tells_it_to_people_and_machines(
    tmp_path: Path, drawn_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINEDEFICS_HOME", str(drawn_workspace.root))
    file = str(ROOT / "jobs/experiments/released-8gpu-qlora.yaml")
    asked = ["train", file, "--dry-run", "--gpu-memory", "80GiB"]
    shown = CliRunner().invoke(app, asked, catch_exceptions=False).output
    for expected in ("the hub is not reachable", "fits: ", "optimizer", "tokens a step: image 8,192"):
        assert expected in shown
    lines = CliRunner().invoke(app, [*asked, "--json"], catch_exceptions=False).stdout.splitlines()
    (done,) = (json.loads(line) for line in lines)
    assert (done["event"], done["fits"], done["card"]) == ("done", True, 80 * GIB)
    assert done["parameters"] == sum(part["parameters"] for part in done["parts"])
    assert done["stages"][0]["tokens"]["image"] == 8192
