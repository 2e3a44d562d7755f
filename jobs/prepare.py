"""Ingest, describe, mine, inspect: `python jobs/prepare.py FOLDER --name birds`, here or as a Ray job."""

import sys

from finedefics_platform.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["data", "prepare", *sys.argv[1:]]))
