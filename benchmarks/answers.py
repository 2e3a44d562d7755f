"""What an answer costs: alignment with the index against describe-then-name, on one model in one run."""

import copy
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.drawn import LABELLED, TEXT, Row, category_of, draw_samples, joint, right, shuffled, teach
from benchmarks.registry import Result, benchmark, in_turn
from benchmarks.samples import SIZES, make_data
from finedefics.base_model import BaseRecipe, build_base, untrained_backbone
from finedefics.data.generated import World, make_world
from finedefics.pictures import decode_image
from finedefics.scoring import ANSWERS, Pictures, Recogniser
from finedefics.scoring.calibration import MOST
from finedefics.scoring.describe import Describe

RECIPE = BaseRecipe(birds=1500, vision_steps=300, language_steps=250)
STEPS, ROWS, PICTURES, REPEATS = 48, 24, 96, 15
LONG = 80  # tokens of a description such as the method's release has them


@benchmark("alignment_vs_describe", "alignment_vs_describe_language", "alignment_vs_describe_long")
def alignment_vs_describe() -> dict[str, Result]:
    """Pictures a second of both answers, with and without the work they share (decoding, vision tower), and
    with descriptions as long as the release's."""
    torch.set_num_threads(1)
    world = make_world(0)
    with tempfile.TemporaryDirectory() as folder:
        build_base(world, Path(folder), RECIPE, sizes=SIZES)
        model = _taught(world, folder)
    samples = draw_samples(world, world.species, PICTURES // len(world.species), split=1)
    images = [sample.image for sample in samples]
    names = ("alignment", "describe")
    seconds = in_turn({name: partial(model.answer, images, name) for name in names}, REPEATS)
    accuracy = {name: right(model, samples, name) for name in seconds}
    both = ", ".join(f"{name} {100 * value:.0f} %" for name, value in accuracy.items())
    pictures = [decode_image(image, "picture") for image in images]
    encoded = model.encoder(pictures)
    with torch.no_grad():
        shown = model.encode(pictures)
        alone = in_turn({name: partial(_language, model, name, shown) for name in names}, REPEATS)
        shared = in_turn(
            {
                "decoding": lambda: [decode_image(image, "picture") for image in images],
                "processor": lambda: model.encoder(pictures),
                "vision tower and connector": lambda: model.backbone.encode_images(encoded[0]),
            },
            REPEATS,
        )
        talkative = _talkative(model)
        long = in_turn(
            {
                "alignment": partial(model.answer, images, "alignment"),
                "describe": partial(_describe_long, talkative, images),
            },
            REPEATS // 3,
        )
    parts = ", ".join(f"{name} {each:.2f}" for name, each in _milliseconds(shared).items())
    return {
        "alignment_vs_describe": _ratio(seconds, f"{PICTURES} pictures from bytes to name; accuracy: {both}"),
        "alignment_vs_describe_language": _ratio(
            alone, f"the same without what both answers share ({parts} ms a picture)"
        ),
        "alignment_vs_describe_long": _ratio(
            long, f"from bytes to name, every description made {LONG} tokens long: cost alone, no accuracy"
        ),
    }


@benchmark("alignment_calibrated_cost")
def alignment_calibrated_cost() -> dict[str, Result]:
    """Seconds of alignment with a calibrated index over those without: cost alone, no accuracy."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = make_data()
    model = Recogniser(untrained_backbone(SIZES), data.categories)
    fitting = F.normalize(torch.randn(MOST, model.index.names.shape[1]), dim=1)
    model.index = model.index.calibrated_by(
        fitting, on=True, why="a benchmark", dataset="none", split="train"
    )
    images = [data.images[number % len(data.images)] for number in range(PICTURES)]
    kinds = {"plain": "alignment_plain", "calibrated": "alignment_calibrated"}
    seconds = in_turn({kind: partial(model.answer, images, name) for kind, name in kinds.items()}, REPEATS)
    ratios = [c / p for c, p in zip(seconds["calibrated"], seconds["plain"], strict=True)]
    each = _milliseconds(seconds)
    how = (
        f"{PICTURES} pictures from bytes to name among {len(data.categories)} categories, "
        f"{each['calibrated']:.2f} against {each['plain']:.2f} ms a picture; "
        "a category's hub term is computed once, before"
    )
    spread = (min(ratios), max(ratios))
    return {
        "alignment_calibrated_cost": Result(statistics.median(ratios), "times", "lower", 1.05, spread, how)
    }


def _ratio(seconds: dict[str, list[float]], how: str) -> Result:
    ratios = [d / a for d, a in zip(seconds["describe"], seconds["alignment"], strict=True)]
    each = _milliseconds(seconds)
    how += f"; {each['alignment']:.2f} against {each['describe']:.2f} ms a picture"
    return Result(statistics.median(ratios), "times", "higher", 5, (min(ratios), max(ratios)), how)


def _milliseconds(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Median milliseconds a picture."""
    return {name: 1000 * statistics.median(times) / PICTURES for name, times in seconds.items()}


@torch.no_grad()
def _language(model: Recogniser, answer: str, pictures: Pictures) -> None:
    ANSWERS[answer](model, replace(pictures))


def _talkative(model: Recogniser) -> Recogniser:
    """The model, except that nothing ends what it writes."""
    talkative = copy.copy(model)
    talkative.language = copy.copy(model.language)
    talkative.language.ends = set()
    return talkative


def _describe_long(model: Recogniser, images: Sequence[bytes]) -> None:
    pictures = [decode_image(image, "picture") for image in images]
    Describe(limit=LONG)(model, model.encode(pictures))


def _taught(world: World, base: str) -> Recogniser:
    """The joint recipe on four labelled, captioned pictures of every species."""
    rows: dict[str, Sequence[Row]] = {
        LABELLED: draw_samples(world, world.species, 4, split=0),
        TEXT: [category_of(species) for species in world.species],
    }
    orders = {feed: shuffled(len(given), number) for number, (feed, given) in enumerate(rows.items())}
    taught = teach(
        base, world, joint(captioned=False), rows, batch=ROWS, steps=STEPS, negatives=3, orders=orders
    )
    return taught.model
