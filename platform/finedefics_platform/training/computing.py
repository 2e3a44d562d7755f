"""How a stage's step is computed: its objective, compiled where asked, and where features are kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from finedefics.backbones import Backbone
from finedefics.backbones.compiling import compile_blocks
from finedefics.features import FeatureStore, maker_digest
from finedefics.objective import Objective
from finedefics.terms import ObjectiveSettings
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.config.compute import Compute


def stage_objective(
    backbone: Backbone,
    settings: ObjectiveSettings,
    compute: Compute,
    workspace: Workspace,
    device: torch.device,
) -> Objective:
    """A stage's objective on its device, computed as the experiment says.

    Raises:
        FinedeficsError: as `Objective`.
    """
    if compute.compile:
        compile_blocks(backbone)
    features = None
    if compute.cache_vision:
        features = FeatureStore(workspace.features / maker_digest(backbone))
    return Objective(
        backbone,
        settings,
        micro_tokens=compute.micro_tokens,
        checkpointing=compute.checkpointing,
        features=features,
    ).to(device)


@contextmanager
def kept(features: FeatureStore | None) -> Iterator[dict[str, Any]]:
    """Within it a stage's steps; gets pictures kept and their bytes on disk once all are written."""
    figures: dict[str, Any] = {}
    yield figures
    if features is not None:
        features.flush()
        figures["kept_pictures"], figures["kept_bytes"] = features.size()
