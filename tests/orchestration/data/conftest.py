"""An object store for the tests of data."""

from collections.abc import Iterator

import pytest
from object_store import object_store


@pytest.fixture(scope="package")
def bucket() -> Iterator[str]:
    with object_store() as uri:
        yield uri
