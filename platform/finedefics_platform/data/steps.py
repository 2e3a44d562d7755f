"""A step makes a new dataset version from what went before, once.

It is addressed by the digest of all that goes into it. Done once, it is not done again; done again elsewhere,
on whatever cluster, it gives the same version. Of several drivers one does it and the others wait.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from finedefics import __version__
from finedefics_platform.base.digest import digest_of
from finedefics_platform.base.progress import Progress
from finedefics_platform.base.storage import lease
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.store import Dataset
from finedefics_platform.data.versions import finished_step, lease_of

_FOLLOWING = {"row_groups", "negatives", "neighbours"}  # made anew whenever something changes
# What a step makes anew, or leaves out as it was made from what the step changes.
_MADE_BY = {
    "describe": ("descriptions", "vocabulary", "labels"),
    "names": ("labels",),
    "label": ("labels",),
}


@contextmanager
def step_of(
    workspace: Workspace, name: str, step: str, verb: str, progress: Progress
) -> Iterator[Dataset | None]:
    """What the step made before, else None: then the block makes it, and nobody else does meanwhile.

    Whoever is cut off and goes on without its lease does no harm: content decides what is written where.

    Args:
        name: of the dataset.
        step: digest of what goes into it (`step_digest`).
        verb: what the step is called: ``ingest``, ``describe``, ``mine``.
    """
    if done := _finished(workspace, name, step, verb, progress):
        yield done
        return
    with lease(lease_of(workspace, name, step), f"{verb} of {name}", progress=progress):
        yield _finished(workspace, name, step, verb, progress)  # whoever was waited for has made it


def step_digest(verb: str, dataset: Dataset, tables: Sequence[str], settings: Any) -> str:
    """Address of a step on a version: the tables it reads or carries over, by content, and its settings.

    What it carries over counts as well: else the same step on a version with more pictures would be taken for
    done, and bring the older pictures back.
    """
    carried = set(dataset.manifest["tables"]) - _FOLLOWING - set(_MADE_BY.get(verb, ()))
    digests = {
        table: dataset.manifest["tables"].get(table, {}).get("digest") for table in {*carried, *tables}
    }
    return digest_of([__version__, verb, digests, settings])


def _finished(workspace: Workspace, name: str, step: str, verb: str, progress: Progress) -> Dataset | None:
    made = finished_step(workspace, name, step)
    if made is not None:
        progress.event("skipped", step=verb, dataset=made.reference)
        progress.say(f"{verb}: done before, {made.reference} is reused")
    return made
