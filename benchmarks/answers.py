"""What an answer costs: alignment with the index against describe-then-name, on one model in one run."""

import statistics
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.registry import Result, benchmark, in_turn
from finedefics.backbones import load_backbone
from finedefics.base_model import BaseRecipe, build_base
from finedefics.batch import Collator, ObjectiveSettings, TermSettings
from finedefics.data.birds import describe
from finedefics.data.generated import Species, World, make_world, picture
from finedefics.negatives import nearest_categories
from finedefics.objective import Objective
from finedefics.pictures import decode_image
from finedefics.records import Category, Sample
from finedefics.scoring import ANSWERS, Pictures, Recogniser

RECIPE = BaseRecipe(birds=1500, vision_steps=300, language_steps=250)
STEPS, ROWS, PICTURES, REPEATS = 48, 24, 96, 15
ONE, BOTH = ("labelled",), ("labelled", "text")
JOINT = ObjectiveSettings(
    {
        "answer": TermSettings(1.0, ONE),
        "caption": TermSettings(1.0, ONE),
        "text": TermSettings(1.0, ("text",)),
        "object_attribute": TermSettings(1.0, ONE),
        "attribute_category": TermSettings(1.0, BOTH),
        "category_category": TermSettings(0.5, BOTH),
    }
)


@benchmark("alignment_vs_describe", "alignment_vs_describe_language")
def alignment_vs_describe() -> dict[str, Result]:
    """Pictures a second of both answers, with and without the work they share (decoding, vision tower)."""
    torch.set_num_threads(1)
    world = make_world(0)
    with tempfile.TemporaryDirectory() as folder:
        build_base(world, Path(folder), RECIPE)
        model = _taught(world, folder)
    samples = _samples(world, PICTURES // len(world.species), split=1)
    images = [sample.image for sample in samples]
    names = ("alignment", "describe")
    seconds = in_turn({name: partial(model.answer, images, name) for name in names}, REPEATS)
    accuracy = {name: _accuracy(model, samples, name) for name in seconds}
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
    parts = ", ".join(f"{name} {each:.2f}" for name, each in _milliseconds(shared).items())
    return {
        "alignment_vs_describe": _ratio(seconds, f"{PICTURES} pictures from bytes to name; accuracy: {both}"),
        "alignment_vs_describe_language": _ratio(
            alone, f"the same without what both answers share ({parts} ms a picture)"
        ),
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
    ANSWERS[answer](model, pictures)


def _accuracy(model: Recogniser, samples: list[Sample], answer: str) -> float:
    best = model.recognise([sample.image for sample in samples], answer, top=1)
    return float(np.mean([b[0][0] == s.category_id for b, s in zip(best, samples, strict=True)]))


def _taught(world: World, base: str) -> Recogniser:
    """The joint recipe on four labelled, captioned pictures of every species."""
    categories = [_category(species) for species in world.species]
    backbone = load_backbone(base)
    objective = Objective(backbone, JOINT)
    collate = Collator(backbone.processor, categories, JOINT, negatives=3)
    parameters = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=5e-4, weight_decay=0.01)
    samples, rng = _samples(world, 4, split=0), np.random.default_rng(0)
    for step in range(STEPS):
        rows = {
            "labelled": [samples[i] for i in rng.permutation(len(samples))[:ROWS]],
            "text": [categories[i] for i in rng.permutation(len(categories))],
        }
        loss = objective(collate(rows, step=step)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    return Recogniser(backbone, categories)


def _category(species: Species) -> Category:
    return Category(species.name, species.name, species.family, species.description, species.attributes)


def _samples(world: World, each: int, split: int) -> list[Sample]:
    near = nearest_categories([_category(species) for species in world.species])
    found = []
    for number, species in enumerate(world.species):
        for i in range(each):
            image, seen = picture(species.attributes, np.random.default_rng([split, number, i]))
            name = f"{split}-{number}-{i}"
            found.append(Sample(name, image, species.name, describe(seen), seen, tuple(near[species.name])))
    return found
