"""A first experiment for a dataset: what it has is what is trained, and every line says why.

A contrastive term stops a run at a step in which no row has a negative, so a feed gets rows enough that this
does not happen, and a term without a feed that is large enough is left out.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from finedefics.errors import FinedeficsError
from finedefics_platform.data.store import Dataset

HUB = {True: "HuggingFaceM4/idefics2-8b", False: "HuggingFaceTB/SmolVLM-256M-Instruct"}  # by: is there a GPU
_ROWS = {True: 32, False: 8}  # of a feed in a step
_STEPS = {True: (100, 2000), False: (60, 400)}  # fewest and most
_PASSES = 10  # over the pictures, where the steps allow it
_NEGATIVES = 3
_SMALL = 500 * 2**20  # bytes of weights below which all of them are tuned
_NEVER = 1e-6  # chance of a step without anything to contrast in a whole run


@dataclass(frozen=True)
class Facts:
    """What of a dataset version can be trained on and judged by.

    Attributes:
        labelled: labelled training pictures; ``described`` of them have a description.
        largest: the largest share of them that one category has.
        captioned: training pictures with a description and no label.
        texts: categories with a description.
        mined: most hard negatives of a picture.
        held_out: labelled pictures of the splits val and test.
        inferred: training pictures without a label whose inferred one is as sure as the labels' threshold.
    """

    dataset: str
    categories: int
    labelled: int
    described: int
    largest: float
    captioned: int
    texts: int
    mined: int
    held_out: dict[str, int]
    inferred: int = 0

    @classmethod
    def of(cls, dataset: Dataset) -> "Facts":
        """Counted from the manifest and small tables."""
        groups = dataset.row_groups("train")
        counts = dataset.manifest["counts"]
        train = {category: number for category, number in counts.get("train", {}).items() if category}
        total = sum(train.values())
        return cls(
            dataset.name,
            dataset.manifest["tables"]["categories"]["rows"],
            total,
            sum(group.described for group in groups if group.labelled),
            max(train.values(), default=0) / max(total, 1),
            sum(group.described for group in groups if not group.labelled),
            sum(bool(category.description) for category in dataset.categories()),
            dataset.mined_negatives(),
            {
                split: sum(number for category, number in counts.get(split, {}).items() if category)
                for split in ("val", "test")
            },
            dataset.sure_labels(),
        )


@dataclass(frozen=True)
class Machine:
    """What a run can have here."""

    cpus: int
    gpus: int

    @property
    def workers(self) -> int:
        """A worker a GPU; two without one, where there are two cores."""
        return self.gpus or min(2, max(1, self.cpus))

    @property
    def has_gpu(self) -> bool:
        """Whether there is a GPU."""
        return self.gpus > 0


def starter_experiment(facts: Facts, machine: Machine, model: str | None = None) -> str:
    """The experiment as a commented YAML document.

    Args:
        model: path or hub name; default: one that the machine can tune.

    Raises:
        FinedeficsError: no training picture has a label or a description.
    """
    if not facts.labelled and not facts.captioned and not facts.inferred:
        raise FinedeficsError(
            "no training picture has a label or a description, so there is nothing to learn",
            place=f"dataset {facts.dataset}",
            cure=f"ingest pictures with categories, or run `finedefics data describe {facts.dataset}`",
        )
    plan = _plan(facts, machine)
    lines = [
        *_head(facts),
        *_data(facts, plan),
        *_model(machine, model),
        *_stage(facts, machine, plan),
        *_surroundings(facts, machine, plan),
    ]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class _Plan:
    feeds: dict[str, int]
    terms: dict[str, str]  # name -> setting as YAML
    why: dict[str, str]  # name of a term -> what it learns
    steps: int
    passes: float
    negatives: int


def _plan(facts: Facts, machine: Machine) -> _Plan:
    base = _rows(_ROWS[machine.has_gpu], machine.workers)
    negatives = min(_NEGATIVES, facts.mined) if facts.categories > 1 else 0
    # with negatives at hand, a row needs no other one to be contrasted with
    alone = 0.0 if negatives and facts.texts == facts.categories else facts.largest
    by_name = _rows_to_contrast(alone, 1.0, facts, base, machine) if facts.labelled else base
    share = facts.described / max(facts.labelled, 1)
    by_text = _rows_to_contrast(alone, share, facts, base, machine) if facts.described else None
    contrasted = [rows for rows in (by_name, by_text) if rows is not None]
    there = {
        "labelled": max(contrasted) if facts.labelled and facts.categories > 1 and contrasted else base,
        "captioned": base,
        "text": base,
        "inferred": base,
    }
    rows_of = {
        "labelled": facts.labelled,
        "captioned": facts.captioned,
        "text": facts.texts,
        "inferred": facts.inferred,
    }
    feeds = {
        feed: _rows(min(rows, rows_of[feed]), machine.workers)
        for feed, rows in there.items()
        if rows_of[feed]
    }
    terms, why = _terms(facts, feeds, named=by_name is not None, described=by_text is not None)
    if not any(term in terms for term in ("object_attribute", "attribute_category", "category_category")):
        negatives = negatives if "object_category" in terms else 0
    fewest, most = _STEPS[machine.has_gpu]
    # of the feed that takes longest; texts are few and short
    once = max(rows_of[feed] / rows for feed, rows in feeds.items() if feed != "text")
    steps = min(most, max(fewest, math.ceil(_PASSES * once)))
    return _Plan(feeds, terms, why, steps, steps / once, negatives)


def _rows_to_contrast(
    largest: float, described: float, facts: Facts, base: int, machine: Machine
) -> int | None:
    """Rows a step among which some two are of different categories, in every step; None: too many."""
    if facts.categories < 2 or largest >= 1.0:
        return None
    same = 1 - described + described * largest  # chance of a row that says nothing, or what another said
    if same <= 0:
        return base
    wanted = math.ceil(math.log(_NEVER / (_STEPS[machine.has_gpu][1] * facts.categories)) / math.log(same))
    if wanted >= facts.labelled:
        wanted = facts.labelled  # the whole feed in every step: whatever there is to contrast is there
    return max(base, wanted) if wanted <= 8 * base else None


def _terms(
    facts: Facts, feeds: Iterable[str], *, named: bool, described: bool
) -> tuple[dict[str, str], dict[str, str]]:
    """Terms that can learn from what there is, and what each learns."""
    feeds, terms, why = set(feeds), {}, {}

    def add(name: str, weight: str, learns: str, wanted: Sequence[str], usual: Sequence[str]) -> None:
        there = [feed for feed in wanted if feed in feeds]
        if there:
            restricted = [feed for feed in usual if feed in feeds] != there
            terms[name] = f"{{weight: {weight}, feeds: [{', '.join(there)}]}}" if restricted else weight
            why[name] = learns

    labelled = ["labelled"] if described and facts.categories > 1 else []
    captions = [*(["labelled"] if facts.described else []), "captioned"]
    named_by = [feed for feed in ("labelled", "inferred") if feed in feeds]
    each = "name the category" + (", 1 for each of two feeds" if len(named_by) == 2 else "")
    add("answer", str(len(named_by)), each, named_by, named_by)
    add("caption", "1", "describe the picture", captions, ["labelled", "captioned"])
    if facts.texts > 0:
        add("text", "1", "tie names and descriptions in words", ["text"], ["text"])
    if facts.categories > 1:
        both = ["labelled", "captioned"]
        add("object_attribute", "1", "pictures near their descriptions", [*labelled, "captioned"], both)
        texts = [*labelled, "text"] if facts.texts > 1 else labelled
        add("attribute_category", "1", "descriptions near their names", texts, ["labelled", "text"])
        names = [*(["labelled"] if named else []), *(["text"] if facts.texts > 1 else [])]
        add("category_category", "0.5", "names of siblings apart", names, ["labelled", "text"])
        if named and "object_attribute" not in terms:
            learns = "pictures near their names: nothing is described that could be the bridge"
            add("object_category", "1", learns, ["labelled"], ["labelled"])
    return terms, why


def _head(facts: Facts) -> list[str]:
    parts = [f"{facts.labelled} labelled training pictures of {facts.categories} categories"]
    parts += [f"{facts.captioned} captioned ones without a label"] if facts.captioned else []
    parts += [f"{facts.inferred} without a label whose inferred one is sure enough"] if facts.inferred else []
    parts += [f"{facts.texts} categories with a text"] if facts.texts else ["no category has a text"]
    parts += [f"{facts.mined} mined negatives a picture"] if facts.mined else ["nothing is mined"]
    return [
        f"# A start for the dataset {facts.dataset}, which has",
        *(f"# - {part}" for part in parts),
        "# Any key can be overridden: finedefics train FILE --set stages.0.steps=10",
        f"name: {facts.dataset.lower()}-start",
    ]


def _data(facts: Facts, plan: _Plan) -> list[str]:
    if plan.negatives:
        why = f"hard negatives a picture, of {facts.mined} mined"
    elif facts.mined:
        why = "nothing is contrasted"
    else:
        why = f"none are mined: finedefics data mine {facts.dataset}"
    return [
        "data:",
        f"  dataset: {_quoted(facts.dataset)} # the newest version; name@digest pins one",
        f"  negatives: {plan.negatives} # {why}",
    ]


def _model(machine: Machine, model: str | None) -> list[str]:
    path = model or HUB[machine.has_gpu]
    note = "" if model else " # on the hub; any image-text-to-text model will do"
    lines = ["model:", f"  path: {_quoted(path)}{note}"]
    if machine.has_gpu:
        lines.append("  dtype: bfloat16")
    if advice := _advice(path):
        lines.append("  processor:")
        lines += [f"    {name}: {value} # {why}" for name, value, why in advice]
    if not _is_small(path):
        lines += [
            "adapters:",
            "  kind: lora # beside frozen weights; leave the section out to tune all weights",
            "  rank: 16",
            "  alpha: 16",
            "  targets: [text, projection, resampler]",
        ]
    return lines


def _advice(path: str) -> Sequence[tuple[str, str, str]]:
    """Settings of the image processor that the model's family asks for, if its name or folder tells it."""
    from finedefics.backbones import FAMILIES, family_of_name, model_type

    kind = model_type(Path(path).expanduser()) or family_of_name(path)
    return FAMILIES[kind].advice if kind and kind in FAMILIES else ()


def _stage(facts: Facts, machine: Machine, plan: _Plan) -> list[str]:
    model_rate = "2.0e-4" if machine.has_gpu else "5.0e-4"
    feeds = ", ".join(f"{feed}: {rows}" for feed, rows in plan.feeds.items())
    lines = [
        "stages:",
        "  - name: joint # contrast and instruction tuning in one stage",
        f"    steps: {plan.steps} # about {plan.passes:.1f} passes over the pictures",
        f"    learning_rate: {model_rate}",
        f"    warmup_steps: {min(60, max(1, plan.steps // 10))}",
        f"    feeds: {{{feeds}}} # rows a step, shared by {_count(machine.workers, 'worker')}",
    ]
    if facts.inferred:
        lines += [
            "    # inferred: pictures without a label, learned by the name that was inferred for them;",
            "    # how sure it has to be is data.inferred_probability, by default the labels' own threshold",
        ]
    elif facts.captioned and facts.labelled:
        lines += [
            "    # best in docs/studies/both.md: pictures without a label learn the name that a model reads",
            "    # from their description, by",
            f"    # finedefics data label {facts.dataset} --labeller reading:MODEL, then init anew",
        ]
    lines.append("    terms:")
    lines += [f"      {name}: {setting} # {plan.why[name]}" for name, setting in plan.terms.items()]
    if facts.labelled and plan.negatives:
        lines.append(
            "      # choice: 0.5 # multiple choice by letters, as FOCI asks: for models of 7B and more"
        )
    return lines


def _surroundings(facts: Facts, machine: Machine, plan: _Plan) -> list[str]:
    gpu = 1 if machine.has_gpu else 0
    lines = [
        "resources:",
        f"  workers: {machine.workers}",
        f"  gpus_per_worker: {gpu}",
    ]
    if machine.has_gpu:
        cpus = max(1, machine.cpus // machine.workers)
        lines.append(f"  cpus_per_worker: {cpus} # one for the step, the others prepare batches ahead of it")
    lines += ["deepspeed:", "  zero_stage: 1"]
    if machine.has_gpu:
        lines += [
            "compute:",
            "  micro_tokens: 4096 # whose activations a worker holds; halve it when memory runs out",
            "  checkpointing: true # of each layer only its inputs are held",
        ]
    lines.append("evaluation:")
    answers = ["names", "alignment", *(["describe"] if facts.described or facts.captioned else [])]
    split = "test" if facts.held_out["test"] or not facts.held_out["val"] else "val"
    lines += [f"  answers: [{', '.join(answers)}]", f"  split: {split}"]
    if facts.held_out["val"]:
        every = max(1, plan.steps // 4)
        lines += [f"  every: {every} # steps between checks on val", "  limit: 256 # pictures of a check"]
    return [*lines, "tracking:", f"  checkpoint_every: {max(1, plan.steps // 4)}"]


def _rows(wanted: int, workers: int) -> int:
    """A multiple of the workers, the nearest that is not more than wanted, and at least one a worker."""
    return max(1, wanted // workers) * workers


def _is_small(model: str) -> bool:
    weights = [file.stat().st_size for file in Path(model).expanduser().glob("*.safetensors")]
    return 0 < sum(weights) < _SMALL


def _quoted(text: str) -> str:
    """A YAML scalar that is read back as this very text."""
    return json.dumps(text, ensure_ascii=False)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
