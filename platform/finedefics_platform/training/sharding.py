"""How DeepSpeed shards a stage: its settings, its engine, and what is gathered back from it."""

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from finedefics.errors import wrong_use
from finedefics_platform.config.experiment import Experiment
from finedefics_platform.config.stage import Stage


def deepspeed_settings(experiment: Experiment, stage: Stage, world_size: int) -> dict[str, Any]:
    """DeepSpeed's configuration of one stage: what the platform sets, and the experiment's own options.

    Raises:
        FinedeficsError: bfloat16 is asked for without ZeRO (exit code 2).
    """
    half = experiment.model.dtype == "bfloat16"
    if half and experiment.deepspeed.zero_stage == 0:
        # Seen with 0.19.8: after three steps its losses are 4 % off those of stages 1 and 3, which agree.
        raise wrong_use(
            "without ZeRO, DeepSpeed's bfloat16 optimizer does not follow the other stages",
            place="deepspeed.zero_stage",
            cure="use zero_stage 1 to 3 with bfloat16, or model.dtype float32",
        )
    rows = sum(stage.feeds.values()) // world_size
    sharding = experiment.deepspeed
    own = {
        # the whole share of a worker: the objective itself divides it, without dividing the contrastive batch
        "train_micro_batch_size_per_gpu": rows,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": stage.gradient_clip,
        "zero_optimization": {
            "stage": sharding.zero_stage,
            **{name: {"device": "cpu"} for name in sharding.offloaded()},
        },
        # The optimizer is torch's own AdamW: DeepSpeed's would compile a kernel for minutes first.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": half},
        "steps_per_print": sys.maxsize,
    }
    return _merged(own, sharding.options)


def _merged(own: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The platform's settings with the options beside them, section by section; neither is changed."""
    found = dict(own)
    for name, value in options.items():
        there = found.get(name)
        if isinstance(there, Mapping) and isinstance(value, Mapping):
            value = _merged(there, value)
        found[name] = value
    return found


@cache
def prepare_deepspeed() -> Any:
    """Import DeepSpeed without its slow and loud parts, and return the module."""
    with _hidden("mlflow"):  # its autotuner imports MLflow, 1.3 s that training has no use for
        import deepspeed
    with _uncompiled(), suppress(ImportError):  # decorated at import, which would load torch's compiler: 2 s
        import deepspeed.runtime.zero.muon.original_muon

    deepspeed.utils.logger.setLevel(logging.ERROR)
    # A shared-memory collective for CPU that would be compiled for about a minute at first use.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def start_engine(objective: nn.Module, experiment: Experiment, stage: Stage, world_size: int) -> Any:
    """Wrap a stage's objective in a DeepSpeed engine with its optimizer and learning-rate schedule.

    The process group must exist already; under ZeRO 3 the objective's weights are partitioned from here on.
    """
    deepspeed = prepare_deepspeed()
    if experiment.deepspeed.zero_stage == 3:
        _follow_dtype(objective, torch.bfloat16 if experiment.model.dtype == "bfloat16" else torch.float32)
    groups = parameter_groups(objective, stage.weight_decay, stage.temperatures.learning_rate)
    optimizer = torch.optim.AdamW(groups, stage.learning_rate, (0.9, 0.95), fused=_fuses(objective))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_share(stage, step))
    engine, *_ = deepspeed.initialize(
        model=objective,
        optimizer=optimizer,
        lr_scheduler=schedule,
        config=deepspeed_settings(experiment, stage, world_size),
        dist_init_required=False,
    )
    _follow_temperatures(objective)
    return engine


@contextmanager
def built_sharded(experiment: Experiment, world_size: int) -> Iterator[None]:
    """Inside, under ZeRO 3, transformers builds and loads a model in shards. All ranks must enter.

    A module's weights are whole on a rank while it is made and while it is read, never two modules' at once.
    Rank 0 alone reads the files, which are mapped, not copied; the others get their shards from it.
    """
    if experiment.deepspeed.zero_stage != 3:
        yield
        return
    prepare_deepspeed()
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

    # Transformers knows it by a weak reference, so it is held here; it needs accelerate, which PEFT brings.
    held = HfDeepSpeedConfig(deepspeed_settings(experiment, experiment.stages[0], world_size))
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        del held


def _follow_dtype(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast parameters that are new beside a model in shards, as DeepSpeed casts them beside a whole one."""
    for parameter in module.parameters():
        if not hasattr(parameter, "ds_id") and parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def _fuses(objective: nn.Module) -> bool | None:
    # one kernel for all weights; on a CPU torch chooses, as its fused step rounds otherwise and gains little
    return True if next(objective.parameters()).is_cuda else None


def _follow_temperatures(objective: Any) -> None:
    """Let the objective compute with DeepSpeed's full-precision copy of the temperatures that it learns.

    DeepSpeed casts every parameter to the model's dtype, and steps a copy of its own in float32. In bfloat16
    the parameter shows that copy in jumps of several steps, so the copy itself is handed on: before a pass,
    as a checkpoint may have been loaded, and after a step, as the temperatures are logged then.
    """
    if not _learns_rounded_temperatures(objective):
        return
    from deepspeed.utils import safe_set_full_fp32_param

    # the copy was taken from the rounded parameter
    safe_set_full_fp32_param(objective.log_temperatures, objective.exact_log_temperatures)
    objective.register_forward_pre_hook(lambda module, _: _refresh_temperatures(module))


def _learns_rounded_temperatures(objective: Any) -> bool:
    temperatures = getattr(objective, "log_temperatures", None)
    return temperatures is not None and temperatures.requires_grad and temperatures.dtype != torch.float32


def _refresh_temperatures(objective: Any) -> None:
    from deepspeed.utils import safe_get_full_fp32_param

    objective.exact_log_temperatures.copy_(safe_get_full_fp32_param(objective.log_temperatures))


def rate_share(stage: Stage, step: int) -> float:
    """Learning rate of step ``step`` (from 0) as a share of the peak: linear up, then linear down."""
    if step < stage.warmup_steps:
        return (step + 1) / (stage.warmup_steps + 1)
    progress = (step - stage.warmup_steps) / max(1, stage.steps - stage.warmup_steps)
    return 1 - (1 - stage.final_learning_rate) * min(1.0, progress)


def parameter_groups(module: nn.Module, weight_decay: float, temperature_rate: float) -> list[dict[str, Any]]:
    """Trainable parameters: matrices decay; biases, norms and temperatures do not.

    Temperatures have a rate of their own: at that of the weights they would hardly leave their start within a
    run. The stage's gradient clip holds for all gradients together; it does not keep temperatures back, for
    Adam's step does not depend on the size that all gradients of a parameter are divided by.
    """
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    temperatures: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and name == "log_temperatures":
            temperatures.append(parameter)
        elif parameter.requires_grad:
            # Under ZeRO 3 a later stage meets weights that are partitioned, flat and empty already.
            shape = getattr(parameter, "ds_shape", parameter.shape)
            (decayed if len(shape) > 1 else others).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
        {"params": temperatures, "weight_decay": 0.0, "lr": temperature_rate},
    ]
    return [group for group in groups if group["params"]]


def backward_and_step(engine: Any, loss: Tensor) -> Tensor | float:
    """One optimizer step; returns the global gradient norm before clipping, a scalar on whatever device."""
    engine.backward(loss)
    # Plain data parallelism (stage 0) keeps no norm; its gradients are whole and averaged here.
    norm = None if engine.zero_optimization() else _gradient_norm(engine.module)
    engine.step()
    if _learns_rounded_temperatures(engine.module):
        _refresh_temperatures(engine.module)
    found: Tensor | float | None = engine.get_global_grad_norm() if norm is None else norm
    return 0.0 if found is None else found


def optimizer_elements(engine: Any) -> int:
    """Numbers this rank keeps as optimizer state; under ZeRO 1-3 about 1/ranks of the whole."""
    state = engine.basic_optimizer.state.values()
    return sum(t.numel() for entry in state for t in entry.values() if torch.is_tensor(t) and t.dim() > 0)


@contextmanager
def whole(parameters: Iterable[nn.Parameter], *, written: bool = False) -> Iterator[None]:
    """Inside, the parameters are whole on every rank, whatever the ZeRO stage. All ranks must enter.

    What is ``written`` to them inside is kept, as rank 0 wrote it.
    """
    deepspeed = prepare_deepspeed()
    with deepspeed.zero.GatheredParameters(list(parameters), modifier_rank=0 if written else None):
        yield


def consolidated_state(module: nn.Module, rank: int, *, named: str = "") -> dict[str, Tensor] | None:
    """The module's whole weights on the CPU of rank 0 (None elsewhere), under any ZeRO stage.

    All ranks must call it. One layer at a time is whole, so a rank needs memory for its shard and one layer.

    Args:
        named: only of parameters that have this in their names.
    """
    state: dict[str, Tensor] = {}
    by_parameter: dict[int, Tensor] = {}  # tied weights stay one tensor
    for prefix, layer in module.named_modules():
        own = [
            (name, parameter)
            for name, parameter in layer.named_parameters(recurse=False)
            if named in f"{prefix}.{name}"
        ]
        with whole(parameter for _, parameter in own):
            if rank == 0:
                for name, parameter in own:
                    if id(parameter) not in by_parameter:
                        by_parameter[id(parameter)] = parameter.detach().to("cpu", copy=True)
                    state[f"{prefix}.{name}".lstrip(".")] = by_parameter[id(parameter)]
    if rank != 0:
        return None
    # Buffers are never partitioned; the module itself knows which of them belong in a state.
    buffers = {name for name, _ in module.named_buffers(remove_duplicate=False) if named in name}
    kept = {name: value for name, value in module.state_dict().items() if name in buffers}
    return state | {name: value.detach().cpu() for name, value in kept.items()}


def _gradient_norm(module: nn.Module) -> Tensor:
    return nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Make an optional import of ``name`` fail inside the block, unless it is imported already."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Let ``torch.compile`` return its function unchanged inside the block."""
    compiler = torch.compile

    def unchanged(function: Any = None, **_: Any) -> Any:
        return function if function is not None else lambda decorated: decorated

    torch.compile = unchanged  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compiler
