"""What the fast mode of a multiple choice gains: letters by likelihood against letters that are generated."""

import statistics
from functools import partial
from unittest.mock import patch

import torch

from benchmarks.drawn import category_of, draw_samples
from benchmarks.registry import Result, benchmark, in_turn
from benchmarks.samples import SIZES
from finedefics.base_model import untrained_backbone
from finedefics.data.generated import make_world
from finedefics.evaluation.choices import choose_options
from finedefics.scoring import Recogniser, letters
from finedefics.scoring.recogniser import BATCH

PICTURES, ALONE, REPEATS, AIM = BATCH, 8, 7, 3.0
TERSE = 2  # tokens of a reply that is a letter and the end of the turn
TALKATIVE = letters.LIMIT


@benchmark("likelihood_vs_generation")
def likelihood_vs_generation() -> dict[str, Result]:
    """Items a second of `letters_likelihood` over those of `letters`, from bytes to option, in batches as an
    evaluation asks them; and of the same one at a time."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    world = make_world(0)
    categories = [category_of(one) for one in world.species]
    model = Recogniser(untrained_backbone(SIZES), categories)
    samples = draw_samples(world, world.species, -(-PICTURES // len(world.species)), split=1)[:PICTURES]
    ids = [category.category_id for category in categories]
    chosen = [[ids.index(one) for one in choice.options] for choice in choose_options(samples, ids, 4)]

    def ask(answer: str, limit: int, start: int, stop: int) -> None:
        images, called = zip(*((one.image, one.sample_id) for one in samples[start:stop]), strict=True)
        # however long an untrained model would go on, a reply is as long as its kind
        with patch.object(letters, "LIMIT", limit):
            model.answer(images, answer, options=chosen[start:stop], sample_ids=called)

    def alone(answer: str, limit: int) -> None:
        for start in range(ALONE):
            ask(answer, limit, start, start + 1)

    kinds = {
        "likelihood": ("letters_likelihood", TALKATIVE),
        "terse": ("letters", TERSE),
        "talkative": ("letters", TALKATIVE),
    }
    contestants = {kind: partial(ask, *how, 0, PICTURES) for kind, how in kinds.items()}
    contestants |= {f"{kind} alone": partial(alone, *how) for kind, how in kinds.items()}
    seconds = in_turn(contestants, REPEATS)

    def times(kind: str) -> list[float]:
        fast = seconds["likelihood alone" if "alone" in kind else "likelihood"]
        return [slow / own for slow, own in zip(seconds[kind], fast, strict=True)]

    rates = {kind: PICTURES / statistics.median(seconds[kind]) for kind in kinds}
    each = {kind: statistics.median(times(kind)) for kind in ("terse", "talkative alone", "terse alone")}
    how = (
        f"{PICTURES} items of 4 options from bytes to option, together: {rates['likelihood']:.0f} items/s "
        f"against {rates['talkative']:.0f} with replies of {TALKATIVE} tokens (no tuning to letters); "
        f"{each['terse']:.2f} times against replies of {TERSE} tokens; one item at a time "
        f"{each['talkative alone']:.2f} and {each['terse alone']:.2f} times"
    )
    ratios = times("talkative")
    value, spread = statistics.median(ratios), (min(ratios), max(ratios))
    return {"likelihood_vs_generation": Result(value, "times items/s", "higher", AIM, spread, how)}
