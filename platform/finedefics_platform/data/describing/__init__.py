"""Describe: what is visible in every picture, as a table beside the samples; or what categories look like."""

from finedefics_platform.data.describing.estimate import Estimate, Prices
from finedefics_platform.data.describing.run import (
    Settings,
    best_describer,
    describe,
    described_by,
    estimate_of,
)

__all__ = ["Estimate", "Prices", "Settings", "best_describer", "describe", "described_by", "estimate_of"]
