"""What asking will cost, before anything is asked: requests, tokens, and money at the prices given."""

from dataclasses import asdict, dataclass
from typing import Any

from finedefics.describers import AskingDescriber, Subject
from finedefics.describers.questions import Question
from finedefics.describers.shrink import image_tokens
from finedefics_platform.base.progress import Progress
from finedefics_platform.data.describing.asking import Asker
from finedefics_platform.data.store import Dataset

_LETTERS_A_TOKEN = 4  # English text, in the common tokenizers
_TOKENS_A_VALUE = 10  # "crown colour": "dark grey",
_TOKENS_A_NAME = 5
_A_VALUE = "a value of it"  # stands in for values that are not known yet


@dataclass(frozen=True)
class Prices:
    """Money for a million tokens, in whatever currency."""

    prompt: float = 0.0
    answer: float = 0.0

    def of(self, prompt_tokens: int, answer_tokens: int) -> float:
        """What so many tokens cost."""
        return (self.prompt * prompt_tokens + self.answer * answer_tokens) / 1e6


@dataclass(frozen=True)
class Estimate:
    """What asking would take. Texts are counted by their letters, pictures by their pixels: endpoints differ.

    Attributes:
        answered: pictures whose answers are kept already and cost nothing.
        text_tokens, image_tokens: of the prompts.
        cost: at the prices given, None without prices.
        sentences: of the requests, those that put attributes into words, at most: equal ones share one.
    """

    requests: int
    answered: int
    text_tokens: int
    image_tokens: int
    answer_tokens: int
    cost: float | None
    sentences: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def estimate(
    dataset: Dataset,
    describer: AskingDescriber,
    asker: Asker,
    progress: Progress,
    *,
    prices: Prices | None = None,
    limit: int | None = None,
) -> Estimate:
    """Count what would be asked; asks nothing and reads no picture."""
    naming: list[Question] = []
    for kind, asked in describer.naming().items():
        names = asker.kept(asked)
        if isinstance(names, list):
            describer.learn(kind, names)
        else:
            naming.append(asked)
    # names that are not known yet: as many as are asked for stand in, which changes a prompt's length little
    for kind in describer.kinds:
        if kind not in describer.names:
            describer.learn(kind, [f"attribute name {n}" for n in range(describer.options.count)])
    requests, answered, text, images, answers = len(naming), 0, sum(map(_text_tokens, naming)), 0, 0
    answers += len(naming) * describer.options.count * _TOKENS_A_NAME
    total = dataset.manifest["tables"]["samples"]["rows"]
    left = total if limit is None else min(limit, total)
    sentences = left if describer.options.wording == "model" else 0
    with progress.progress("counting", left) as advance:
        for group in dataset.row_groups():
            columns = ["sample_id", "category_id", "content_hash", "width", "height"]
            for row in dataset.read(group, {"samples": columns}).slice(0, left).to_pylist():
                subject = Subject(
                    row["sample_id"], category_id=row["category_id"], content_hash=row["content_hash"]
                )
                question = describer.values(subject)
                if sentences:
                    worded = describer.text(subject.category_id, dict.fromkeys(question.names, _A_VALUE))
                    text += _text_tokens(worded)
                    answers += worded.tokens
                if asker.kept(question) is not None:
                    answered += 1
                    continue
                requests += 1
                text += _text_tokens(question)
                images += image_tokens(row["width"], row["height"], describer.options.edge)
                answers += len(question.names) * _TOKENS_A_VALUE
            left -= min(left, group.rows)
            advance(group.rows)
            if not left:
                break
    cost = prices.of(text + images, answers) if prices else None
    return Estimate(requests + sentences, answered, text, images, answers, cost, sentences)


def _text_tokens(question: Question) -> int:
    return -(-len(question.text) // _LETTERS_A_TOKEN)
