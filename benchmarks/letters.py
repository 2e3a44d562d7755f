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

PICTURES, REPEATS, AIM = 64, 7, 3.0
TERSE = 2  # tokens of a reply that is a letter and the end of the turn
TALKATIVE = letters.LIMIT


@benchmark("likelihood_vs_generation")
def likelihood_vs_generation() -> dict[str, Result]:
    """Items a second of `letters_likelihood` over those of `letters`, from bytes to option."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    world = make_world(0)
    categories = [category_of(one) for one in world.species]
    model = Recogniser(untrained_backbone(SIZES), categories)
    samples = draw_samples(world, world.species, -(-PICTURES // len(world.species)), split=1)[:PICTURES]
    ids = [category.category_id for category in categories]
    chosen = [[ids.index(one) for one in choice.options] for choice in choose_options(samples, ids, 4)]
    images, called = [sample.image for sample in samples], [sample.sample_id for sample in samples]
    generated = dict.fromkeys((TERSE, TALKATIVE), 0.0)

    def ask(answer: str, limit: int) -> None:
        # however long an untrained model would go on, a reply is as long as its kind
        with patch.object(letters, "LIMIT", limit):
            answered = model.answer(images, answer, options=chosen, sample_ids=called)
        if answer == "letters":
            generated[limit] = answered.generated_tokens / len(images)

    seconds = in_turn(
        {
            "likelihood": partial(ask, "letters_likelihood", TALKATIVE),
            "terse": partial(ask, "letters", TERSE),
            "talkative": partial(ask, "letters", TALKATIVE),
        },
        REPEATS,
    )
    rates = {name: PICTURES / statistics.median(times) for name, times in seconds.items()}
    ratios = [slow / fast for slow, fast in zip(seconds["talkative"], seconds["likelihood"], strict=True)]
    how = (
        f"{PICTURES} items of 4 options from bytes to option: {rates['likelihood']:.0f} items/s against "
        f"{rates['talkative']:.0f} with replies of {generated[TALKATIVE]:.1f} tokens, as a model writes them "
        f"that was not tuned to letters; against {rates['terse']:.0f}, so "
        f"{rates['likelihood'] / rates['terse']:.2f} times, with replies of {generated[TERSE]:.1f}: a letter "
        "and its end"
    )
    value, spread = statistics.median(ratios), (min(ratios), max(ratios))
    return {"likelihood_vs_generation": Result(value, "times items/s", "higher", AIM, spread, how)}
