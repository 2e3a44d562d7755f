"""An object store, and a folder of pictures to ingest."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from bird_folder import write_birds
from object_store import object_store


@pytest.fixture(scope="package")
def bucket() -> Iterator[str]:
    with object_store() as uri:
        yield uri


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """See `bird_folder.write_birds`."""
    return write_birds(tmp_path / "birds")
