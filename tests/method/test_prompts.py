"""Token ids of prompts and answers: those the model's own processor makes of the same conversation."""

import copy
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from finedefics.backbones import load_backbone
from finedefics.conversation import Renderer, Templates
from finedefics.errors import FinedeficsError
from finedefics.pictures import ImageEncoder

ROLES = (
    "{% for message in messages %}{{ message.role.capitalize() }}:"
    "{% for part in message.content %}{% if part.type == 'image' %}<image>"
    "{% else %}{% if message.role == 'assistant' %} {% endif %}{{ part.text }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
SAID = "User: What is this? Assistant: alba tern corva wren. red crown is alba tern"


def starting(processor: Any) -> Any:
    """The processor with a tokenizer that begins every text with ``<s>``, as Llama's and Mistral's do."""
    processor = copy.deepcopy(processor)
    start = processor.tokenizer.bos_token_id
    processor.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", start)]
    )
    return processor


@pytest.mark.parametrize("starts", [False, True])
def test_a_prompt_has_the_ids_that_the_processor_gives_it(
    family: str, tiny_folder: Path, starts: bool
) -> None:
    processor = load_backbone(tiny_folder).processor
    if starts and not family.startswith("paligemma"):  # whose processor writes the start itself
        processor = starting(processor)
    render, picture = Renderer(processor), Image.new("RGB", (40, 30), "red")
    if processor.chat_template:
        turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this ?"}]}]
        text = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    else:
        text = processor.image_token + "What is this ?"
    expected = processor(images=[[picture]], text=[text])["input_ids"][0]
    _, (block,) = ImageEncoder(processor)([picture])
    prompt = render.prompt("What is this ?")
    assert [*prompt.before, *block, *prompt.after] == [int(token) for token in expected]
    begins = (*prompt.before, *block, *prompt.after)[0] == processor.tokenizer.bos_token_id
    assert begins == (starts and not family.startswith("paligemma"))


@pytest.fixture(scope="module")
def bytewise(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Idefics2's processor with a byte-level tokenizer, whose " alba" and "alba" are different tokens."""
    import tiny_models

    processor = load_backbone(
        tiny_models.save_tiny("idefics2", tmp_path_factory.mktemp("bytewise"))
    ).processor
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<image>", "<fake_token_around_image>", "<end_of_utterance>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        [SAID] * 50,
        trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet),
    )
    processor.tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=special[3:],
    )
    processor.chat_template = ROLES
    return processor


def test_an_answer_has_the_ids_it_has_after_the_prompt(bytewise: Any) -> None:
    render, tokenizer = Renderer(bytewise), bytewise.tokenizer
    prompt = render.prompt("What is this?")
    assert tokenizer.decode(prompt.after) == "What is this?<end_of_utterance>\nAssistant:"
    whole = tokenizer("User:<image>What is this?<end_of_utterance>\nAssistant: alba tern").input_ids
    image = whole.index(render.image_token_id)
    assert [*prompt.after, *render.answer("alba tern")] == [*whole[image + 1 :], render.eos]
    assert render.answer("alba tern") != render.closed("alba tern")
    assert render.closed("alba tern") == (*tokenizer("alba tern").input_ids, render.eos)


def test_a_name_has_the_ids_it_has_after_the_words_that_it_completes(bytewise: Any) -> None:
    render, tokenizer = Renderer(bytewise), bytewise.tokenizer
    before = render.templates.naming_prefix("red crown")
    assert before == "red crown is"
    whole = tokenizer("red crown is alba tern").input_ids
    assert [*render.tokens(before), *render.named("alba tern")] == [*whole, render.eos]
    colon = Renderer(bytewise, Templates(statements=("{description}:{name}",)))
    start = len(tokenizer("red:").input_ids)
    assert colon.named("alba tern") == (*tokenizer("red:alba tern").input_ids[start:], render.eos)


def test_a_template_among_several_and_one_that_ends_a_turn_are_taken_as_they_are(bytewise: Any) -> None:
    several = copy.copy(bytewise)
    several.chat_template = {"default": ROLES, "tool_use": "{{ none }}"}
    assert Renderer(several).prompt("What?") == Renderer(bytewise).prompt("What?")
    ending = copy.copy(bytewise)
    ending.chat_template = "<image>{{ messages[0].content[1].text }}</s>"
    prompt = Renderer(ending).prompt("What is this?")
    assert prompt.after[-1] == bytewise.tokenizer.eos_token_id


def test_a_text_that_holds_a_token_of_the_model_is_refused(bytewise: Any) -> None:
    render = Renderer(bytewise)
    for make in (render.closed, render.answer, render.named):
        with pytest.raises(
            FinedeficsError, match="reads '<image>' in a text as a token of its own"
        ) as caught:
            make("tern <image>")
        assert "'tern <image>'" in str(caught.value)


def test_a_chat_template_that_shows_no_picture_is_refused(bytewise: Any) -> None:
    blind = copy.copy(bytewise)
    blind.chat_template = ROLES.replace("<image>", "")
    with pytest.raises(FinedeficsError, match="shows 0 pictures where one was given"):
        Renderer(blind).prompt("What is this?")
