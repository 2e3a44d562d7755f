"""Several answers to the same pictures: decoded and encoded once, and each as if it were asked alone."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from finedefics.backbones import Backbone, load_backbone
from finedefics.errors import FinedeficsError
from finedefics.evaluation.items import evaluate_samples
from finedefics.records import Category, Sample
from finedefics.scoring import EnsembleWeight, Recogniser, recogniser
from finedefics.scoring.asked import Kept

CATEGORIES = [Category(f"c{i}", name) for i, name in enumerate(["red wing", "black", "white tail wing"])]
ANSWERS = ["ensemble", "names", "names_corrected", "alignment", "alignment_names", "describe", "letters"]
OPTIONS = [[0, 1, 2], [2, 0], [1, 2, 0], [0, 1], [2, 1, 0]]
IDS = [f"bird-{i}" for i in range(5)]


@pytest.fixture
def model(lettered: Backbone) -> Recogniser:
    torch.set_num_threads(1)
    return Recogniser(lettered, CATEGORIES, ensemble=EnsembleWeight(0.3, "birds", "val", 10, 0.5))


def counting(monkeypatch: pytest.MonkeyPatch, target: Any, name: str) -> list[Any]:
    """Every call of a function from now on, by its first argument."""
    calls: list[Any] = []
    own = getattr(target, name)

    def counted(first: Any, *more: Any, **named: Any) -> Any:
        calls.append(first)
        return own(first, *more, **named)

    monkeypatch.setattr(target, name, counted)
    return calls


def test_answers_together_are_those_alone(
    model: Recogniser, birds: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"options": OPTIONS, "sample_ids": IDS}
    alone = {answer: model.answer(birds[:5], answer, **asked) for answer in ANSWERS}
    decoded = counting(monkeypatch, recogniser, "decode_image")
    encoded = counting(monkeypatch, model.backbone, "encode_images")
    named = counting(monkeypatch, model, "name_scores")
    embedded = counting(monkeypatch, model.language, "embed")
    together = model.answers(birds[:5], ANSWERS, **asked)
    assert decoded == birds[:5]
    assert len(encoded) == len(embedded) == 1
    # the likelihood of names, and that of names after what is described; no picture is named twice
    assert len(named) == 2
    for answer in ANSWERS:
        assert torch.equal(together[answer].scores, alone[answer].scores), answer
        one, other = (replace(m[answer], scores=torch.empty(0), seconds=0.0) for m in (together, alone))
        assert (one.texts, one.forwarded_tokens) == (other.texts, other.forwarded_tokens)
        assert one.generated_tokens == other.generated_tokens


def test_shared_work_counts_for_every_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds by a clock that only work moves: what is asked again costs what it cost the first time."""
    now = 0.0
    monkeypatch.setattr("finedefics.scoring.asked.time.perf_counter", lambda: now)
    kept = Kept()

    def work(seconds: float, *needs: Any) -> float:
        nonlocal now
        for need in needs:
            need()
        now += seconds
        return seconds

    def part() -> float:
        return kept.once("part", lambda: work(3.0))

    def whole() -> float:
        return kept.once("whole", lambda: work(1.0, part))

    def alone(ask: Any) -> float:
        reused, started = kept.reused, now
        ask()
        return now - started + kept.reused - reused

    assert [alone(one) for one in (part, whole, whole, part)] == [3.0, 4.0, 4.0, 3.0]
    assert now == 4.0


def test_an_answer_is_as_dear_as_it_is_alone(model: Recogniser, birds: list[bytes]) -> None:
    """All of them include the encoding; what comes second pays for what it shares with the first."""
    pictures = replace(model.show(birds[:3], sample_ids=IDS[:3]), seconds=100.0)
    found = model.ask(pictures, ["names", "ensemble", "names_corrected"])
    assert all(answered.seconds > 100 for answered in found.values())
    assert found["ensemble"].seconds > found["names"].seconds
    assert found["names_corrected"].seconds >= found["names"].seconds


def test_an_evaluation_decodes_each_picture_once(
    model: Recogniser, birds: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finedefics.evaluation.items.BATCH", 3)
    decoded = counting(monkeypatch, recogniser, "decode_image")
    encoded = counting(monkeypatch, model, "encode")
    samples = [Sample(name, bird, "c0") for name, bird in zip(IDS, birds, strict=False)]
    items = evaluate_samples(model, samples, ANSWERS, labelled={"c0"}, options=3)
    assert decoded == birds[:5]
    assert [len(pictures) for pictures in encoded] == [3, 2]
    assert items.objects.shape == (5, model.index.names.shape[1])
    assert set(items.seconds) == set(items.tokens) == set(ANSWERS)
    wide = len([answer for answer in ANSWERS if answer != "letters"])
    assert len(items.rows) == 5 * (wide + len(ANSWERS))


def test_many_pictures_are_recognised_a_batch_at_a_time(
    model: Recogniser, birds: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = model.recognise(birds)
    monkeypatch.setattr("finedefics.scoring.recogniser.BATCH", 2)
    encoded = counting(monkeypatch, model, "encode")
    parts = model.recognise(birds)
    assert [len(pictures) for pictures in encoded] == [2, 2, 2, 1]
    assert [[name for name, *_ in one] for one in parts] == [[name for name, *_ in one] for one in whole]


def test_inputs_and_weights_are_of_one_dtype(lettered: Backbone, birds: list[bytes], tmp_path: Any) -> None:
    from finedefics.placing import load_placed

    lettered.save_pretrained(tmp_path)
    assert {p.dtype for p in load_placed(tmp_path, "cpu").backbone.parameters()} == {torch.float32}
    half = load_placed(tmp_path, "cpu", "bfloat16").backbone
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    half.save_pretrained(tmp_path / "half")
    again = load_placed(tmp_path / "half", "cpu").backbone
    assert again.dtype == torch.bfloat16
    assert not any(p.requires_grad for p in again.parameters())
    model = Recogniser(again, CATEGORIES)
    given: set[torch.dtype] = set()
    own = again.family.encode

    class Watching:
        def encode(self, model: Any, images: Any) -> Any:
            given.update(t.dtype for t in images.values() if t.is_floating_point())
            return own(model, images)

        def __getattr__(self, name: str) -> Any:
            return getattr(lettered.family, name)

    again.family = Watching()  # type: ignore[assignment]
    found = model.answers(birds[:2], ["names", "alignment", "describe"])
    assert given == {torch.bfloat16}
    assert {answered.scores.dtype for answered in found.values()} == {torch.float32}


def test_a_token_budget_bounds_what_is_held_and_changes_no_answer(
    model: Recogniser, birds: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"options": OPTIONS, "sample_ids": IDS}
    whole = model.answers(birds[:5], ANSWERS, **asked)
    longest = max(len(p) for p in model.prompted(model.show(birds[:5]), model.render.templates.request))
    small = Recogniser(model.backbone, CATEGORIES, index=model.index, ensemble=model.index.ensemble)
    budget = small.language.micro_tokens = 2 * (longest + 80)
    held: list[int] = []
    run, embed = small.language._run, small.language._embed

    def noted(embeddings: Any, mask: Any, *more: Any) -> Any:
        held.append(mask.numel())
        return run(embeddings, mask, *more)

    def embedded(sequences: Any, *more: Any) -> Any:
        held.append(len(sequences) * max(map(len, sequences)))
        return embed(sequences, *more)

    monkeypatch.setattr(small.language, "_run", noted)
    monkeypatch.setattr(small.language, "_embed", embedded)
    found = small.answers(birds[:5], ANSWERS, **asked)
    assert budget / 3 < max(held) <= budget
    for answer in ANSWERS:
        torch.testing.assert_close(found[answer].scores, whole[answer].scores, atol=1e-5, rtol=1e-5)
        assert torch.equal(found[answer].scores.argmax(1), whole[answer].scores.argmax(1)), answer
        assert found[answer].texts == whole[answer].texts
        assert found[answer].generated_tokens == whole[answer].generated_tokens
    assert Recogniser(model.backbone, CATEGORIES, micro_tokens=7).language.micro_tokens == 7


def test_the_tower_sees_no_more_patches_at_a_time_than_the_budget(
    model: Recogniser, birds: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = model.show(birds[:5])
    seen: list[int] = []
    own = model.backbone.encode_images

    def noted(images: Any) -> Any:
        seen.append(len(images["pixel_values"]) * model.backbone.patches(images))
        return own(images)

    monkeypatch.setattr(model.backbone, "encode_images", noted)
    model.show(birds[:1])
    each = seen.pop()
    for budget, most in ((2 * each, 2), (each - 1, 1)):  # a picture that alone has more goes alone
        model.language.micro_tokens = budget
        found = model.show(birds[:5])
        assert max(seen) == most * each
        assert sum(seen) == 5 * each
        seen.clear()
        for one, other in zip(found.tokens, whole.tokens, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("where", ["encode_images", "language_model"])
def test_out_of_memory_names_the_pictures_their_tokens_and_what_to_lower(
    where: str, model: Recogniser, birds: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 96 GiB")

    monkeypatch.setattr(model.backbone, where, exhausted)
    with pytest.raises(FinedeficsError) as caught:
        model.answer(birds[:2], "names", sample_ids=["wren", "tern"])
    said = str(caught.value)
    assert "pictures wren to tern: out of memory with" in said
    assert "2 pictures" in said
    assert f"lower evaluation.micro_tokens (--micro-tokens) below {model.language.micro_tokens}" in said
    if where == "language_model":
        assert "tokens for `names`" in said


def test_whoever_asks_a_model_has_it_in_its_own_dtype_on_its_processs_device(
    lettered: Backbone, birds: list[bytes], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a card that is made up: what is placed there is noted, and stays on the CPU."""
    from finedefics.describers.transformers import TransformersModel
    from finedefics.embedders import Settings, make_embedder
    from finedefics.labellers.contract import LABELLERS, Given, Unnamed

    lettered.save_pretrained(tmp_path / "whole")
    load_backbone(tmp_path / "whole", dtype="bfloat16").save_pretrained(tmp_path / "half")
    half = str(tmp_path / "half")
    placed: list[set[torch.dtype]] = []
    inputs: set[torch.dtype] = set()
    own = torch.nn.Module.to

    def to(self: torch.nn.Module, *given: Any, **named: Any) -> Any:
        if "cuda" in given:
            placed.append({p.dtype for p in self.parameters()})
            return self
        return own(self, *given, **named)

    def seen(self: Backbone, images: Any, run: Any = Backbone.encode_images) -> Any:
        inputs.update(t.dtype for t in images.values() if t.is_floating_point())
        return run(self, images)

    monkeypatch.setattr(torch.nn.Module, "to", to)
    monkeypatch.setattr(Backbone, "encode_images", seen)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: True)
    monkeypatch.setattr("finedefics.placing.memory_of", lambda device: [80 * 2**30])
    card = Settings(device="cuda")
    embedder = make_embedder(f"tuned:{half}", card)
    assert embedder.embedder_id.endswith("-bfloat16")
    embedder.embed_pictures(birds[:2])
    pictures = [Unnamed("one", "a brown bird", birds[0]), Unnamed("two", "a red bird", birds[1])]
    for name in ("alignment", "reading"):
        LABELLERS[name](Given(half, CATEGORIES, card))(pictures)
    assert placed == [{torch.bfloat16}] * 3
    assert inputs == {torch.bfloat16}
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: False)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "an old card")
    asking = (
        lambda: make_embedder(f"tuned:{half}", card).embed_texts(["a bird"]),
        lambda: LABELLERS["reading"](Given(half, CATEGORIES, card))(pictures),
        lambda: TransformersModel(half, device="cuda")._loaded,
    )
    for ask in asking:
        with pytest.raises(FinedeficsError, match="an old card: the card does not compute in bfloat16"):
            ask()
