"""A process that runs a search, to be killed: WORKSPACE MODEL."""

import sys
from pathlib import Path

from finedefics_platform.base.workspace import open_workspace
from finedefics_platform.search.run import run_search
from finedefics_platform.tracking.tracker import Tracker
from tests.orchestration.search.test_restore import document, search

if __name__ == "__main__":
    workspace = open_workspace(sys.argv[1])
    run_search(workspace, search(), document(Path(sys.argv[2])), tracker=Tracker(workspace, "searches"))
