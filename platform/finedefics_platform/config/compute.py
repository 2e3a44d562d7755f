"""How a step is computed: what changes its memory and its time, and nothing of what is learned."""

from pydantic import Field

from finedefics_platform.config.section import Section


class Compute(Section):
    """How a step is computed; no part of what a run is."""

    micro_tokens: int | None = Field(
        None,
        gt=0,
        description="Most tokens whose activations a worker holds at a time; default: all of its step.",
    )
    checkpointing: bool = Field(
        False,
        description="Layers keep their inputs alone, and are computed again in the backward pass: a third "
        "more work, a small part of the memory.",
    )
