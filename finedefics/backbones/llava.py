"""LLaVA-NeXT and LLaVA-OneVision: a base view and tiles of the picture, so tokens follow its shape.

The learned token that ends a row of tiles (``image_newline``) belongs to no module; it is trained with the
connector, as in the released training.
"""

from finedefics.backbones.family import FAMILIES, Family

_PARTS = ("model.vision_tower", "model.multi_modal_projector", "model.language_model")
_NEWLINE = ("model.image_newline",)

FAMILIES.register("llava_next")(Family("LlavaNextProcessor", *_PARTS, _NEWLINE))
FAMILIES.register("llava_onevision")(Family("LlavaOnevisionProcessor", *_PARTS, _NEWLINE, films=True))
