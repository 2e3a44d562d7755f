"""Token ids of prompts and answers: those the model's own processor makes of the same conversation."""

import copy
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from finedefics.backbones import FAMILIES, load_backbone
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
    end = tokenizer.convert_tokens_to_ids("<end_of_utterance>")
    assert [*prompt.after, *render.answer("alba tern")] == [*whole[image + 1 :], end]
    assert render.answer("alba tern") != render.closed("alba tern")
    assert render.closed("alba tern") == (*tokenizer("alba tern").input_ids, render.eos)


@pytest.mark.parametrize("begin", [False, True])
def test_an_embedded_text_begins_as_the_tokenizer_begins_texts(
    family: str, tiny_folder: Path, begin: bool
) -> None:
    plain = load_backbone(tiny_folder).processor
    templates, start = Templates(begin_texts=begin), [plain.tokenizer.bos_token_id] * begin
    for processor, first in ((plain, []), (starting(plain), start)):
        render = Renderer(processor, templates)
        assert render.closed("alba tern") == (*first, *render.tokens("alba tern"), render.eos)


ENDS = {"idefics2": "<end_of_utterance>", "idefics3": "<end_of_utterance>", "smolvlm": "<end_of_utterance>"}
ENDS |= dict.fromkeys(("qwen2_5_vl", "llava_next", "llava_onevision"), "<|im_end|>")
ENDS |= dict.fromkeys(("paligemma", "paligemma2"), "</s>")  # which have no chat template


def test_an_answer_ends_as_its_family_ends_a_turn(family: str, tiny_folder: Path) -> None:
    processor = load_backbone(tiny_folder).processor
    render, end = Renderer(processor), processor.tokenizer.convert_tokens_to_ids(ENDS[family])
    assert render.answer("alba tern") == (*render.tokens("alba tern"), end)
    assert render.named("alba tern")[-1] == render.closed("alba tern")[-1] == render.eos
    assert all(tokens[-1] == render.eos for tokens in render.statement_tokens("alba tern", "red wing"))
    if processor.chat_template:
        text = {"type": "text", "text": "What is this ?"}
        said = {"role": "assistant", "content": [{**text, "text": "alba tern"}]}
        turns = [{"role": "user", "content": [{"type": "image"}, text]}, said]
        whole = render.tokens(processor.apply_chat_template(turns, tokenize=False))
        spoken = (*render.prompt("What is this ?").after, *render.answer("alba tern"))
        start = whole.index(render.image_token_id) + 1
        assert whole[start : start + len(spoken)] == spoken


def test_a_prompt_of_paligemma_ends_with_a_line_break(bytewise: Any) -> None:
    text = {"type": "text", "text": "What is this?"}
    turns = [{"role": "user", "content": [{"type": "image"}, text]}]
    said = bytewise.apply_chat_template(turns, chat_template=FAMILIES["paligemma"].chat_template)
    assert said == "<image><s>What is this?\n"


IDEFICS2 = (
    "{% for message in messages %}{{ message['role'].capitalize() }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
SMOLVLM = "<|im_start|>" + IDEFICS2
QWEN = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAVA = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% else %} ASSISTANT:"
    "{% for part in message['content'] %} {{ part['text'] }}{% endfor %}BEHIND"
    "{% endif %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (IDEFICS2, ["<end_of_utterance>"]),
        (SMOLVLM, ["<end_of_utterance>"]),
        (QWEN, ["<|im_end|>"]),
        (LLAVA.replace("BEHIND", "</s>"), ["</s>"]),
        (LLAVA.replace("BEHIND", " </s>"), ["Ġ", "</s>"]),  # the space is what the model is trained to say
        (LLAVA.replace("BEHIND", ""), ["</s>"]),
        (LLAVA.replace("BEHIND", "\n"), ["</s>"]),  # words without a token of their own end nothing
        ("<image>{{ messages[0]['content'][1]['text'] }}<end_of_utterance>", ["</s>"]),  # shows no answer
    ],
    ids=["idefics2", "smolvlm", "qwen", "llava", "spaced", "open", "line", "one-sided"],
)
def test_the_end_of_a_turn_is_the_templates_own(bytewise: Any, template: str, end: list[str]) -> None:
    speaking = copy.copy(bytewise)
    speaking.tokenizer = copy.deepcopy(bytewise.tokenizer)
    extra = ["<image>", "<end_of_utterance>", "<|im_start|>", "<|im_end|>"]
    speaking.tokenizer.add_special_tokens({"additional_special_tokens": extra})
    speaking.chat_template = template
    render = Renderer(speaking)
    assert speaking.tokenizer.convert_ids_to_tokens(render.end) == end
    answer = render.answer("alba tern")
    assert answer[-len(end) :] == render.end
    spoken = speaking.tokenizer.decode(answer[: -len(end)])
    assert spoken.strip() == "alba tern"


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
