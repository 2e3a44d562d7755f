"""One contract for every family: its own logits, embeddings that ignore company, gradients where asked."""

import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText

from finedefics.backbones import FAMILIES, PARTS, Backbone, load_backbone, load_processor
from finedefics.collation import Collator
from finedefics.conversation import Renderer
from finedefics.data.generated import random_birds
from finedefics.errors import FinedeficsError
from finedefics.objective import Objective
from finedefics.packing import pack
from finedefics.pictures import ImageEncoder
from finedefics.records import Category, Sample
from finedefics.scoring import Recogniser
from finedefics.terms import CONTRASTIVE_TERMS, GENERATION_TERMS, ObjectiveSettings, TermSettings

CATEGORIES = (
    Category("alba", "alba tern", None, "a bird has brown wing", {"wing": "brown"}),
    Category("corva", "corva wren", None, "a bird has red wing and long bill", {"wing": "red"}),
    Category("white", "white tern", None, "a bird has white wing", {"wing": "white"}),
)
ALL_TERMS = ObjectiveSettings(
    terms={
        "answer": TermSettings(1.0, ("labelled",)),
        "caption": TermSettings(1.0, ("labelled", "captioned")),
        "text": TermSettings(1.0, ("text",)),
        "choice": TermSettings(1.0, ("labelled",)),
        "object_attribute": TermSettings(1.0, ("labelled", "captioned")),
        "attribute_category": TermSettings(1.0, ("labelled", "text")),
        "category_category": TermSettings(1.0, ("labelled", "text")),
        "object_category": TermSettings(1.0, ("labelled",)),
    }
)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """A square, a wide and a high one: families that keep the shape give each its own number of tokens."""
    square, wide, high = (image for image, _ in random_birds(3, seed=3))
    return [square, wide.resize((96, 48)), high.resize((40, 90))]


@pytest.fixture(scope="module")
def files(pictures: list[Image.Image]) -> list[bytes]:
    written = []
    for picture in pictures:
        picture.save(buffer := io.BytesIO(), format="PNG")
        written.append(buffer.getvalue())
    return written


@pytest.fixture
def backbone(tiny_folder: Path) -> Backbone:
    torch.set_num_threads(1)
    return load_backbone(tiny_folder, train=PARTS).eval()


def batch(backbone: Backbone, files: Sequence[bytes], settings: ObjectiveSettings = ALL_TERMS) -> Any:
    labelled = [
        Sample(str(i), file, c.category_id, c.description, c.attributes, ("white",))
        for i, (file, c) in enumerate(zip(files[:2], CATEGORIES, strict=False))
    ]
    captioned = [Sample("2", files[2], None, "a bird has short bill", {"bill": "short"})]
    collate = Collator(backbone.processor, CATEGORIES, settings, negatives=1)
    rows = {"labelled": labelled, "captioned": captioned, "text": list(CATEGORIES[2:])}
    return collate({feed: rows[feed] for feed in rows if settings_use(settings, feed)}, step=0)


def settings_use(settings: ObjectiveSettings, feed: str) -> bool:
    return feed in settings.feeds(*GENERATION_TERMS, *CONTRASTIVE_TERMS)


def question(backbone: Backbone, block: Sequence[int], answer: str) -> list[int]:
    render = Renderer(backbone.processor)
    prompt = render.prompt(render.templates.question)
    return [*prompt.before, *block, *prompt.after, *render.answer(answer)]


def own_logits(folder: Path, backbone: Backbone, picture: Image.Image, ids: Sequence[int]) -> Tensor:
    """What the model's class computes by itself from ids and what its processor makes of a picture."""
    processor = backbone.processor
    encoded = processor(images=[[picture]], text=[processor.image_token], return_tensors="pt")
    inputs = {k: v for k, v in encoded.items() if k in processor.image_processor.model_input_names}
    tokens = torch.tensor([list(ids)])
    shown = (tokens == backbone.image_token_id).int()
    kind = backbone.model.config.model_type
    if kind == "qwen2_5_vl":
        inputs["mm_token_type_ids"] = shown
    if kind == "paligemma":  # everything is answer, so everything is causal
        inputs["token_type_ids"] = torch.ones_like(tokens)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(input_ids=tokens, attention_mask=torch.ones_like(tokens), **inputs).logits[0]


def hidden(
    backbone: Backbone, sequences: Sequence[Sequence[int]], images: Any, shown: Sequence[int], packed: bool
) -> list[Tensor]:
    """Final hidden states of every sequence, [length, hidden] each."""
    layout, owners = pack(sequences, shown, pad=0, packed=packed)
    assert packed == (len(layout) < len(sequences))
    used = images.chosen(layout.images.tolist())
    with torch.no_grad():
        inputs = backbone.embed_tokens(layout.ids, used)
        positions = backbone.positions(layout.positions, layout.ids, used)
        found = backbone.packed_states(inputs, layout.segments, positions)
    return [found[owners == i] for i in range(len(sequences))]


def assert_close(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_logits_are_the_models_own(
    backbone: Backbone, tiny_folder: Path, pictures: list[Image.Image], packed: bool
) -> None:
    images, blocks = ImageEncoder(backbone.processor)(pictures)
    tokens = backbone.encode_images(images)
    answers = ("alba tern", "a bird has red wing and long bill", "tern")
    sequences = [question(backbone, b, a) for b, a in zip(blocks, answers, strict=True)]
    sequences += [list(Renderer(backbone.processor).closed(t)) for t in ("brown bill", "red", "white tern")]
    found = hidden(backbone, sequences, tokens, [0, 1, 2, -1, -1, -1], packed)
    for i, picture in enumerate(pictures):
        expected = own_logits(tiny_folder, backbone, picture, sequences[i])
        assert expected.std() > 0.05
        torch.testing.assert_close(backbone.logits(found[i]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_objects_do_not_depend_on_neighbours(
    backbone: Backbone, pictures: list[Image.Image], packed: bool
) -> None:
    encode = ImageEncoder(backbone.processor)
    images, blocks = encode(pictures)
    render = Renderer(backbone.processor)
    objects = [[*encode.object_block(block), render.eos] for block in blocks]
    texts = [list(render.closed(text)) for text in ("alba tern", "a bird has long bill", "red")]
    together = hidden(
        backbone, [*texts, *objects], backbone.encode_images(images), [-1, -1, -1, 0, 1, 2], packed
    )
    for i, picture in enumerate(pictures):
        alone = hidden(backbone, [objects[i]], backbone.encode_images(encode([picture])[0]), [0], False)
        assert_close(together[3 + i], alone[0])
    for i, text in enumerate(texts):
        assert_close(together[i], hidden(backbone, [text], backbone.encode_images(images), [-1], False)[0])
    ends = [states[-1] for states in together[3:]]
    assert min((a - b).abs().max() for a, b in zip(ends, [*ends[1:], ends[0]], strict=True)) > 1e-2


@pytest.mark.parametrize("part", PARTS)
def test_gradients_reach_exactly_the_trained_parts(backbone: Backbone, files: list[bytes], part: str) -> None:
    backbone.train_parts((part,))
    Objective(backbone, ALL_TERMS)(batch(backbone, files)).loss.backward()
    reached = {name for name, p in backbone.named_parameters() if p.grad is not None and p.grad.any()}
    wanted = {name for name, p in backbone.named_parameters() if p.requires_grad}
    family = backbone.family
    places = {
        "vision": (family.vision,),
        "connector": (family.connector, *family.beside_connector),
        "text": (family.text, "lm_head"),
    }[part]
    assert reached
    assert reached <= wanted
    assert all(name.removeprefix("model.").startswith(places) for name in wanted)
    if part == "connector":
        assert reached == wanted


def test_a_few_steps_lower_the_loss(backbone: Backbone, files: list[bytes]) -> None:
    objective = Objective(backbone.train(), ALL_TERMS)
    step = batch(backbone, files)
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(6):
        output = objective(step)
        assert set(output.terms) == set(ALL_TERMS.terms)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(output.loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_a_divided_batch_gives_the_same_gradient(backbone: Backbone, files: list[bytes]) -> None:
    gradients = []
    for tokens in (None, 1):  # a piece holds a row at least
        backbone.zero_grad()
        divided = Objective(
            backbone.train(), ALL_TERMS, micro_tokens=tokens, checkpointing=tokens is not None
        )
        divided(batch(backbone, files)).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in backbone.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


def test_answers_run_and_names_score_as_the_model_does(
    backbone: Backbone, tiny_folder: Path, pictures: list[Image.Image], files: list[bytes]
) -> None:
    model = Recogniser(backbone, CATEGORIES)
    for answer in ("names", "alignment", "describe"):
        assert model.answer(files, answer).scores.shape == (3, 3)
    encoded = model.encode(pictures)
    prompts = model.prompted(encoded, model.render.templates.question)
    scores = model.language.completion_scores(prompts, model.answered_names, encoded.tokens)
    for row, prompt in enumerate(prompts):
        for column, name in enumerate(model.answered_names):
            logits = own_logits(tiny_folder, backbone, pictures[row], [*prompt, *name])
            own = logits[len(prompt) - 1 : -1].log_softmax(-1).gather(1, torch.tensor(name)[:, None]).sum()
            torch.testing.assert_close(scores[row, column], own, rtol=1e-4, atol=1e-4)


def test_a_saved_model_is_the_same_again(backbone: Backbone, files: list[bytes], tmp_path: Path) -> None:
    with torch.no_grad():
        backbone.part("text").norm.weight.mul_(1.5)
    backbone.save_pretrained(tmp_path)
    again = load_backbone(tmp_path)
    assert_close(
        Recogniser(again, CATEGORIES).answer(files, "names").scores,
        Recogniser(backbone, CATEGORIES).answer(files, "names").scores,
    )


def test_text_beyond_the_context_is_refused(backbone: Backbone, files: list[bytes]) -> None:
    long = [Category("long", "red", None, "bird " * 200, {})]
    with pytest.raises(FinedeficsError, match=r"does not fit the model's context of 128; shorten"):
        Recogniser(backbone, long)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        FinedeficsError, match=r"no loadable image-text-to-text model.*give a folder"
    ) as caught:
        load_backbone(tmp_path / "absent")
    assert "absent" in caught.value.place
    assert caught.value.cure.startswith("give a folder")


def test_a_language_model_alone_is_refused(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(FinedeficsError, match="a llama has no vision tower; use a multimodal checkpoint"):
        load_backbone(tmp_path)


def test_an_unknown_family_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    from transformers import LlavaConfig

    LlavaConfig().save_pretrained(tmp_path)
    with pytest.raises(FinedeficsError, match=r"unknown model family 'llava'; use one of") as caught:
        load_backbone(tmp_path)
    assert caught.value.exit_code == 2
    assert all(name in caught.value.cure for name in FAMILIES)


def test_every_family_is_tested() -> None:
    # one family may hold several language models
    assert set(FAMILIES) == set(tiny_models.FAMILIES) - {"paligemma2"}


def test_a_picture_the_processor_refuses_is_named(tmp_path: Path) -> None:
    encode = ImageEncoder(load_backbone(tiny_models.save_tiny("qwen2_5_vl", tmp_path)).processor)
    strip, square = Image.new("RGB", (900, 3)), Image.new("RGB", (32, 32))
    with pytest.raises(FinedeficsError, match=r"picture 1 \(900 x 3\): the model's processor refuses.*crop"):
        encode([square, strip])
    with pytest.raises(FinedeficsError, match="sample strip"):
        encode([strip, square], ["sample strip", "sample square"])


def test_a_checkpoint_that_lacks_weights_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "blind"
    shutil.copytree(tiny_folder, folder)
    weights = load_file(folder / "model.safetensors")
    seen = {name: tensor for name, tensor in weights.items() if "vision" not in name and "visual" not in name}
    save_file(seen, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        FinedeficsError, match=rf"blind: {len(weights) - len(seen)} of the model's weights are"
    ):
        load_backbone(folder)


@pytest.mark.parametrize(
    ("family", "train", "runs"),
    [
        ("idefics2", ("text", "connector"), 1),
        ("idefics2", ("text", "connector", "vision"), 2),
        ("qwen2_5_vl", ("text",), 1),
        ("qwen2_5_vl", ("text", "connector"), 2),  # its connector stands within the tower
        ("llava_next", ("text", "connector"), 2),  # hands on all layers' states
    ],
)
def test_a_frozen_tower_sees_a_picture_once(
    tmp_path: Path, files: list[bytes], family: str, train: tuple[str, ...], runs: int
) -> None:
    """Also where pieces of a step are run again in the backward pass; and afterwards it is what it was."""
    backbone = load_backbone(tiny_models.save_tiny(family, tmp_path), train=train)
    tower, calls = backbone.part("vision"), 0
    before = tower.forward

    def counted(*inputs: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return before(*inputs, **options)

    tower.forward = counted
    made = batch(backbone, files)
    Objective(backbone, ALL_TERMS, micro_tokens=1)(made).loss.backward()
    pictures = len(next(iter(made.images.values())))
    assert calls == runs * pictures
    assert tower.forward is counted


@pytest.mark.parametrize(
    ("family", "setting", "fewer"),
    [
        ("idefics2", {"do_image_splitting": True}, False),
        ("smolvlm", {"do_image_splitting": False}, True),
        ("qwen2_5_vl", {"max_pixels": 1024}, True),
    ],
)
def test_settings_of_the_processor_are_kept_with_the_model(
    tmp_path: Path, pictures: list[Image.Image], family: str, setting: dict[str, Any], fewer: bool
) -> None:
    folder = tiny_models.save_tiny(family, tmp_path / "given")
    changed = load_backbone(folder, processor=setting)
    changed.save_pretrained(tmp_path / "kept", changed.model.state_dict())
    given, set_, kept = (
        len(ImageEncoder(load_processor(one) if isinstance(one, Path) else one)(pictures[1:2])[1][0])
        for one in (folder, changed.processor, tmp_path / "kept")
    )
    assert set_ == kept
    assert (set_ < given) if fewer else (set_ > given)


def test_a_setting_that_the_processor_lacks_or_refuses_is_named(tmp_path: Path) -> None:
    folder = tiny_models.save_tiny("idefics2", tmp_path / "given")
    with pytest.raises(FinedeficsError, match=r"Processor has no setting 'max_pixels'; use .* size$") as e:
        load_backbone(folder, processor={"max_pixels": 4})
    assert e.value.exit_code == 2
    with pytest.raises(FinedeficsError, match=r"model.processor: Idefics2ImageProcessor refuses size: large"):
        load_backbone(folder, processor={"size": "large"})
