"""The step "label": what pictures without a label are taken for, by a labeller that was scored first."""

from finedefics_platform.data.labelling.run import NotPreciseEnough, label

__all__ = ["NotPreciseEnough", "label"]
