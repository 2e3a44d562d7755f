"""One rank's share of a step in numbers: pictures, tokens by kind, and the rows they are packed in."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finedefics.batch import Batch
from finedefics.errors import FinedeficsError
from finedefics.packing import pack
from finedefics.terms import CONTRASTIVE_TERMS, ObjectiveSettings

Layout = tuple[int, int]  # rows, width


@dataclass(frozen=True)
class Picture:
    """A picture as a model takes it.

    Attributes:
        tokens: that the language model sees.
        patches: of the vision tower, over all views.
        views: the picture itself, and what it is cut into beside.
        values: numbers that the processor makes of it.
    """

    tokens: int
    patches: int
    views: int
    values: int


@dataclass(frozen=True)
class Assumed:
    """What a step is reckoned with where neither data nor processor can be asked; in tokens.

    ``prompt`` is the question within its chat template, ``options`` what a multiple choice adds to it,
    ``joint`` what a statement sets between a name and a description. Pictures are of one size, in pixels.
    """

    width: int = 500
    height: int = 375
    description: int = 60
    name: int = 6
    prompt: int = 16
    options: int = 50
    joint: int = 4

    def told(self) -> str:
        """In words, for whoever reads the figures."""
        return (
            f"pictures of {self.width} x {self.height}, descriptions of {self.description} tokens, names of "
            f"{self.name}, prompts of {self.prompt}, no text shared between rows"
        )


@dataclass(frozen=True)
class Step:
    """One rank's share of a step.

    Attributes:
        pictures: how many; all like ``picture``.
        sequences, embedded: the packed passes.
        answers: tokens that are learned, and need the output head.
        image, text, negative: tokens of both passes by kind: places of pictures, texts that rows bring
            themselves (questions, names, descriptions), and texts that only hard negatives bring.
        rows: of the contrast.
    """

    pictures: int
    picture: Picture | None
    sequences: Layout
    embedded: Layout
    answers: int
    image: int
    text: int
    negative: int
    rows: int

    @property
    def forwarded(self) -> int:
        """Positions that the language model computes, padding included."""
        return math.prod(self.sequences) + math.prod(self.embedded)


def picture_of(config: Any, settings: Mapping[str, Any], width: int, height: int) -> Picture:
    """What a picture of so many pixels becomes, by the family's arithmetic.

    Args:
        config: the model's configuration.
        settings: of the image processor, those of the experiment over the checkpoint's own.

    Raises:
        FinedeficsError: nothing is known of the family; its processor would have to be asked.
    """
    if config.model_type == "idefics2":
        return _resampled(config, settings, width, height)
    if config.model_type == "qwen2_5_vl":
        return _merged(config, settings, width, height)
    raise FinedeficsError(
        f"how many tokens a picture is to a {config.model_type} is for its processor to say",
        place="model.path",
        cure="give a folder, or a hub name that can be reached, and a dataset that is there",
    )


def _resampled(config: Any, settings: Mapping[str, Any], width: int, height: int) -> Picture:
    """Idefics2: a picture within bounds on both edges, and its quarters beside it where it is split."""
    size, patch = settings["size"], config.vision_config.patch_size
    views = 5 if settings.get("do_image_splitting") else 1
    longest = max(width, height)
    if longest > size["longest_edge"]:
        width, height = (int(edge * size["longest_edge"] / longest) for edge in (width, height))
    # a quarter is brought to the least edge as well, and all views are padded to the largest
    width, height = (max(edge, size["shortest_edge"]) for edge in (width, height))
    patches = math.ceil(width / patch) * math.ceil(height / patch)
    tokens = config.perceiver_config.resampler_n_latents
    return Picture(tokens * views, patches * views, views, 3 * width * height * views)


def _merged(config: Any, settings: Mapping[str, Any], width: int, height: int) -> Picture:
    """Qwen2.5-VL: a picture of any shape in cells of merged patches, its pixels between two bounds."""
    vision, size = config.vision_config, settings["size"]
    cell = vision.patch_size * vision.spatial_merge_size
    least = settings.get("min_pixels", size["shortest_edge"])
    most = settings.get("max_pixels", size["longest_edge"])
    rows, columns = (round(edge / cell) or 1 for edge in (height, width))
    if rows * columns * cell**2 > most:
        scale = math.sqrt(height * width / most)
        rows, columns = (max(1, int(edge / scale / cell)) for edge in (height, width))
    elif rows * columns * cell**2 < least:
        scale = math.sqrt(least / (height * width))
        rows, columns = (math.ceil(edge * scale / cell) for edge in (height, width))
    patches = rows * columns * vision.spatial_merge_size**2
    values = patches * 3 * vision.patch_size**2 * vision.temporal_patch_size
    return Picture(rows * columns, patches, 1, values)


def assumed_step(
    settings: ObjectiveSettings,
    feeds: Mapping[str, int],
    negatives: int,
    picture: Picture,
    assumed: Assumed,
) -> Step:
    """A rank's share of a step with texts of assumed lengths.

    Args:
        settings: the stage's objective.
        feeds: rows of each feed on this rank.
        negatives: hard negatives a row.
    """
    wants, a = settings.feeds, assumed
    shown = a.prompt + picture.tokens + 2  # with the tokens around a picture

    def rows(*terms: str) -> int:
        return sum(feeds.get(feed, 0) for feed in wants(*terms))

    answer, caption, choice = rows("answer"), rows("caption"), rows("choice")
    statements = 2 * rows("text")
    objects = rows("object_attribute", "object_category")
    if settings.object_readout == "prompt":  # read on the way, where the picture is shown anyway
        objects = max(0, objects - max(answer, caption, choice))
    described = rows("object_attribute", "attribute_category")
    named = rows(*CONTRASTIVE_TERMS[1:])
    sequences = [shown + a.name + 2] * answer + [shown + a.description + 2] * caption
    sequences += [shown + a.options + 2] * choice + [a.name + a.joint + a.description] * statements
    own = [a.description + 2] * described + [a.name + 2] * named
    mined = [a.description + 2] * (described * negatives) + [a.name + 2] * (named * negatives)
    embedded = [picture.tokens + 1] * objects + own + mined
    learned = answer * (a.name + 1) + caption * (a.description + 1) + choice * 2
    learned += statements * (a.name + a.joint + a.description)
    image = picture.tokens * (answer + caption + choice + objects)
    return Step(
        pictures=sum(feeds.get(feed, 0) for feed in ("labelled", "captioned", "inferred")),
        picture=picture,
        sequences=_packed(sequences),
        embedded=_packed(embedded),
        answers=learned,
        image=image,
        text=sum(sequences) + sum(embedded) - sum(mined) - image,
        negative=sum(mined),
        rows=rows(*CONTRASTIVE_TERMS),
    )


def _packed(lengths: list[int]) -> Layout:
    if not lengths:
        return 0, 0
    layout, _ = pack([[0] * length for length in lengths], [-1] * len(lengths), pad=0)
    rows, width = layout.ids.shape
    return rows, width


def step_of(batch: Batch, image_token_id: int, patch: int) -> Step:
    """A step that was collated for real.

    Args:
        patch: edge of the vision tower's patches, in pixels.
    """
    passes = (batch.sequences, batch.embedded)
    image = sum(int((each.ids == image_token_id).sum()) for each in passes)
    shown = sum(len(each.images) for each in passes)
    own = {int(i) for column in (batch.objects, batch.attributes, batch.categories) for i in column}
    lengths = _lengths(batch)
    mined = sum(length for place, length in enumerate(lengths) if place not in own)
    useful = sum(each.useful for each in passes)
    pictures, picture = _picture_of(batch.images, image // max(1, shown), patch)
    rows, width = batch.sequences.ids.shape
    packed, across = batch.embedded.ids.shape
    return Step(
        pictures=pictures,
        picture=picture,
        sequences=(rows, width),
        embedded=(packed, across),
        answers=int((batch.targets != -100).sum()),
        image=image,
        text=useful - image - mined,
        negative=mined,
        rows=len(batch.feeds),
    )


def _lengths(batch: Batch) -> list[int]:
    """Tokens of each embedded text or object, in the order of their reads."""
    packed = batch.embedded
    return [int(packed.positions[row, column]) + 1 for row, column in packed.reads.tolist()]


def _picture_of(images: Mapping[str, Any], tokens: int, patch: int) -> tuple[int, Picture | None]:
    """How many pictures there are, and what the largest is like."""
    if not images:
        return 0, None
    pixels = images["pixel_values"]
    values = pixels[0].numel()
    views = pixels.shape[1] if pixels.dim() == 5 else 1
    if "image_grid_thw" in images:
        patches = int(images["image_grid_thw"].prod(1).max())
    else:
        patches = views * math.ceil(pixels.shape[-1] / patch) * math.ceil(pixels.shape[-2] / patch)
    return len(pixels), Picture(tokens, patches, views, values)
