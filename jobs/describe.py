"""Describe the pictures of a dataset: `python jobs/describe.py birds`, here or as a Ray job."""

import sys

from finedefics_platform.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["data", "describe", *sys.argv[1:]]))
