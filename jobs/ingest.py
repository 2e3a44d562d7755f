"""Make a dataset version from a folder: `python jobs/ingest.py FOLDER --name birds`, here or as a Ray job."""

import sys

from finedefics_platform.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["data", "ingest", *sys.argv[1:]]))
