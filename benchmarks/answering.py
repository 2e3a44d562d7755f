"""How often an evaluation decodes a picture: a count, whatever the machine."""

from collections import Counter
from unittest.mock import patch

import torch
from PIL import Image

from benchmarks.drawn import category_of, draw_samples
from benchmarks.registry import Result, benchmark
from benchmarks.samples import SIZES
from finedefics.base_model import untrained_backbone
from finedefics.data.generated import make_world
from finedefics.evaluation.items import evaluate_samples
from finedefics.pictures import decode_image
from finedefics.scoring import Recogniser, recogniser

ANSWERS = ("alignment", "names", "describe")
PICTURES = 40  # more than a batch of them


@benchmark("evaluate_decode_once")
def evaluate_decode_once() -> dict[str, Result]:
    """Pictures decoded over pictures asked for, in an evaluation with three answers."""
    torch.set_num_threads(1)
    world = make_world(0)
    model = Recogniser(untrained_backbone(SIZES), [category_of(one) for one in world.species])
    samples = draw_samples(world, world.species, -(-PICTURES // len(world.species)), split=1)[:PICTURES]
    decoded: Counter[str] = Counter()

    def counted(data: bytes, sample_id: str) -> Image.Image:
        decoded[sample_id] += 1
        return decode_image(data, sample_id)

    with patch.object(recogniser, "decode_image", counted):
        evaluate_samples(model, samples, ANSWERS, labelled=())
    each = [decoded[sample.sample_id] for sample in samples]
    value = sum(decoded.values()) / len(samples)
    how = f"{len(samples)} pictures, cold, answers {', '.join(ANSWERS)}"
    return {
        "evaluate_decode_once": Result(value, "decodings", "lower", 1.0, (min(each), max(each)), how),
    }
