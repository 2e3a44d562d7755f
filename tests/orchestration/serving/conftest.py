"""A tiny model that is served by Ray Serve, with drawn birds that it is said to have been trained on."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import model_folder, pictures, recogniser

from finedefics_platform.base.workspace import Workspace
from finedefics_platform.data.store import Dataset
from finedefics_platform.models.answerable import Answerable
from finedefics_platform.models.categories import answerable
from finedefics_platform.serving.run import Serving, Settings, serving

__all__ = ["model_folder", "pictures", "recogniser"]


@pytest.fixture(scope="session")
def to_serve(drawn_workspace: Workspace, drawn_dataset: Dataset, model_folder: Path) -> Answerable:
    """The tiny model with the categories of the drawn birds."""
    return answerable(drawn_workspace, str(model_folder / "model"), drawn_dataset.categories())


@pytest.fixture(scope="module")
def running(
    ray_cluster: Any, drawn_workspace: Workspace, drawn_dataset: Dataset, to_serve: Answerable
) -> Iterator[Serving]:
    """A server with one replica; ended in order."""
    settings = Settings(port=0, batch=4, queue=40, nearest=2, data=drawn_dataset.reference, most_bytes=2**20)
    with serving(drawn_workspace, to_serve, settings) as server:
        answers = threading.Thread(target=server.until_ended)
        answers.start()
        yield server
        server.server.should_exit = True
        answers.join(30)
        assert not answers.is_alive()
