"""Several answers to the same pictures: decoded and encoded once, and each as if it were asked alone."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from finedefics.backbones import Backbone
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
