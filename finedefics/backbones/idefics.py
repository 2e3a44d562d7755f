"""Idefics2, Idefics3 and SmolVLM: a picture, or every tile of it, becomes a fixed number of tokens.

Idefics2 resamples with a perceiver, the others shuffle pixels into channels. With image splitting on, a
picture is several tiles, and its block of token ids holds the tokens that separate them. SmolVLM's own
processor demands torchvision and num2words for films; pictures go through `Idefics3Processor`, from which it
was derived (see `finedefics.backbones.loading`).
"""

from finedefics.backbones.family import FAMILIES, Family

_PARTS = ("model.vision_model", "model.connector", "model.text_model")

_SPLITTING = "do_image_splitting", "false"
_FIVE = ((*_SPLITTING, "64 tokens a picture; cut into four beside the whole, it would be 320"),)
_TILES = ((*_SPLITTING, "one view a picture; as a grid of tiles it would be many times the tokens"),)

FAMILIES.register("idefics2")(Family("Idefics2Processor", *_PARTS, advice=_FIVE))
FAMILIES.register("idefics3")(Family("Idefics3Processor", *_PARTS, advice=_TILES))
FAMILIES.register("smolvlm")(Family("Idefics3Processor", *_PARTS, films=True, advice=_TILES))
