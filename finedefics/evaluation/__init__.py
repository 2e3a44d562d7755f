"""What the answers are worth: intervals, paired comparisons, tables, and the sentences they carry."""

from finedefics.evaluation.statistics import Estimate, interval, paired_difference
from finedefics.evaluation.tables import accuracy_table, differences
from finedefics.evaluation.verdict import NOT_SHOWN, verdict

__all__ = [
    "NOT_SHOWN",
    "Estimate",
    "accuracy_table",
    "differences",
    "interval",
    "paired_difference",
    "verdict",
]
