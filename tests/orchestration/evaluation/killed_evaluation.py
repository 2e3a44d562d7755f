"""A process that evaluates in parts of one picture until it is killed."""

import sys

import ray

from finedefics_platform.base.workspace import open_workspace
from finedefics_platform.config.experiment import Evaluation
from finedefics_platform.evaluation import run

address, root, model, dataset = sys.argv[1:]
ray.init(address=address, log_to_driver=False)
run.PART = 1
settings = Evaluation(split="val", answers=("alignment", "describe"), calibration="off")
run.evaluate(open_workspace(root), model, dataset, settings, shards=1)
