"""Infer labels of pictures: `python jobs/label.py birds --labeller reading:MODEL`, here or as a Ray job."""

import sys

from finedefics_platform.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["data", "label", *sys.argv[1:]]))
