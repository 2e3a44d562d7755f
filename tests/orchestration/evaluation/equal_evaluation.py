"""A driver that evaluates in an object store; run by test_evaluation beside another that asks for the same.

Usage: equal_evaluation.py RAY_ADDRESS WORKSPACE MODEL DATASET. Prints where the evaluation is.
"""

import os
import sys

import ray

from finedefics_platform.base.storage import Location
from finedefics_platform.base.workspace import open_workspace
from finedefics_platform.config.experiment import Evaluation
from finedefics_platform.evaluation.run import evaluate

if __name__ == "__main__":
    address, root, model, dataset = sys.argv[1:]
    # the nodes of a cluster have the store's address and keys from outside; these were started without
    usual = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "FINEDEFICS_"))}
    ray.init(address=address, runtime_env={"env_vars": usual}, log_to_driver=False)
    settings = Evaluation(answers=("alignment", "ensemble"), limit=4)
    print(evaluate(open_workspace(root), Location.of(model), dataset, settings).place)
