"""From samples to tensors: one step's rows, with each picture and each text encoded once.

A step may mix labelled pictures, captioned pictures, texts without a picture and pictures whose label is
inferred; the last only answer, and are no rows of a contrast. A `Batch` holds the pictures, the sequences
whose next tokens are learned, the unique texts and objects that are embedded, and for every row which of them
are its object, its attribute description and its category, with what is needed to decide which rows may repel
each other.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from finedefics.batch import ABSENT, Batch
from finedefics.conversation import OPTIONS, Renderer, Templates
from finedefics.distributed import world_size
from finedefics.errors import FinedeficsError, wrong_use
from finedefics.features import FeatureStore, Recalled, recalled
from finedefics.mining.attributes import nearest_categories
from finedefics.packing import Packed, pack
from finedefics.pictures import ImageEncoder, decode_image
from finedefics.records import Category, Sample, check_distinct
from finedefics.terms import CONTRASTIVE_TERMS, FEEDS, GENERATION_TERMS, ObjectiveSettings

NEGATIVE_COLUMNS = (
    "negative_attributes",
    "negative_categories",
    "negative_category_ids",
    "negative_text_ids",
)
_NAMED = {"labelled": "label it", "inferred": "infer its label"}  # feeds that learn a name -> how to have one


class Collator:
    """Makes the `Batch` of one rank's rows. It can be pickled, and makes the same batches elsewhere.

    Args:
        processor: the model's processor.
        categories: the whole category table.
        settings: the stage's objective; texts and sequences no term needs are not made.
        negatives: hard negatives a row.
        templates: what is said to the model.
        packed: several sequences share a row; False pads every one to the longest.
        seed: of the order in which a multiple choice shows its options, with the step.
        attributes: names that samples' attributes have beside the table's; equal on every rank.
        micro_tokens: tokens that a sequence may have, and a packed row where its sequences allow it: what a
            worker holds at a time.
        features: where pictures were kept as the model encodes them; those found there are not decoded.
        similar: for each category its most similar others, the hard negatives of its text, most similar
            first; a category that is missing has none. By default those that share most attributes.

    Raises:
        FinedeficsError: a category has no name, or two have one id or name (exit code 2).
    """

    def __init__(
        self,
        processor: Any,
        categories: Sequence[Category],
        settings: ObjectiveSettings,
        *,
        negatives: int,
        templates: Templates | None = None,
        packed: bool = True,
        seed: int = 0,
        attributes: Iterable[str] = (),
        similar: Mapping[str, Sequence[str]] | None = None,
        micro_tokens: int | None = None,
        features: FeatureStore | None = None,
    ) -> None:
        check_distinct(categories)
        self.packed, self.seed, self.micro_tokens = packed, seed, micro_tokens
        self.alone = world_size() == 1  # asked here: a process that only collates is in no group
        self.encode_images, self.features = ImageEncoder(processor), features
        self.render = Renderer(processor, templates)
        self.categories = {category.category_id: category for category in categories}
        self.position = {category_id: i for i, category_id in enumerate(self.categories)}
        self.settings = settings
        self.negatives = negatives
        self.similar = similar or nearest_categories(categories, keep=max(1, negatives))
        named = {name for category in categories for name in category.attributes}
        self.attributes = frozenset(named.union(attributes))

    def __call__(self, rows: Mapping[str, Sequence[Sample] | Sequence[Category]], *, step: int) -> Batch:
        """Collate one step.

        Args:
            rows: samples of the feeds ``labelled``, ``captioned`` and ``inferred`` (with the inferred
                category as theirs), categories of the feed ``text``.
            step: position in the stage; it changes the order in which a multiple choice is asked.

        Raises:
            FinedeficsError: a feed is unknown or all are empty, a picture is damaged, one whose feed is
                ``labelled`` or ``inferred`` has no category, a category is missing from the table, a hard
                negative is of its sample's own category, or, on several ranks, a picture without a label has
                an attribute that no category has.
        """
        if strange := sorted(rows.keys() - set(FEEDS)):
            raise wrong_use(f"unknown feed {strange[0]!r}", place="rows", cure=f"use {', '.join(FEEDS)}")
        if not any(map(len, rows.values())):
            raise FinedeficsError(
                "no feed has a row", place=f"step {step + 1}", cure="give every rank some of them"
            )
        draft = _Draft(self, step)
        samples = [(feed, row) for feed in FEEDS for row in rows.get(feed, ()) if isinstance(row, Sample)]
        images, blocks, found = self._pictures([sample for _, sample in samples])
        for image, (feed, sample) in enumerate(samples):
            draft.add_sample(feed, sample, image, blocks[image])
        for category in rows.get("text", ()):
            assert isinstance(category, Category)
            draft.add_text(category)
        draft.keep_in_step({feed for feed in FEEDS if rows.get(feed)})
        return replace(draft.batch(images), recalled=found)

    def _pictures(
        self, samples: Sequence[Sample]
    ) -> tuple[dict[str, Tensor], list[tuple[int, ...]], Recalled | None]:
        """Tensors of the pictures that have to be encoded, every picture's token ids, and the other ones."""
        if not samples:
            return {}, [], None
        if self.features is None:
            return *self._decoded(samples), None
        found, there = recalled(self.features, [sample.image for sample in samples])
        fresh = [sample for sample, known in zip(samples, there, strict=True) if known is None]
        images, blocks = self._decoded(fresh) if fresh else ({}, [])
        own = iter(blocks)
        every = [next(own) if known is None else known.block for known in there]
        return images, every, replace(found, blocks=tuple(blocks))

    def _decoded(self, samples: Sequence[Sample]) -> tuple[dict[str, Tensor], list[tuple[int, ...]]]:
        pictures = [decode_image(sample.image, sample.sample_id) for sample in samples]
        return self.encode_images(pictures, [f"sample {sample.sample_id}" for sample in samples])

    def category(self, category_id: str, place: str) -> Category:
        """A row of the category table; FinedeficsError names who asked for a missing one."""
        if category_id not in self.categories:
            raise FinedeficsError(
                f"category {category_id!r} is not in the category table",
                place=place,
                cure="ingest the data again",
            )
        return self.categories[category_id]


class _Draft:
    """The growing lists behind one `Batch`."""

    def __init__(self, collator: Collator, step: int) -> None:
        self.c, self.step = collator, step
        # ids, how many of the last are learned, term, image
        self.sequences: list[tuple[tuple[int, ...], int, int, int]] = []
        self.embedded: dict[tuple[tuple[int, ...], int], int] = {}
        self.reads: list[tuple[int, int]] = []  # (sequence, position) where an object is read
        self.object_rows: dict[int, int] = {}  # row -> index of its read
        self.rows: list[dict[str, Any]] = []
        self.looks: list[Mapping[str, str]] = []
        self.attributes = set(collator.attributes)
        self.size = 0
        self.place = ""  # whose sequences are being added

    def add_sample(self, feed: str, sample: Sample, image: int, block: tuple[int, ...]) -> None:
        self.size += 1
        c, wants, place = self.c, self.c.settings.feeds, f"sample {sample.sample_id}"
        self.place = place
        self._check(feed, sample, place)
        category = c.category(sample.category_id, place) if sample.category_id else None
        if category and feed in wants("answer"):
            self._dialogue("answer", c.render.templates.question, category.name, image, block)
        if sample.description and feed in wants("caption"):
            self._dialogue("caption", c.render.templates.request, sample.description, image, block)
        wrong = list(dict.fromkeys(sample.negatives))
        if category and feed in wants("choice"):
            names = [c.category(i, f"hard negatives of {place}").name for i in wrong[: OPTIONS - 1]]
            chosen = c.render.choice(
                category.name, names, seed=c.seed, sample_id=sample.sample_id, step=self.step
            )
            self._dialogue("choice", *chosen, image, block)
        negatives = [c.category(i, f"hard negatives of {place}") for i in wrong[: c.negatives]]
        self._row(feed, category, sample.description, sample.attributes, negatives, (image, block))

    def _check(self, feed: str, sample: Sample, place: str) -> None:
        if feed in _NAMED and not sample.category_id:
            raise FinedeficsError(
                f"a row of the feed `{feed}` has no category",
                place=place,
                cure=f"{_NAMED[feed]}, or let it feed `captioned`",
            )
        if feed == "inferred":  # nothing of it is contrasted, and what is nearest may be what was inferred
            return
        if sample.category_id in sample.negatives:
            raise FinedeficsError(
                f"its own category {sample.category_id!r} is among its hard negatives",
                place=place,
                cure="run `finedefics data mine` again",
            )
        strange = sorted(sample.attributes.keys() - self.attributes)
        if strange and self.c.alone:
            self.attributes.update(strange)
        elif strange and not sample.category_id:  # what it conflicts with, other ranks could not tell
            raise wrong_use(
                f"no category has the attribute {strange[0]!r}",
                place=place,
                cure="name it among the collator's `attributes`",
            )

    def add_text(self, category: Category) -> None:
        self.size += 1
        self.c.category(category.category_id, "feed text")
        self.place = f"text of category {category.category_id}"
        if not category.description:
            raise FinedeficsError(
                "the category has no description",
                place=category.category_id,
                cure="run `finedefics data describe`",
            )
        if "text" in self.c.settings.feeds("text"):
            for tokens in self.c.render.statement_tokens(category.name, category.description):
                self._held(tokens)
                self.sequences.append((tokens, len(tokens) - 1, GENERATION_TERMS.index("text"), ABSENT))
        similar = self.c.similar.get(category.category_id, ())[: self.c.negatives]
        negatives = [self.c.category(i, f"similar categories of {category.category_id}") for i in similar]
        self._row("text", category, category.description, category.attributes, negatives, None)

    def _dialogue(self, term: str, question: str, answer: str, image: int, block: tuple[int, ...]) -> None:
        prompt, target = self.c.render.prompt(question), self.c.render.answer(answer)
        ids = (*prompt.before, *block, *prompt.after, *target)
        learned = len(ids) - 1 if self.c.settings.learn_prompt else len(target)
        self._held(ids, len(block))
        self.sequences.append((ids, learned, GENERATION_TERMS.index(term), image))

    def _held(self, tokens: tuple[int, ...], shown: int = 0) -> None:
        """Refuse a sequence that alone is more than a worker may hold."""
        most = self.c.micro_tokens
        if most is not None and len(tokens) > most:
            picture = f", {shown} of them its picture's," if shown else ""
            raise wrong_use(
                f"a sequence of {len(tokens)} tokens{picture} does not fit compute.micro_tokens={most}",
                place=self.place,
                cure="raise compute.micro_tokens, or "
                + ("show smaller pictures" if 2 * shown > len(tokens) else "shorten the text"),
            )

    def _embed(self, tokens: tuple[int, ...], image: int = ABSENT) -> int:
        self._held(tokens, len(tokens) - 1 if image != ABSENT else 0)
        return self.embedded.setdefault((tokens, image), len(self.embedded))

    def _row(
        self,
        feed: str,
        category: Category | None,
        description: str | None,
        attributes: Mapping[str, str],
        negatives: Sequence[Category],
        picture: tuple[int, tuple[int, ...]] | None,
    ) -> None:
        c, wants = self.c, self.c.settings.feeds
        if feed not in wants(*CONTRASTIVE_TERMS):
            return
        closed = c.render.closed
        with_object = picture is not None and feed in wants("object_attribute", "object_category")
        with_attribute = bool(description) and feed in wants("object_attribute", "attribute_category")
        with_category = category is not None and feed in wants(*CONTRASTIVE_TERMS[1:])
        row: dict[str, Any] = {
            "objects": ABSENT,
            "attributes": self._embed(closed(description or "")) if with_attribute else ABSENT,
            "categories": self._embed(closed(category.name)) if with_category and category else ABSENT,
            "negative_attributes": [
                self._embed(closed(n.description)) if with_attribute and n.description else ABSENT
                for n in negatives
            ],
            "negative_categories": [
                self._embed(closed(n.name)) if with_category else ABSENT for n in negatives
            ],
            "category_ids": c.position[category.category_id] if category else ABSENT,
            "nearest_ids": self._nearest(category),
            "negative_category_ids": [c.position[n.category_id] for n in negatives],
            "text_ids": _code(description or ""),
            "negative_text_ids": [_code(n.description or "") for n in negatives],
            "feeds": FEEDS.index(feed),
        }
        if with_object and picture is not None:
            self._object(row, *picture)
        for key in NEGATIVE_COLUMNS:
            row[key] += [ABSENT] * (c.negatives - len(row[key]))
        self.rows.append(row)
        self.looks.append(attributes)

    def _nearest(self, category: Category | None) -> int:
        similar = self.c.similar.get(category.category_id, ()) if category else ()
        return self.c.position.get(similar[0], ABSENT) if similar else ABSENT

    def keep_in_step(self, feeds: set[str]) -> None:
        """Where no row of this rank needs a pass that other ranks may make, add one that nobody learns from.

        Ranks that make different numbers of calls would wait for each other forever.
        """
        wants = self.c.settings.feeds
        if not self.sequences and feeds & wants(*GENERATION_TERMS):
            self.sequences.append(((self.c.render.eos,), 0, 0, ABSENT))
        if not self.embedded and feeds & wants(*CONTRASTIVE_TERMS):
            self._embed((self.c.render.eos,))

    def _object(self, row: dict[str, Any], image: int, block: tuple[int, ...]) -> None:
        """Where the row's object is read: in a pass of its own, or where its picture is shown anyway."""
        c = self.c
        if c.settings.object_readout == "eos":
            row["objects"] = self._embed((*c.encode_images.object_block(block), c.render.eos), image)
            return
        before = c.render.prompt(c.render.templates.question).before
        shown = next((i for i, (*_, at) in enumerate(self.sequences) if at == image), None)
        if shown is None:  # no answer is learned from this picture: its prefix makes a pass of its own
            row["objects"] = self._embed((*before, *block), image)
        else:
            self.object_rows[len(self.rows)] = len(self.reads)
            self.reads.append((shown, len(before) + len(block) - 1))

    def batch(self, images: dict[str, Tensor]) -> Batch:
        pad, packed = self.c.render.pad, self.c.packed
        for row, read in self.object_rows.items():
            self.rows[row]["objects"] = len(self.embedded) + read
        shown = [image for *_, image in self.sequences]
        texts = [ids for ids, *_ in self.sequences]
        widest = self.c.micro_tokens
        sequences, owners = pack(texts, shown, pad=pad, packed=packed, reads=self.reads, widest=widest)
        targets, terms = self._targets(sequences, owners)
        keys = list(self.embedded)
        pictures = [image for _, image in keys]
        embedded, _ = pack([ids for ids, _ in keys], pictures, pad=pad, packed=packed, widest=widest)

        def column(key: str, width: int | None = None) -> Tensor:
            values = [row[key] for row in self.rows]
            tensor = torch.tensor(values, dtype=torch.long)
            return tensor if width is None else tensor.reshape(len(values), width)

        return Batch(
            step=self.step,
            images=images,
            sequences=sequences,
            targets=targets,
            target_terms=terms,
            embedded=embedded,
            objects=column("objects"),
            attributes=column("attributes"),
            categories=column("categories"),
            negative_attributes=column("negative_attributes", self.c.negatives),
            negative_categories=column("negative_categories", self.c.negatives),
            category_ids=column("category_ids"),
            nearest_ids=column("nearest_ids"),
            negative_category_ids=column("negative_category_ids", self.c.negatives),
            looks=self._looks(),
            text_ids=column("text_ids"),
            negative_text_ids=column("negative_text_ids", self.c.negatives),
            feeds=column("feeds"),
            size=self.size,
        )

    def _looks(self) -> Tensor:
        """[rows, attributes]; an attribute that no row shows still has its column, equal on every rank."""
        names = sorted(self.attributes) or [""]
        codes = [[_code(seen[name]) if name in seen else 0 for name in names] for seen in self.looks]
        return torch.tensor(codes, dtype=torch.long).reshape(len(codes), len(names))

    def _targets(self, sequences: Packed, owners: Tensor) -> tuple[Tensor, Tensor]:
        """At every position whose next token is part of an answer: that token, and the answer's term."""
        targets = torch.full_like(sequences.ids, -100)
        if not self.sequences:
            return targets, targets.clone()
        table = torch.tensor([(len(ids), answer, term) for ids, answer, term, _ in self.sequences])
        length, answer, term = table[owners.clamp(min=0)].unbind(-1)
        following = sequences.positions + 1
        learned = (owners >= 0) & (following < length) & (following >= length - answer)
        targets[:, :-1] = torch.where(learned[:, :-1], sequences.ids[:, 1:], targets[:, :-1])
        return targets, term


def _code(text: str) -> int:
    # stable over processes (Python's own hash is salted) and never 0, which means "not visible"
    return 1 + int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big")
