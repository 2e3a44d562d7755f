"""The training stream: a plan of which rows form which batch, and tasks that fetch them.

The order of rows is a pure function of (seed, feed, position); nothing about it depends on timing or on the
number of workers. So a batch is the same on one worker and on eight, and resuming at a step is an offset into
the plan. Each rank has lanes of row groups that it reads one after the other; encoded bytes are carried, and
pictures are decoded where the batch is collated.

`index` says where rows are, `order` and `plan` which of them form a batch, `fetch` reads them.
"""

from finedefics_platform.training.stream.ahead import Ahead, ahead, close, in_parallel
from finedefics_platform.training.stream.engines import Engine, in_threads, with_ray_data
from finedefics_platform.training.stream.fetch import FeedRows, TrainingStream
from finedefics_platform.training.stream.index import FeedIndex, SampleIndex
from finedefics_platform.training.stream.plan import StagePlan, check_divides, plan_stage

__all__ = [
    "Ahead",
    "Engine",
    "FeedIndex",
    "FeedRows",
    "SampleIndex",
    "StagePlan",
    "TrainingStream",
    "ahead",
    "check_divides",
    "close",
    "in_parallel",
    "in_threads",
    "plan_stage",
    "with_ray_data",
]
