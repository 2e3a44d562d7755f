"""How a step is computed: what changes its memory and its time, and nothing of what is learned."""

from pydantic import Field

from finedefics_platform.config.section import Section


class Compute(Section):
    """How a step is computed; no part of what a run is."""

    micro_tokens: int | None = Field(
        None,
        gt=0,
        description="Most tokens, padding included, whose activations a worker holds at a time; default: all "
        "of a step. More negatives or larger pictures then make more passes, not larger ones.",
    )
    checkpointing: bool = Field(
        False,
        description="Keep only the inputs of each layer and compute the layer again in the backward pass: a "
        "fraction of the activations for about a third more time.",
    )
    cache_vision: bool = Field(
        False,
        description="Keep on disk what a frozen vision tower and connector make of each picture: from the "
        "second epoch, or run, on it is read instead of decoded and encoded. Refused where one trains.",
    )
    compile: bool = Field(
        False,
        description="Compile the language model's blocks (torch.compile) for training: minutes at the first "
        "steps. Needs Triton on a GPU, a C++ compiler on a CPU.",
    )
