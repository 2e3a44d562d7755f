"""Search an experiment: `python jobs/tune.py SEARCH.yaml`, here or as a Ray job."""

import sys

from finedefics_platform.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["tune", *sys.argv[1:]]))
