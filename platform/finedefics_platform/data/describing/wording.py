"""Step 3 where the model words it: one request a set of attributes, so that equal ones have equal text."""

from collections import Counter
from collections.abc import Sequence

from finedefics.describers import AskingDescriber, Description, Subject, Vocabulary
from finedefics_platform.base.progress import Progress
from finedefics_platform.base.storage import Location
from finedefics_platform.data.describing.asking import Asker
from finedefics_platform.data.describing.said import Said, SaidFile, read_said, write_said


def word_files(
    describer: AskingDescriber,
    asker: Asker,
    files: Sequence[SaidFile],
    vocabulary: Vocabulary,
    place: Location,
    progress: Progress,
) -> list[SaidFile]:
    """What was said, with the model's sentence; one that names a category is not taken.

    Where there is no sentence, the attributes are put into words as without a model.
    """
    made = []
    with progress.progress("wording descriptions", len(files)) as advance:
        for number, file in enumerate(files):
            groups = [_closed(group, vocabulary) for group in read_said(file.place)]
            told = [(s, d) for group in groups for s, d, _ in group if d and d.attributes]
            sentences = asker.settle([describer.text(s.category_id, d.attributes) for s, d in told])
            texts, refused = {}, 0
            for (subject, _), sentence in zip(told, sentences, strict=True):
                named = isinstance(sentence, str) and describer.hidden.within(sentence)
                refused += named
                texts[subject.sample_id] = sentence if isinstance(sentence, str) and not named else ""
            rows = [
                ([s for s, _, _ in group], [_worded(s, d, why, texts) for s, d, why in group])
                for group in groups
            ]
            seen = Counter(file.seen) + Counter({"sentences refused": refused})
            made.append(write_said(place / f"{number:06}.parquet", rows, seen))
            advance(1)
    asker.log.flush()
    return made


_Row = tuple[Subject, Description | None, str | None]


def _closed(group: Sequence[tuple[Subject, Said]], vocabulary: Vocabulary) -> list[_Row]:
    return [
        (
            s,
            Description(d.text, vocabulary.attributes(d.attributes)) if (d := one.description) else None,
            one.reason,
        )
        for s, one in group
    ]


def _worded(subject: Subject, found: Description | None, why: str | None, texts: dict[str, str]) -> Said:
    if found is None:
        return Said(None, why)
    return Said(Description(texts.get(subject.sample_id, found.text), found.attributes), None)
