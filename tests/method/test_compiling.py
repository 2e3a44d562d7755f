"""Compiled blocks compute the same step, under the same names, in few programs."""

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.samples import make_data
from benchmarks.stage_one import STAGE_ONE
from finedefics.adapters import AdapterSettings, apply
from finedefics.backbones import Backbone
from finedefics.backbones.compiling import check_compiler, compile_blocks
from finedefics.base_model import untrained_backbone
from finedefics.collation import Collator
from finedefics.errors import FinedeficsError
from finedefics.objective import Objective

PROGRAMS = 4  # with and without a mask, each with and without a gradient of its input


def drawn(kernel: str | None, kind: Any) -> Backbone:
    torch.manual_seed(0)
    made = untrained_backbone()
    backbone = Backbone(made.model, made.processor, ("text", "connector"), kernel)
    if kind != "full":
        apply(backbone, AdapterSettings(kind, rank=2, targets=("text",)), seed=1)
    return backbone


def steps(backbone: Backbone, checkpointing: bool) -> list[tuple[Tensor, Tensor]]:
    data = make_data()
    objective = Objective(backbone, STAGE_ONE, micro_tokens=700, checkpointing=checkpointing).train()
    collate = Collator(backbone.processor, data.categories, STAGE_ONE, negatives=2, micro_tokens=700)
    found = []
    for rows in (3, 5, 2, 4):  # other rows, other widths
        objective.zero_grad()
        loss = objective(collate({"labelled": data.random_batch(rows)}, step=0)).loss
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in backbone.parameters() if p.grad is not None])
        found.append((loss.detach(), gradient))
    return found


def assert_compiled_alike(backend: str, kernel: str | None, checkpointing: bool, kind: Any) -> None:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    plain, backbone = steps(drawn(kernel, kind), checkpointing), drawn(kernel, kind)
    names = list(backbone.state_dict())
    compile_blocks(backbone, backend)
    assert list(backbone.state_dict()) == names
    compiled = steps(backbone, checkpointing)
    for (loss, gradient), (expected, its) in zip(compiled, plain, strict=True):
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
        assert float((gradient - its).norm() / its.norm()) < 1e-5
    assert 0 < counters["stats"]["unique_graphs"] <= PROGRAMS
    assert not counters["graph_break"]
    with backbone.padded(), torch.no_grad():  # asked, nothing is compiled
        made = counters["stats"]["unique_graphs"]
        ids = torch.ones(1, 3, dtype=torch.long)
        backbone.hidden_states(backbone.embed_tokens(ids), torch.ones_like(ids))
        assert counters["stats"]["unique_graphs"] == made


@pytest.mark.parametrize(
    ("kernel", "checkpointing", "kind"),
    [("sdpa", False, "full"), pytest.param("eager", True, "lora", marks=pytest.mark.slow)],
)
def test_traced_blocks_take_the_same_steps(kernel: str, checkpointing: bool, kind: str) -> None:
    assert_compiled_alike("eager", kernel, checkpointing, kind)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_blocks_take_the_same_steps(checkpointing: bool) -> None:
    assert_compiled_alike("inductor", None, checkpointing, "full")


def test_without_a_compiler_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.config as inductor

    check_compiler("cpu")
    monkeypatch.setattr(inductor.cpp, "cxx", ("/no/such/compiler",))
    with pytest.raises(
        FinedeficsError, match=r"finds no C\+\+ compiler; install g\+\+.*leave compute"
    ) as refused:
        check_compiler("cpu")
    assert refused.value.place == "compute.compile"
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(FinedeficsError, match="Triton is not installed"):
        check_compiler("cuda")
