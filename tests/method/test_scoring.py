"""Every answer equals a plain computation, one picture at a time, whatever stands beside it in the batch."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tokenizers import normalizers

from finedefics.backbones import Backbone
from finedefics.base_model import untrained_backbone
from finedefics.collation import Collator
from finedefics.conversation import Renderer, Templates, option_order
from finedefics.data.generated import make_world
from finedefics.errors import FinedeficsError
from finedefics.pictures import decode_image
from finedefics.records import Category, Sample
from finedefics.scoring import (
    ANSWERS,
    Calibration,
    CategoryIndex,
    EnsembleWeight,
    Recogniser,
    as_mapping,
    best_category,
    choose_weight,
    multiple_choice,
)
from finedefics.scoring.language import _drawn
from finedefics.scoring.letters import Letters
from finedefics.scoring.weighing import combine
from finedefics.terms import ObjectiveSettings, TermSettings

SPECIES = make_world(5, families=2, species_per_family=3).species
# names of one, two and three words, so that completions are padded
CATEGORIES = [
    Category(f"c{i}", name, description=species.description)
    for i, (species, name) in enumerate(
        (s, [s.name.split()[0], s.name, f"{s.name} wing"][i % 3]) for i, s in enumerate(SPECIES)
    )
]
OPTIONS = [[0, 1, 2, 3], [5, 4, 3, 2], [1, 0, 5], [2, 3, 4, 5], [4, 1, 0, 2], [3, 5, 1, 0], [0, 5, 2, 1]]
IDS = [f"bird-{i}" for i in range(7)]
WRITTEN = ("names_free", "names_open", "describe", "describe_sampled", "letters", "letters_foci")
WEIGHT = EnsembleWeight(0.3, "birds", "val", 10, 0.5)


@pytest.fixture(scope="module")
def model(lettered: Backbone) -> Recogniser:
    torch.set_num_threads(1)
    made = Recogniser(lettered, CATEGORIES, ensemble=WEIGHT, seed=4)
    # there, and off: the answers that it does not concern are as without it
    calibration = Calibration(made.index.names.clone(), False, "a test", "birds", "train", len(CATEGORIES), 1)
    made.index = replace(made.index, calibration=calibration)
    return made


@torch.no_grad()
def plain_likelihood(model: Recogniser, prefix, completion, image=None) -> float:  # type: ignore[no-untyped-def]
    """Log-likelihood by one whole forward pass: no cache, no padding."""
    ids = torch.tensor([[*prefix, *completion]])
    inputs = model.backbone.embed_tokens(ids, None if image is None else [image])
    hidden = model.backbone.hidden_states(inputs, torch.ones_like(ids))
    logs = model.backbone.logits(hidden)[0].double().log_softmax(-1)
    start = len(prefix) - 1
    return sum(float(logs[start + i, token]) for i, token in enumerate(completion))


@torch.no_grad()
def plain_words(model: Recogniser, prefix, image, limit: int) -> str:  # type: ignore[no-untyped-def]
    written: list[int] = []
    while len(written) < limit:
        ids = torch.tensor([[*prefix, *written]])
        hidden = model.backbone.hidden_states(model.backbone.embed_tokens(ids, [image]), torch.ones_like(ids))
        token = int(model.backbone.logits(hidden[0, -1]).argmax())
        if token in model.language.ends:
            break
        written.append(token)
    return model.render.tokenizer.decode(written, skip_special_tokens=True)


@pytest.mark.usefixtures("short_descriptions")
@pytest.mark.parametrize("answer", list(ANSWERS))
def test_an_answer_does_not_depend_on_the_batch(model: Recogniser, birds: list[bytes], answer: str) -> None:
    whole = model.answer(birds, answer, options=OPTIONS, sample_ids=IDS)
    parts = [
        model.answer(birds[a:b], answer, options=OPTIONS[a:b], sample_ids=IDS[a:b])
        for a, b in ((0, 1), (1, 4), (4, 7))
    ]
    torch.testing.assert_close(whole.scores, torch.cat([p.scores for p in parts]), atol=1e-5, rtol=2e-6)
    assert whole.texts == tuple(text for part in parts for text in part.texts)
    assert whole.forwarded_tokens == sum(part.forwarded_tokens for part in parts) > 0
    assert whole.generated_tokens == sum(part.generated_tokens for part in parts)
    assert bool(whole.generated_tokens) == (answer in WRITTEN)
    assert whole.scores.shape == (7, len(CATEGORIES))


@pytest.mark.usefixtures("short_descriptions")
def test_descriptions_are_drawn_as_likely_as_the_model_thinks_them(
    model: Recogniser, birds: list[bytes]
) -> None:
    """A name's share is its mean over the drawn texts; another seed or picture draws other ones."""
    answered = model.answer(birds[:2], "describe_sampled", sample_ids=["same", "same"])
    texts = [text.split("\n") for text in answered.texts]
    assert [len(each) for each in texts] == [8, 8]
    assert len(set(texts[0])) > 1
    prefixes = [model.render.opened(model.render.templates.naming_prefix(text)) for text in texts[0]]
    with torch.no_grad():
        shares = model.name_scores(prefixes, model.completed_names).softmax(-1).mean(0)
    torch.testing.assert_close(answered.scores[0].exp(), shares, atol=1e-5, rtol=1e-4)
    assert model.answer(birds[:1], "describe_sampled", sample_ids=["same"]).texts == answered.texts[:1]
    assert model.answer(birds[:1], "describe_sampled", sample_ids=["other"]).texts != answered.texts[:1]


def test_a_token_is_drawn_by_its_probability() -> None:
    shares = torch.tensor([0.5, 0.0, 0.3, 0.2])
    source = np.random.default_rng(0)
    drawn = [int(_drawn(shares.log()[None], [source])) for _ in range(4000)]
    counts = torch.bincount(torch.tensor(drawn), minlength=4) / 4000
    torch.testing.assert_close(counts, shares, atol=0.03, rtol=0)
    assert counts[1] == 0


def test_names_are_their_likelihood(model: Recogniser, birds: list[bytes]) -> None:
    pictures = model.encode([decode_image(bird, "") for bird in birds[:2]])
    prompts = model.prompted(pictures, model.render.templates.question)
    empty = model.render.prompt(model.render.templates.question)
    names = [model.render.answer(c.name) for c in CATEGORIES]
    assert len({len(name) for name in names}) == 3
    expected = torch.tensor(
        [
            [plain_likelihood(model, prompt, name, image) for name in names]
            for prompt, image in zip(prompts, pictures.tokens, strict=True)
        ]
    )
    prior = torch.tensor([plain_likelihood(model, (*empty.before, *empty.after), name) for name in names])
    torch.testing.assert_close(model.answer(birds[:2], "names").scores, expected, atol=1e-4, rtol=0)
    corrected = model.answer(birds[:2], "names_corrected").scores
    torch.testing.assert_close(corrected, expected - prior, atol=1e-4, rtol=0)


def test_left_padding_and_chunks_change_no_likelihood(
    model: Recogniser, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = model.render.tokens
    prefixes = [words("red"), words("brown wing and red crown and white belly"), words("white tail")]
    names = [model.render.closed(c.name) for c in CATEGORIES]
    expected = torch.tensor([[plain_likelihood(model, p, name) for name in names] for p in prefixes])
    with torch.no_grad():
        together = model.language.completion_scores(prefixes, names)
        monkeypatch.setattr(model.language, "micro_tokens", 40)
        in_chunks = model.language.completion_scores(prefixes, names)
    torch.testing.assert_close(together, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(in_chunks, together, atol=1e-5, rtol=0)


def test_words_are_written_greedily(model: Recogniser, birds: list[bytes]) -> None:
    answered = model.answer(birds[:3], "describe")
    pictures = model.encode([decode_image(bird, "") for bird in birds[:3]])
    prompts = model.prompted(pictures, model.render.templates.request)
    expected = [plain_words(model, p, i, 96) for p, i in zip(prompts, pictures.tokens, strict=True)]
    assert list(answered.texts) == expected
    prefix = model.render.tokens(model.render.templates.naming_prefix(expected[0]))
    name = model.render.closed(CATEGORIES[1].name)
    assert answered.scores[0, 1].item() == pytest.approx(plain_likelihood(model, prefix, name), abs=1e-4)


def test_a_turn_ends_at_any_token_the_model_ends_at(lettered: Backbone, birds: list[bytes]) -> None:
    before = lettered.model.generation_config.eos_token_id
    model = Recogniser(lettered, CATEGORIES)
    said = model.answer(birds[:1], "names_free").texts[0].split()
    assert said
    stop = model.render.tokens(said[-1])[0]
    lettered.model.generation_config.eos_token_id = [before, stop]
    try:
        shorter = Recogniser(lettered, CATEGORIES).answer(birds[:1], "names_free").texts[0].split()
    finally:
        lettered.model.generation_config.eos_token_id = before
    assert shorter == said[: said.index(said[-1])]


def test_a_turn_ends_where_the_chat_template_ends_it(lettered: Backbone, birds: list[bytes]) -> None:
    said = Recogniser(lettered, CATEGORIES).answer(birds[:1], "names_free").texts[0].split()
    texts = [f"{category.name} {category.description}" for category in CATEGORIES]
    last = next(word for word in said[1:] if not any(word in text for text in texts))
    processor = copy.deepcopy(lettered.processor)
    processor.tokenizer.add_special_tokens({"additional_special_tokens": [last]})
    ends = "<end_of_utterance>{% endfor %}"
    mark = "{% if message.role == 'user' %}<end_of_utterance>{% else %}" + last + "{% endif %}{% endfor %}"
    processor.chat_template = processor.chat_template.replace(ends, mark)
    assert mark in processor.chat_template
    shorter = Recogniser(Backbone(lettered.model, processor), CATEGORIES).answer(birds[:1], "names_free")
    assert shorter.texts[0].split() == said[: said.index(last)]
    assert shorter.generated_tokens == said.index(last) + 1 < len(said)


def test_alignment_follows_its_variant(model: Recogniser, birds: list[bytes]) -> None:
    objects, _ = model.embed_objects(model.encode([decode_image(bird, "") for bird in birds]))
    texts = {"names": model.index.names, "descriptions": model.index.descriptions}
    texts["sum"] = F.normalize(texts["names"] + texts["descriptions"], dim=-1)
    answers = {"names": "alignment_names", "descriptions": "alignment_descriptions", "sum": "alignment"}
    for variant, answer in answers.items():
        found = model.answer(birds, answer).scores
        torch.testing.assert_close(found, objects.detach() @ texts[variant].T, atol=1e-6, rtol=0)
    for row, category in zip(model.index.descriptions, CATEGORIES, strict=True):
        own = model.language.embed([model.render.closed(category.description or "")]).detach()
        torch.testing.assert_close(row, own[0], atol=1e-5, rtol=0)


def test_an_object_is_read_where_training_read_it(lettered: Backbone, birds: list[bytes]) -> None:
    inside = Recogniser(lettered, CATEGORIES, object_readout="prompt")
    pictures = inside.encode([decode_image(bird, "") for bird in birds[:2]])
    found, tokens = inside.embed_objects(pictures)
    before = inside.render.prompt(inside.render.templates.question).before
    ids = torch.tensor([[*before, *pictures.blocks[0]]])
    inputs = lettered.embed_tokens(ids, pictures.tokens[:1])
    hidden = lettered.hidden_states(inputs, torch.ones_like(ids))[0, -1]
    torch.testing.assert_close(found[0], F.normalize(hidden, dim=0), atol=1e-5, rtol=0)
    assert tokens == 2 * ids.shape[1]


def test_likelier_letters_stand_for_the_options_shown(model: Recogniser, birds: list[bytes]) -> None:
    scores = model.answer(birds, "letters_likelihood", options=OPTIONS, sample_ids=IDS).scores
    pictures = model.encode([decode_image(birds[2], "")])
    order = [OPTIONS[2][i] for i in option_order(3, seed=4, sample_id=IDS[2])]
    question = model.render.templates.multiple_choice([CATEGORIES[i].name for i in order])
    prompt = model.prompted(pictures, question)[0]
    for letter, position in zip("ABC", order, strict=True):
        tokens = model.render.tokens(letter)
        expected = plain_likelihood(model, prompt, tokens, pictures.tokens[0])
        assert scores[2, position].item() == pytest.approx(expected, abs=1e-4)
    assert scores[2, [2, 3, 4]].tolist() == [-torch.inf] * 3


def test_a_reply_is_read_as_the_option_it_means(
    model: Recogniser, birds: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    replies = ["B", "Answer: B", "nothing", "c", "(D)", "A.", "Z"]
    monkeypatch.setattr(model.language, "write", lambda prompts, tokens, limit: (replies, 7))
    strict = model.answer(birds, "letters", options=OPTIONS, sample_ids=IDS)
    foci = model.answer(birds, "letters_foci", options=OPTIONS, sample_ids=IDS)
    orders = [
        [o[i] for i in option_order(len(o), seed=4, sample_id=name)]
        for o, name in zip(OPTIONS, IDS, strict=True)
    ]
    assert strict.texts == tuple(replies)
    assert multiple_choice(strict.scores, OPTIONS) == [
        orders[0][1], orders[1][1], None, orders[3][2], orders[4][3], orders[5][0], None
    ]  # fmt: skip
    assert multiple_choice(foci.scores, OPTIONS)[1] == orders[1][0]
    assert multiple_choice(foci.scores, OPTIONS)[4] is None


def test_a_free_answer_counts_only_where_it_is_a_name(
    model: Recogniser, birds: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = CATEGORIES[1].name
    replies = [name.upper() + ".", f"a {name}", name.replace(" ", "  "), "", name.split()[0] + " x"]
    monkeypatch.setattr(model.language, "write", lambda prompts, tokens, limit: (replies, 5))
    answered = model.answer(birds[:5], "names_free")
    assert best_category(answered.scores) == [1, None, 1, None, None]
    assert multiple_choice(answered.scores, [[0, 2]] * 5) == [None] * 5
    assert [len(ranking) for ranking in model.recognise(birds[:5], "names_free")] == [1, 0, 1, 0, 0]


def test_equal_scores_are_not_decided_for_the_truth() -> None:
    assert multiple_choice(torch.zeros(2, 4), [[3, 1, 2], [0, 3]]) == [1, 0]


def test_letters_need_a_tokenizer_that_knows_them(birds: list[bytes]) -> None:
    backbone = untrained_backbone()
    backbone.processor.tokenizer.backend_tokenizer.normalizer = normalizers.Replace("B", "A")
    model = Recogniser(backbone, CATEGORIES)
    for answer in ("letters", "letters_likelihood"):
        with pytest.raises(FinedeficsError, match="does not tell the letters"):
            model.answer(birds[:1], answer)


@pytest.mark.parametrize("begin", [False, True])
def test_training_index_and_answers_begin_a_text_alike(
    begin: bool, birds: list[bytes], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    backbone = untrained_backbone(begins=True)
    templates, render = Templates(begin_texts=begin), Renderer(backbone.processor)
    closed = [
        (*[render.tokenizer.bos_token_id] * begin, *render.tokens(c.name), render.eos) for c in CATEGORIES
    ]
    settings = ObjectiveSettings({"category_category": TermSettings(1.0, ("labelled",))})
    collate = Collator(backbone.processor, CATEGORIES, settings, negatives=0, templates=templates)
    rows = [Sample(c.category_id, bird, c.category_id) for c, bird in zip(CATEGORIES, birds, strict=False)]
    packed = collate({"labelled": rows}, step=0).embedded
    ids, segments = packed.ids.flatten().tolist(), packed.segments.flatten().tolist()
    assert sorted(token for token, segment in zip(ids, segments, strict=True) if segment) == sorted(
        sum(closed, ())
    )
    Recogniser(backbone, CATEGORIES[:4], templates=templates).add(CATEGORIES[4:]).index.save(tmp_path)
    index = CategoryIndex.load(tmp_path)
    assert index.templates == templates
    model = Recogniser(backbone, CATEGORIES, index=index)
    torch.testing.assert_close(index.names, model.language.embed(closed).detach(), atol=1e-5, rtol=0)


def test_an_index_grows_by_texts_alone(lettered: Backbone, birds: list[bytes], tmp_path: Path) -> None:
    small = Recogniser(lettered, CATEGORIES[:4], templates=Templates(question="What is brown ?"))
    grown = small.add(CATEGORIES[4:])
    whole = Recogniser(lettered, CATEGORIES, templates=Templates(question="What is brown ?"))
    for answer in ("names", "names_corrected", "alignment", "alignment_names", "letters_likelihood"):
        torch.testing.assert_close(
            grown.answer(birds, answer).scores, whole.answer(birds, answer).scores, atol=1e-5, rtol=0
        )
    assert len(small.index.categories) == 4
    for same, what in ((CATEGORIES[0], "id 'c0'"), (Category("x", CATEGORIES[1].name.upper()), "name")):
        with pytest.raises(FinedeficsError, match=what) as refused:
            small.add([same])
        assert refused.value.exit_code == 2
    grown.index.save(tmp_path)
    read = CategoryIndex.load(tmp_path)
    assert read.categories == grown.index.categories
    assert (read.templates, read.ensemble) == (grown.render.templates, None)
    torch.testing.assert_close(read.embeddings(), grown.index.embeddings())
    served = Recogniser(lettered, read.categories, index=read)
    assert served.render.templates.question == "What is brown ?"
    with pytest.raises(FinedeficsError, match=r"categories\.json is missing"):
        CategoryIndex.load(tmp_path / "nowhere")


def test_the_ensemble_is_chosen_and_recorded(model: Recogniser, birds: list[bytes], tmp_path: Path) -> None:
    names, alignment = (model.answer(birds, part).scores for part in ("names", "alignment"))
    found = model.answer(birds, "ensemble").scores
    torch.testing.assert_close(found, combine(names, alignment, 0.3), atol=1e-5, rtol=0)
    model.index.save(tmp_path)
    assert CategoryIndex.load(tmp_path).ensemble == WEIGHT
    without = Recogniser(model.backbone, CATEGORIES, index=replace(model.index, ensemble=None))
    with pytest.raises(FinedeficsError, match="no weight was chosen"):
        without.answer(birds[:1], "ensemble")


def test_the_weight_goes_to_the_part_that_is_right() -> None:
    torch.manual_seed(0)
    truth = torch.randint(0, 5, (60,))
    right, noise = F.one_hot(truth, 5).float(), torch.randn(60, 5)
    by_name = choose_weight(right * 9, noise / 9, truth.tolist(), dataset="birds", split="val")
    by_alignment = choose_weight(noise * 9, right, truth.tolist(), dataset="birds", split="val")
    assert by_name.accuracy == by_alignment.accuracy == 1.0
    assert by_name.weight > 0.5 > by_alignment.weight
    assert (by_name.dataset, by_name.split, by_name.pictures) == ("birds", "val", 60)


def test_settings_are_fields_of_a_strategy() -> None:
    assert Letters() == ANSWERS["letters"] != ANSWERS["letters_foci"]
    with pytest.raises(FinedeficsError, match="unknown answer"):
        ANSWERS["guess"]
    assert as_mapping([("a", "Auk", 0.5)]) == [{"category_id": "a", "name": "Auk", "score": 0.5}]
