"""Storage by URI: places, whole things that appear at once, leases, and a cache a node.

Everything the platform keeps lies under one root, on a disk or in an object store; whoever writes there goes
through this package. Locally a thing is made aside and renamed. An object store has no rename, so data goes
first and one small manifest last: readers see nothing without it.
"""

from finedefics_platform.base.storage.cache import cache_folder, cached
from finedefics_platform.base.storage.commit import commit, committed, discard, fetch
from finedefics_platform.base.storage.lease import Lease, holder, lease
from finedefics_platform.base.storage.location import Location

__all__ = [
    "Lease",
    "Location",
    "cache_folder",
    "cached",
    "commit",
    "committed",
    "discard",
    "fetch",
    "holder",
    "lease",
]
