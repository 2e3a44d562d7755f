"""A stage's step is computed as `compute` says, and what it keeps lies in the workspace."""

import torch

from benchmarks.stage_one import STAGE_ONE
from finedefics.backbones.family import ImageTokens
from finedefics.base_model import untrained_backbone
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.compute import Compute
from finedefics_platform.training.computing import kept, stage_objective


def test_a_stage_is_computed_as_asked(workspace: Workspace) -> None:
    backbone = untrained_backbone()
    backbone.train_parts(("text",))
    asked = Compute(cache_vision=True, compile=True, micro_tokens=64)
    objective = stage_objective(backbone, STAGE_ONE, asked, workspace, torch.device("cpu"))
    assert backbone.compiled
    assert objective.micro_tokens == 64
    assert objective.features is not None
    with kept(objective.features) as figures:
        objective.features.add(["a"], ImageTokens([torch.ones(2, 3)]), [(1, 2)])
    assert figures["kept_pictures"] == 1
    (file,) = (workspace.features / objective.features.folder.name).iterdir()
    assert figures["kept_bytes"] == file.stat().st_size
    backbone = untrained_backbone()
    plain = stage_objective(backbone, STAGE_ONE, Compute(), workspace, torch.device("cpu"))
    assert plain.features is None
    assert not backbone.compiled
    with kept(None) as figures:
        pass
    assert figures == {}
