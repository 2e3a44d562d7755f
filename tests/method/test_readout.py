"""Where a model embeds a picture travels with its folder."""

from pathlib import Path

import pytest

from finedefics.errors import FinedeficsError
from finedefics.readout import FILE, load_readout, save_readout


def test_a_folder_says_only_what_differs(tmp_path: Path) -> None:
    save_readout("eos", tmp_path)
    assert not list(tmp_path.iterdir())
    assert load_readout(tmp_path) == "eos"
    save_readout("prompt", tmp_path)
    assert load_readout(tmp_path) == "prompt"


@pytest.mark.parametrize("text", ["{}", "[]", "no json", '{"object_readout": "middle"}'])
def test_a_file_that_says_something_else_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(FinedeficsError, match=r"finedefics\.json: no `object_readout` of eos or prompt"):
        load_readout(tmp_path)
