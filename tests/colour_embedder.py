"""An embedder of one file, as a user writes one: a picture is its mean colour."""

import io
from functools import cached_property

import numpy as np
from PIL import Image

from finedefics.embedders import EMBEDDERS, normalised


@EMBEDDERS.register("colour")
class Colour:
    dim = 3

    @cached_property
    def embedder_id(self):
        return "colour-1"

    def __init__(self, argument, settings):
        pass

    def embed_pictures(self, images):
        opened = [Image.open(io.BytesIO(image)).convert("RGB") for image in images]
        return normalised(
            np.array([np.asarray(picture, np.float32).mean((0, 1)) - 100 for picture in opened])
        )
