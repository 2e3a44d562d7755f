"""A process that runs a study, to be killed: WORKSPACE."""

import sys

from finedefics_platform.base.workspace import open_workspace
from finedefics_platform.study.run import run_study
from tests.orchestration.study.test_kills import planned_study

if __name__ == "__main__":
    study, documents = planned_study()
    run_study(open_workspace(sys.argv[1]), study, documents, at_once=1)
