"""How DeepSpeed shards a run, and which of its own settings an experiment may add."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from finedefics_platform.config.section import Section

_ROWS = "use stages.N.feeds"
_DIVIDED = "use compute.micro_tokens, which leaves the contrastive batch whole"
_OPTIMIZER = "use stages.N.learning_rate and stages.N.weight_decay; the optimizer is torch's AdamW"
_DTYPE = "use model.dtype"
_RECORDED = "use tracking.log_every, and MLFLOW_TRACKING_URI for where it is recorded"
_OFFLOAD = "use deepspeed.offload"
_LEARNED = "it changes what is learned, and the run's key would not tell"
_LAYOUT = "all workers hold rows of their own, and nothing else is divided among them"

# What the platform sets itself or answers for, by DeepSpeed's dotted key, and what to do instead.
OF_THE_PLATFORM: Mapping[str, str] = {
    "train_batch_size": _ROWS,
    "train_micro_batch_size_per_gpu": _ROWS,
    "gradient_accumulation_steps": _DIVIDED,
    "managed_gradient_accumulation": _DIVIDED,
    "gradient_clipping": "use stages.N.gradient_clip",
    "gradient_allreduce_op": "the loss is averaged over workers",
    "optimizer": _OPTIMIZER,
    "zero_allow_untested_optimizer": _OPTIMIZER,
    "zero_force_ds_cpu_optimizer": _OPTIMIZER,
    "scheduler": "use stages.N.warmup_steps and stages.N.final_learning_rate",
    **dict.fromkeys(("bf16", "bfloat16", "fp16", "amp", "torch_autocast", "data_types"), _DTYPE),
    "zero_optimization.stage": "use deepspeed.zero_stage",
    "zero_optimization.offload_optimizer.device": _OFFLOAD,
    "zero_optimization.offload_param.device": _OFFLOAD,
    "zero_optimization.cpu_offload": _OFFLOAD,
    "zero_optimization.cpu_offload_param": _OFFLOAD,
    "zero_optimization.cpu_offload_use_pin_memory": _OFFLOAD,
    "zero_optimization.zenflow": _OFFLOAD,
    "activation_checkpointing": "use compute.checkpointing",
    "checkpoint": "use tracking.checkpoint_every",
    "steps_per_print": "use tracking.log_every",
    **dict.fromkeys(("tensorboard", "wandb", "csv_monitor", "comet"), _RECORDED),
    "autotuning": "use `finedefics tune`",
    "elasticity": "use resources.workers",
    **dict.fromkeys(("pipeline", "tensor_parallel", "expert_parallel", "sequence_parallel_size"), _LAYOUT),
    "hybrid_engine": _LAYOUT,
    "data_efficiency": _LEARNED,
    "curriculum_learning": _LEARNED,
    "progressive_layer_drop": _LEARNED,
    "compression_training": _LEARNED,
    "weight_quantization": _LEARNED,
}


class DeepSpeed(Section):
    """How DeepSpeed shards the run."""

    zero_stage: Literal[0, 1, 2, 3] = Field(1, description="1 shards optimizer state; 3 parameters as well.")
    offload: Literal["none", "optimizer", "parameters"] = Field(
        "none",
        description="What a worker keeps in its machine's memory instead of its GPU's: `optimizer` state, "
        "which is then stepped on the CPU, or `parameters` (ZeRO 3) as well.",
    )
    options: dict[str, Any] = Field(
        {},
        description="DeepSpeed's own settings beside those that the platform sets, such as "
        "`{zero_optimization: {stage3_max_live_parameters: 500000000}}`.",
    )

    @field_validator("options")
    @classmethod
    def _options_contradict_nothing(cls, options: dict[str, Any]) -> dict[str, Any]:
        for key in _dotted(options):
            for own, instead in OF_THE_PLATFORM.items():
                if key == own or key.startswith(f"{own}."):
                    raise ValueError(f"{own} is the platform's to set: {instead}")
        return options

    @model_validator(mode="after")
    def _offload_can_be_done(self) -> "DeepSpeed":
        least = {"none": 0, "optimizer": 1, "parameters": 3}[self.offload]
        if self.zero_stage < least:
            raise ValueError(
                f"offload {self.offload} needs a zero_stage of at least {least}, and it is {self.zero_stage}"
            )
        return self

    @model_validator(mode="after")
    def _options_of_offload_have_effect(self) -> "DeepSpeed":
        zero = self.options.get("zero_optimization")
        for kind, name in (("optimizer", "offload_optimizer"), ("parameters", "offload_param")):
            if isinstance(zero, Mapping) and name in zero and name not in self.offloaded():
                raise ValueError(
                    f"options.zero_optimization.{name} has no effect with deepspeed.offload {self.offload}; "
                    f"set deepspeed.offload to {kind}"
                )
        return self

    def offloaded(self) -> tuple[str, ...]:
        """DeepSpeed's names of what is kept in the machine's memory."""
        return {
            "none": (),
            "optimizer": ("offload_optimizer",),
            "parameters": ("offload_optimizer", "offload_param"),
        }[self.offload]


def _dotted(options: Mapping[str, Any], under: str = "") -> list[str]:
    """Dotted keys of a nested mapping, those of its sections included."""
    keys = []
    for name, value in options.items():
        keys.append(f"{under}{name}")
        if isinstance(value, Mapping):
            keys += _dotted(value, f"{under}{name}.")
    return keys
