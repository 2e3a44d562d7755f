"""What the answers are worth: intervals, paired comparisons, tables, and the sentences they carry."""

from finedefics.evaluation.clustered import (
    ClusteredEstimate,
    clustered_difference,
    clustered_interval,
    clustered_mcnemar,
)
from finedefics.evaluation.statistics import (
    Estimate,
    McNemar,
    Seeds,
    holm,
    interval,
    mcnemar,
    over_seeds,
    paired_difference,
)
from finedefics.evaluation.tables import accuracy_table, differences
from finedefics.evaluation.verdict import NOT_SHOWN, verdict

__all__ = [
    "NOT_SHOWN",
    "ClusteredEstimate",
    "Estimate",
    "McNemar",
    "Seeds",
    "accuracy_table",
    "clustered_difference",
    "clustered_interval",
    "clustered_mcnemar",
    "differences",
    "holm",
    "interval",
    "mcnemar",
    "over_seeds",
    "paired_difference",
    "verdict",
]
