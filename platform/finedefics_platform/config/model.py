"""What is tuned: the model, and adapters beside its weights."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from finedefics.readout import DEFAULT, Readout
from finedefics_platform.config.section import Section

if TYPE_CHECKING:
    from finedefics.adapters import AdapterSettings


class Model(Section):
    """The Hugging Face model that is tuned."""

    path: str = Field(description="Folder, URI or hub name of any image-text-to-text model.")
    revision: str | None = Field(
        None, description="Branch, tag or commit of a model on the hub; default: what `main` is now."
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Dtype of weights and activations.")
    train: tuple[Literal["text", "connector", "vision"], ...] = Field(
        ("text", "connector"), min_length=1, description="Parts whose weights are tuned; the rest is frozen."
    )
    processor: dict[str, Any] = Field(
        {},
        description="Settings of the image processor that differ from the checkpoint's, such as "
        "`do_image_splitting: false` or `max_pixels: 401408`; stored with the tuned model.",
    )
    attention: Literal["sdpa", "flex_attention", "flash_attention_2", "eager"] | None = Field(
        None,
        description="Kernel of the language model's attention in training; default: `sdpa`, or `eager` for "
        "PaliGemma 2, whose capped logits sdpa lacks. Where sequences share a row, `flex_attention` and "
        "`flash_attention_2` (package flash-attn, half precision) need no dense mask; both need GPUs.",
    )
    object_readout: Readout = Field(
        DEFAULT,
        description="Where a picture is embedded: `eos`, a pass of its own; `prompt`, within the answer's.",
    )


class Adapters(Section):
    """Low-rank adapters; with them everything else is frozen, and `model.train` does not apply.

    They are merged into the weights at the end of each stage, and the next one starts with fresh ones; those
    beside weights in four bits are carried on to the end, for quantizing merged weights anew would add
    NF4's noise once more. What a run leaves is an ordinary model either way.
    """

    kind: Literal["full", "lora", "dora", "qlora"] = Field(
        "full",
        description="`full` tunes weights; `qlora` is LoRA beside weights in four bits.",
    )
    rank: int = Field(8, ge=1, description="Rank of the update.")
    alpha: float = Field(8.0, gt=0, description="The update is scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="On the adapters' input.")
    init: Literal["kaiming", "gaussian"] = Field(
        "kaiming", description="Of one factor; the other starts at zero."
    )
    targets: tuple[Literal["text", "projection", "resampler", "vision"], ...] = Field(
        ("text", "projection", "resampler"),
        min_length=1,
        description="Whose linear layers are adapted; a family without a resampler has none there.",
    )

    @model_validator(mode="after")
    def _adapters_are_asked_for(self) -> "Adapters":
        if twice := [name for name in self.targets if self.targets.count(name) > 1]:
            raise ValueError(f"adapters.targets names {twice[0]} twice; name it once")
        if self.kind == "full":
            # A stored experiment spells every default out, so with a kind it is the values that tell.
            asked = self.model_fields_set if "kind" not in self.model_fields_set else ()
            fields = type(self).model_fields
            if given := [n for n in fields if n in asked or getattr(self, n) != fields[n].default]:
                raise ValueError(
                    f"adapters.{given[0]} has no effect without adapters (adapters.kind full); "
                    "set adapters.kind to lora, dora or qlora, or leave it out"
                )
        return self

    def as_settings(self) -> "AdapterSettings":
        """As the method takes them."""
        from finedefics.adapters import AdapterSettings

        return AdapterSettings(**dict(self))

    def identity(self) -> str | None:
        """``lora r8 alpha8 on text, projection``; None without adapters."""
        if self.kind == "full":
            return None
        return f"{self.kind} r{self.rank} alpha{self.alpha:g} on {', '.join(self.targets)}"
