"""What a step will take: parameters, tokens and bytes, by arithmetic and on tensors that hold nothing.

Nothing here loads weights: a model is its configuration, built on the meta device or of fake tensors.
"""

from finedefics.footprint.activations import Activations, Probe
from finedefics.footprint.model import PartSize, empty_backbone, part_sizes
from finedefics.footprint.step import Assumed, Picture, Step, assumed_step, picture_of, step_of

__all__ = [
    "Activations",
    "Assumed",
    "PartSize",
    "Picture",
    "Probe",
    "Step",
    "assumed_step",
    "empty_backbone",
    "part_sizes",
    "picture_of",
    "step_of",
]
