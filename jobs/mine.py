"""Rank the wrong categories of every picture: `python jobs/mine.py birds`, here or as a Ray job."""

import sys

from finedefics_platform.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["data", "mine", *sys.argv[1:]]))
