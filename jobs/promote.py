"""Promote a model version: `python jobs/promote.py birds candidate --reason "…"`, here or as a Ray job."""

import sys

from finedefics_platform.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["models", "promote", *sys.argv[1:]]))
