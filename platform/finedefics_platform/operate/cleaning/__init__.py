"""What a workspace could do without: what was cut off and never gone on with, and what can be made again.

Nothing that is finished is among it, and nothing that a registered model needs. Each module finds some kinds.
"""

from collections.abc import Iterator
from datetime import timedelta

from finedefics_platform.base.workspace import Workspace
from finedefics_platform.operate.cleaning.finding import ABANDONED, Dispensable, remove
from finedefics_platform.operate.cleaning.recorded import deleted_runs, unregistered_packages
from finedefics_platform.operate.cleaning.stored import caches, drafts, unnamed_tables
from finedefics_platform.operate.cleaning.work import evaluations, searches, trainings

__all__ = ["ABANDONED", "Dispensable", "dispensable", "remove"]


def dispensable(
    workspace: Workspace, older_than: timedelta = ABANDONED, *, with_caches: bool = False
) -> list[Dispensable]:
    """What could go, oldest first; nothing is touched.

    What somebody is making is never among it, however old it is.

    Args:
        older_than: so long nothing was written there. What is left over of finished work goes at any age.
        with_caches: what frozen towers and embedders made of pictures, and downloaded packages, too. Whoever
            needs it goes on and makes it again.

    Raises:
        FinedeficsError: the storage or the tracking server does not answer.
    """

    def all_kinds() -> Iterator[Dispensable]:
        yield from evaluations(workspace, older_than)
        yield from trainings(workspace)
        yield from searches(workspace)
        yield from drafts(workspace, older_than)
        yield from unnamed_tables(workspace, older_than)
        yield from unregistered_packages(workspace, older_than)
        yield from deleted_runs(workspace, older_than)
        if with_caches:
            yield from caches(workspace, older_than)

    return sorted(all_kinds(), key=lambda each: each.age, reverse=True)
