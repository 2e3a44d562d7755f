"""Train an experiment: `python jobs/train.py EXPERIMENT.yaml`, here or as a Ray job."""

import sys

from finedefics_platform.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
