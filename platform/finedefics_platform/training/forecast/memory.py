"""Memory of one rank by part, from what a model has, what a step holds and how DeepSpeed shards."""

from collections.abc import Sequence
from dataclasses import dataclass

from finedefics.footprint import Activations, PartSize, Step
from finedefics_platform.config.experiment import Experiment

# DeepSpeed's defaults: numbers that are reduced together, and whole parameters that ZeRO 3 keeps at a time
_BUCKET, _LIVE = 500_000_000, 1_000_000_000
# CUDA's own context, NCCL's buffers, and what the allocator cannot use
_CARD = 2 * 2**30


@dataclass(frozen=True)
class Portion:
    """Bytes of one part of a rank's memory, and how they come about.

    Attributes:
        host: they are of the machine's memory, and none of the card's.
    """

    part: str
    bytes: int
    how: str
    host: bool = False


def rank_memory(
    experiment: Experiment,
    parts: Sequence[PartSize],
    step: Step,
    held: Activations,
    hidden: int,
) -> list[Portion]:
    """What one rank holds at a step's peak.

    Args:
        parts: of the model.
        step: the rank's share of a step.
        held: what it holds at its peak.
        hidden: width of the language model.
    """
    ranks, zero = experiment.resources.processes, experiment.deepspeed.zero_stage
    number = 2 if experiment.model.dtype == "bfloat16" else 4
    on_gpu = experiment.resources.gpus_per_worker > 0
    # without a card all is in the machine's memory anyway
    away = experiment.deepspeed.offloaded() if on_gpu else ()
    asked = experiment.deepspeed.options.get("zero_optimization", {})
    reduced = _number(asked.get("reduce_bucket_size"), _BUCKET)
    live = _number(asked.get("stage3_max_live_parameters"), _LIVE)
    weights = sum(part.bytes for part in parts)
    trained = sum(part.trained for part in parts)
    everything = sum(part.parameters for part in parts)

    def shared(amount: float, from_stage: int) -> int:
        return round(amount / ranks if zero >= from_stage else amount)

    def over(from_stage: int) -> str:
        return f" / {ranks} ranks" if zero >= from_stage and ranks > 1 else ""

    master = zero > 0  # ZeRO steps a float32 copy of its part of the weights
    each = 12 if master else 8
    what = "float32 weight and two moments" if master else "two moments"
    found = [
        Portion(
            "weights",
            shared(weights, 3),
            f"{_billions(everything)}, {_gib(weights)}{over(3)}",
            "offload_param" in away,
        ),
        Portion("gradients", shared(trained * number, 2), f"{_billions(trained)} x {number} bytes{over(2)}"),
        Portion(
            "optimizer",
            shared(trained * each, 1),
            f"{_billions(trained)} x {each}: {what}{over(1)}",
            "offload_optimizer" in away,
        ),
    ]
    if "offload_optimizer" in away:  # stepped on the CPU, from gradients in float32
        how = f"{_billions(trained)} x 4 bytes, float32{over(1)}"
        found.append(Portion("gradients to step by", shared(trained * 4, 1), how, host=True))
    if held.pieces > 1:
        # a weight that several passes use gets its gradient when the last of them is through: till then
        # autograd holds the sum, whole on every rank (of an undivided step it is among the activations)
        found.append(Portion("gradients that wait", trained * number, "of all pieces but the last, whole"))
    if zero == 3 and (ranks > 1 or "offload_param" in away):
        whole = round(min(live, everything) * number)
        found.append(Portion("ZeRO-3 working set", whole, "parameters that are whole at a time"))
    if zero and on_gpu:
        how = f"{_billions(reduced)} x {number} bytes"
        found.append(Portion("reduction bucket", reduced * number, how))
    found += [
        Portion(
            "pictures",
            held.pictures,
            f"{step.pictures} pictures" + (f" of {step.picture.patches} patches" if step.picture else ""),
        ),
        Portion("activations", held.layers, _activations(experiment, step, held)),
        Portion("logits", held.logits, f"{step.answers} answer tokens a step"),
        _contrast(experiment, step, hidden, ranks),
    ]
    if on_gpu:
        found.append(Portion("the card's own", _CARD, "CUDA, NCCL, what lies between blocks"))
    return found


def fixed(portions: Sequence[Portion]) -> int:
    """Bytes of a card that are there whatever a step is like."""
    kept = {"weights", "gradients", "optimizer", "ZeRO-3 working set", "reduction bucket", "the card's own"}
    return sum(portion.bytes for portion in portions if portion.part in kept and not portion.host)


def _activations(experiment: Experiment, step: Step, held: Activations) -> str:
    piece = "the whole step" if held.pieces <= 1 else f"the largest of {held.pieces} pieces"
    kept = ", inputs of layers alone" if experiment.compute.checkpointing else ""
    return f"{held.held} tokens, {piece}{kept}"


def _contrast(experiment: Experiment, step: Step, hidden: int, ranks: int) -> Portion:
    """Embeddings of the global batch, with their gradient, and similarities to every key."""
    rows, negatives = step.rows * ranks, experiment.data.negatives
    vectors = rows * (3 + 2 * negatives)
    embeddings = 3 * vectors * hidden * 4  # own and gathered, and the gradient
    similarities = 8 * rows * rows * (1 + negatives) * 4  # two ways of each pair, masks and gradients
    how = f"{vectors} vectors of {rows} rows" if rows else "no contrast"
    return Portion("gathered embeddings", embeddings + similarities if rows else 0, how)


def _number(asked: object, usual: int) -> int:
    """A setting of DeepSpeed's that may be left out, or to it (`auto`)."""
    return round(asked) if isinstance(asked, int | float) else usual


def _billions(count: int) -> str:
    return f"{count / 1e9:.2f}e9" if count >= 1e7 else f"{count / 1e6:.2f}e6"


def _gib(amount: int) -> str:
    return f"{amount / 2**30:.1f} GiB"
