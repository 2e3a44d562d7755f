"""A process of its own that describes, to be killed half-way: ``describe_driver.py HOME DESCRIBER [FOLDER]``.

The folder is ingested first, where one is given. Prints the provenance of the descriptions.
"""

import json
import sys

from finedefics_platform.base.workspace import open_workspace
from finedefics_platform.data.describing import Settings, describe
from finedefics_platform.data.ingesting import ingest

if __name__ == "__main__":
    home, describer, *folders = sys.argv[1:]
    workspace, settings = open_workspace(home), Settings({"concurrency": 3, "retries": 0})
    for folder in folders:
        ingest(workspace, "plain", folder)
    made = describe(workspace, "plain", describer=describer, settings=settings)
    print(json.dumps(made.manifest["provenance"]["descriptions"]))
