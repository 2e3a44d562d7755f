"""Evaluate a model: `python jobs/evaluate.py RUN --data birds`, here or as a Ray job."""

import sys

from finedefics_platform.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
