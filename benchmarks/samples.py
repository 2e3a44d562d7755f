"""Made-up data of the size of the public sets: 100 categories in families of four, long descriptions."""

from dataclasses import dataclass

import numpy as np

from finedefics.base_model import Sizes
from finedefics.data.generated import make_world, picture
from finedefics.data.generated_names import FIRST_WORDS, SECOND_WORDS
from finedefics.records import Category, Sample
from finedefics.sampler import confusable_order

SIZES = Sizes(latents=16, text_hidden=128, text_layers=4)  # 1.4 M parameters
FAMILY = 4
DESCRIPTION_TOKENS = (60, 100)
NEGATIVES = FAMILY - 1


@dataclass(frozen=True)
class Data:
    """Categories and a picture's bytes to be shown everywhere: only texts differ in cost."""

    categories: list[Category]
    images: list[bytes]
    rng: np.random.Generator

    def sample(self, category: int) -> Sample:
        """A picture of a category, described in its own words; its siblings are the hard negatives."""
        family = category // FAMILY * FAMILY
        siblings = [family + i for i in range(FAMILY) if family + i != category]
        return Sample(
            f"{category}-{self.rng.integers(1 << 30)}",
            self.images[int(self.rng.integers(len(self.images)))],
            self.categories[category].category_id,
            _words(self.rng),
            negatives=tuple(self.categories[i].category_id for i in siblings),
        )

    def random_batch(self, size: int) -> list[Sample]:
        """Rows as a shuffled epoch gives them: few share a family."""
        return [self.sample(int(c)) for c in self.rng.integers(len(self.categories), size=size)]

    def confusable_batch(self, size: int) -> list[Sample]:
        """Rows as an epoch of the confusable sampler gives them: whole families, negatives in the batch."""
        rows = [category for category in range(len(self.categories)) for _ in range(4)]
        nearest = {
            category: [i for i in range(first, first + FAMILY) if i != category]
            for first in range(0, len(self.categories), FAMILY)
            for category in range(first, first + FAMILY)
        }
        order = confusable_order(rows, nearest, size, self.rng)
        return [self.sample(rows[row]) for row in order[:size]]

    def separate_batch(self, size: int) -> list[Sample]:
        """One row a family: no category twice, no hard negative in the batch; no mask has anything to do."""
        return [
            self.sample(int(f) * FAMILY) for f in self.rng.permutation(len(self.categories) // FAMILY)[:size]
        ]


def make_data(categories: int = 100, seed: int = 0) -> Data:
    """The data of one benchmark run."""
    rng = np.random.default_rng(seed)
    names = [f"{a} {b} {c}" for a in FIRST_WORDS for b in SECOND_WORDS for c in ("one", "two")]
    chosen = rng.permutation(len(names))[:categories]
    table = [Category(f"c{i:03}", names[n], None, _words(rng)) for i, n in enumerate(chosen)]
    looks = make_world(seed).species[0].attributes
    return Data(table, [picture(looks, rng)[0] for _ in range(8)], rng)


def _words(rng: np.random.Generator) -> str:
    words = [*FIRST_WORDS, *SECOND_WORDS]
    return " ".join(str(w) for w in rng.choice(words, int(rng.integers(*DESCRIPTION_TOKENS))))
