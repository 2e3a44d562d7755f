"""One Stage I step of an 8B-class Idefics2 of random weights on one GPU, by both schedules.

    python -m benchmarks.gpu_step            # bfloat16, the text model's LoRA; prints one JSON object
    python -m benchmarks.gpu_step --tiny     # the same path at toy size, on whatever device there is

Plain PyTorch, nothing downloaded. A figure is worth what its card is: the object names the device, and
utilisation is null for cards whose peak is not known here (`--peak-tflops` gives it).

Model FLOPs are those that the step needs however it is scheduled: every unique sequence once, useful tokens
only, recomputation not counted. For a sequence of s tokens, L layers, width h and N weights in the text
model's layers, forward takes 2·N·s + 2·L·h·s² (the causal half of attention). With adapters on frozen weights
backward computes gradients of activations but none of the N weights: as much again for the weights, twice for
attention. The head counts at answer tokens, the frozen vision tower and connector forward only, 2 FLOPs a
weight and patch or latent. Both schedules have one numerator, so their utilisations stand as their speeds.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.released_schedule import ReleasedSchedule
from benchmarks.samples import NEGATIVES, make_data
from benchmarks.stage_one import STAGE_ONE
from finedefics.adapters import AdapterSettings, apply
from finedefics.backbones import Backbone
from finedefics.base_model import Sizes, untrained_backbone
from finedefics.batch import Batch, Collator
from finedefics.flops import peak_tflops
from finedefics.objective import Objective


@dataclass(frozen=True)
class Shape:
    """Sizes of an Idefics2; the defaults are those of the 8B model, its pictures unsplit."""

    image_edge: int = 448
    patch: int = 14
    latents: int = 64
    vision_hidden: int = 1152
    vision_intermediate: int = 4304
    vision_layers: int = 27
    heads: int = 16
    head_dim: int = 96
    resampler_depth: int = 3
    text_hidden: int = 4096
    text_intermediate: int = 14336
    text_layers: int = 32
    text_heads: int = 32
    key_value_heads: int = 8
    vocabulary: int = 32003


TINY = Shape(64, 8, 16, 64, 128, 3, 4, 32, 2, 128, 256, 4, 4, 2, 320)


def build(shape: Shape, device: str, dtype: torch.dtype) -> Backbone:
    """The model on the device, random weights, LoRA (rank 8) on the text model's projections and nothing else
    to train."""
    from transformers import AutoModelForImageTextToText, Idefics2Config

    small = Sizes(image_edge=shape.image_edge, patch=shape.patch, latents=shape.latents, vision_layers=1)
    processor = untrained_backbone(small).processor  # the model of this size is thrown away
    tokenizer = processor.tokenizer
    config = Idefics2Config(
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
        vision_config={
            "hidden_size": shape.vision_hidden,
            "intermediate_size": shape.vision_intermediate,
            "num_hidden_layers": shape.vision_layers,
            "num_attention_heads": shape.heads,
            "image_size": shape.image_edge,
            "patch_size": shape.patch,
        },
        perceiver_config={
            "hidden_size": shape.text_hidden,
            "resampler_n_latents": shape.latents,
            "resampler_depth": shape.resampler_depth,
            "resampler_n_heads": shape.heads,
            "resampler_head_dim": shape.head_dim,
            "num_key_value_heads": 4,
        },
        text_config={
            "model_type": "mistral",
            "vocab_size": max(shape.vocabulary, len(tokenizer)),
            "hidden_size": shape.text_hidden,
            "intermediate_size": shape.text_intermediate,
            "num_hidden_layers": shape.text_layers,
            "num_attention_heads": shape.text_heads,
            "num_key_value_heads": shape.key_value_heads,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
    )
    with torch.device(device):  # made where it stays: 8B weights need not pass through this machine's memory
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    backbone = Backbone(model, processor, train=())
    apply(backbone, AdapterSettings("lora", init="gaussian", targets=("text",)))
    for name, parameter in backbone.named_parameters():
        if "lora_B" in name:  # zero at the start, which would hide half of the adapters' gradients
            nn.init.normal_(parameter, std=0.02)
    return backbone


def model_flops(shape: Shape, backbone: Backbone, batch: Batch) -> float:
    """Model FLOPs of one step, forward and backward, as the module's head counts them."""
    layers = sum(p.numel() for n, p in backbone.part("text").layers.named_parameters() if "lora_" not in n)
    lengths = [n for packed in (batch.sequences, batch.embedded) for n in sequence_lengths(packed.segments)]
    attention = 2 * shape.text_layers * shape.text_hidden * sum(n * n for n in lengths)
    head = 2 * shape.text_hidden * backbone.model.config.text_config.vocab_size
    answers = int((batch.targets != -100).sum())
    pictures = len(next(iter(batch.images.values())))
    patches = pictures * (shape.image_edge // shape.patch) ** 2
    vision = sum(p.numel() for p in backbone.part("vision").encoder.parameters())
    connector = sum(p.numel() for p in backbone.part("connector").parameters())
    seen = 2 * (vision * patches + connector * pictures * shape.latents)
    return 2 * (2 * layers * sum(lengths)) + 3 * attention + 2 * head * answers + seen


def sequence_lengths(segments: Tensor) -> list[int]:
    """Length of every sequence of a packed pass, from its segments [rows, width]."""
    return [n for row in segments.cpu() for n in torch.bincount(row)[1:].tolist() if n]


Contestants = dict[str, tuple[nn.Module, Callable[[], Tensor]]]


def contestants(backbone: Backbone, samples: list, categories: Sequence, micro: int | None) -> Contestants:
    """Both schedules over one backbone and the same samples: module and loss."""
    device = backbone.device
    ours = Objective(backbone, STAGE_ONE, micro_batch=micro).to(device)
    collate = Collator(backbone.processor, categories, STAGE_ONE, negatives=NEGATIVES)
    batch = collate({"labelled": samples}, step=0).to(device)
    theirs = ReleasedSchedule(backbone, categories, NEGATIVES)
    separate = theirs.collate(samples)
    return {"packed": (ours, lambda: ours(batch).loss), "released": (theirs, lambda: theirs(separate)[0])}


def gradient(backbone: Backbone, loss: Callable[[], Tensor]) -> Tensor:
    """Gradient of every trained weight, one float64 vector."""
    backbone.zero_grad(set_to_none=True)
    loss().backward()
    return torch.cat([p.grad.double().flatten() for p in backbone.parameters() if p.grad is not None])


def gradient_check(device: str) -> dict[str, float]:
    """At toy size: both schedules in float32 against each other, and each in bfloat16 against float32.

    Returns:
        Relative distances of the trained weights' gradients.
    """
    data = make_data()
    rows = data.separate_batch(2)  # no mask has anything to do, so both schedules have one loss
    found: dict[tuple[torch.dtype, str], Tensor] = {}
    weights = build(TINY, device, torch.float32).state_dict()
    for dtype in (torch.float32, torch.bfloat16):
        backbone = build(TINY, device, dtype)
        backbone.load_state_dict(weights)
        for name, (_, loss) in contestants(backbone, rows, data.categories, None).items():
            found[dtype, name] = gradient(backbone, loss)
    exact = {name: found[torch.float32, name] for name in ("packed", "released")}
    return {"schedules_float32": _distance(exact["packed"], exact["released"])} | {
        f"{name}_bfloat16": _distance(found[torch.bfloat16, name], exact[name]) for name in exact
    }


def _distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def measure(
    module: nn.Module, loss: Callable[[], Tensor], steps: int, device: str
) -> tuple[float, float | None]:
    """Median seconds of a step (forward, backward, AdamW), and peak GiB allocated (CUDA only)."""
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-5)
    cuda = device.startswith("cuda")
    seconds = []
    for step in range(steps + 2):  # two to warm up: allocator, autotuning
        if cuda:
            torch.cuda.synchronize()
            if step == 2:
                torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
    return statistics.median(seconds[2:]), peak


def run(*, tiny: bool, batch: int, steps: int, micro_batch: int | None, peak: float | None) -> dict[str, Any]:
    """Both schedules, measured; what `main` prints."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not tiny:
        raise SystemExit("error: the 8B-class model needs a CUDA device; --tiny runs the same path here")
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    peak = peak or peak_tflops(name)
    torch.manual_seed(0)
    checked = gradient_check(device)
    shape, data = TINY if tiny else Shape(), make_data()
    # processors emulate bfloat16, many times slower than float32
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    backbone = build(shape, device, dtype)
    samples = data.random_batch(batch)
    collate = Collator(backbone.processor, data.categories, STAGE_ONE, negatives=NEGATIVES)
    ours = collate({"labelled": samples}, step=0)
    flops = model_flops(shape, backbone, ours)
    useful = ours.sequences.useful + ours.embedded.useful
    schedules: dict[str, dict[str, float | None]] = {}
    taken: dict[str, float] = {}
    for schedule, (module, loss) in contestants(backbone, samples, data.categories, micro_batch).items():
        seconds, memory = measure(module, loss, steps, device)
        taken[schedule] = seconds
        schedules[schedule] = {
            "seconds": seconds,
            "samples_per_second": batch / seconds,
            "needed_tokens_per_second": useful / seconds,
            "mfu": flops / seconds / (peak * 1e12) if peak else None,
            "peak_memory_gib": memory,
        }
    return {
        "device": name,
        "torch": torch.__version__,
        "dtype": str(dtype).removeprefix("torch."),
        "parameters": sum(p.numel() for p in backbone.parameters()),
        "trained_parameters": sum(p.numel() for p in backbone.parameters() if p.requires_grad),
        "batch": batch,
        "micro_batch": micro_batch,
        "needed_tokens": useful,
        "model_tflops_a_step": flops / 1e12,
        "peak_tflops": peak,
        "gradient_distance": checked,
        "schedules": schedules,
        "speedup": taken["released"] / taken["packed"],
    }


def main() -> None:
    """Parse the command line, print one JSON object."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_step", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--tiny", action="store_true", help="toy size, on any device")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5, help="steps timed, after two that warm up")
    parser.add_argument("--micro-batch", type=int, help="rows whose activations the packed schedule holds")
    parser.add_argument("--peak-tflops", type=float, help="dense bfloat16 peak of the card")
    chosen = parser.parse_args()
    found = run(
        tiny=chosen.tiny,
        batch=chosen.batch,
        steps=chosen.steps,
        micro_batch=chosen.micro_batch,
        peak=chosen.peak_tflops,
    )
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
