"""Features of pictures that a frozen tower made are kept: the same step, and each picture is encoded once."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from finedefics import features
from finedefics.adapters import AdapterSettings, apply
from finedefics.backbones import Backbone, load_backbone
from finedefics.collation import Collator
from finedefics.errors import FinedeficsError
from finedefics.features import FeatureStore, maker_digest, picture_key
from finedefics.objective import Objective
from finedefics.records import Category, Sample
from finedefics.terms import ObjectiveSettings, TermSettings

CATEGORIES = (
    Category("alba", "alba tern", None, "a bird has brown wing", {"wing": "brown"}),
    Category("corva", "corva wren", None, "a bird has red wing and long bill", {"wing": "red"}),
)
SETTINGS = ObjectiveSettings(
    terms={name: TermSettings(1.0, ("labelled",)) for name in ("answer", "object_attribute")}
)


def collator(backbone: Backbone, store: FeatureStore | None) -> Collator:
    return Collator(backbone.processor, CATEGORIES, SETTINGS, negatives=1, features=store)


def step(
    backbone: Backbone, files: Sequence[bytes], order: Sequence[int], store: FeatureStore | None
) -> tuple[int, float, Tensor]:
    """Pictures that the tower saw in a step, the loss and the gradients."""
    rows = [
        Sample(
            str(i), files[i], c.category_id, c.description, c.attributes, (CATEGORIES[1 - i % 2].category_id,)
        )
        for i in order
        for c in [CATEGORIES[i % 2]]
    ]
    batch = collator(backbone, store)({"labelled": rows}, step=0)
    objective = Objective(backbone, SETTINGS, features=store)
    objective.zero_grad()
    output = objective(batch)
    output.loss.backward()
    gradients = [p.grad.flatten() for p in backbone.parameters() if p.grad is not None]
    seen = len(next(iter(batch.images.values()))) if batch.images else 0
    return seen, float(output.loss), torch.cat(gradients)


def test_a_kept_picture_gives_the_same_step_without_the_tower(
    tiny_folder: Path, tmp_path: Path, birds: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    backbone = load_backbone(tiny_folder, train=())
    apply(backbone, AdapterSettings("lora", targets=("text",)), seed=0)
    calls: list[int] = []
    backbone.part("vision").register_forward_pre_hook(lambda *_: calls.append(1))
    store = FeatureStore(tmp_path / maker_digest(backbone))
    seen, *first = step(backbone, birds, range(4), store)
    assert (seen, bool(calls)) == (4, True)
    store.flush()
    _, *plain = step(backbone, birds, (3, 0, 2, 1), None)
    calls.clear()
    monkeypatch.setattr("finedefics.collation.decode_image", lambda *_: pytest.fail("decoded again"))
    there = pickle.loads(pickle.dumps(store))  # as in another process
    seen, *again = step(backbone, birds, (3, 0, 2, 1), there)
    assert (seen, calls) == (0, [])
    assert again[0] == pytest.approx(plain[0], rel=1e-6)
    torch.testing.assert_close(again[1], plain[1], rtol=1e-5, atol=1e-6)
    assert first[0] == pytest.approx(plain[0], rel=1e-5)  # rows in another order
    monkeypatch.undo()
    seen, *mixed = step(backbone, birds, (4, 0, 5, 1), there)
    assert seen == 2
    assert mixed[0] == pytest.approx(step(backbone, birds, (4, 0, 5, 1), None)[1], rel=1e-6)
    assert there.size()[0] == 4
    there.flush()
    assert store.size()[0] == 6  # learned of a file that another wrote


def test_what_is_damaged_is_made_again(tmp_path: Path, lettered: Backbone, birds: list[bytes]) -> None:
    lettered.train_parts(("text",))
    place = tmp_path / "store"
    store = FeatureStore(place)
    step(lettered, birds, range(2), store)
    store.flush()
    (file,) = place.iterdir()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # of the last picture's numbers
    file.write_bytes(content)
    reader = FeatureStore(place)
    found = [reader.find(picture_key(bird)) is not None for bird in birds[:2]]
    assert sorted(found) == [False, True]
    seen, loss, _ = step(lettered, birds, range(2), reader)
    assert seen == 1
    assert loss == pytest.approx(step(lettered, birds, range(2), None)[1], rel=1e-6)
    reader.flush()
    assert all(FeatureStore(place).find(picture_key(bird)) for bird in birds[:2])  # the later file counts
    file.write_bytes(b"nothing of it")
    assert [FeatureStore(place).find(picture_key(bird)) is not None for bird in birds[:2]].count(True) == 1
    assert not list(place.glob(".*"))


def test_a_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    monkeypatch.setattr(features, "FILE_BYTES", 1)
    store = FeatureStore(tmp_path)
    with pytest.raises(FinedeficsError, match=r"cannot be kept .*No space left.*free space") as refused:
        store.add(["a"], features.ImageTokens([torch.ones(2, 3)]), [(1, 2)])
    assert "\n" not in str(refused.value)


def test_what_makes_features_names_their_folder(lettered: Backbone) -> None:
    lettered.train_parts(("text",))
    digest = maker_digest(lettered)
    assert maker_digest(lettered) == digest
    weight = next(lettered.part("connector").parameters())
    text = next(lettered.part("text").parameters())
    with torch.no_grad():
        text[0] += 1
        assert maker_digest(lettered) == digest
        text[0] -= 1
        kept = weight.clone()
        weight.view(-1)[0] += 1
        assert maker_digest(lettered) != digest
        weight.copy_(kept)
    images = lettered.processor.image_processor
    size = images.size
    images.size = {name: value + 8 for name, value in dict(size).items()}
    assert maker_digest(lettered) != digest
    images.size = size
    assert maker_digest(lettered) == digest


@pytest.mark.parametrize(("part", "named"), [("connector", "connector"), ("vision", "vision tower")])
def test_what_is_trained_is_not_kept(lettered: Backbone, tmp_path: Path, part: str, named: str) -> None:
    lettered.train_parts(("text", part))
    try:
        with pytest.raises(FinedeficsError, match=f"the {named} is trained.*model.train: ") as refused:
            Objective(lettered, SETTINGS, features=FeatureStore(tmp_path))
        assert refused.value.exit_code == 2
    finally:
        lettered.train_parts(("text", "connector"))
