"""Settings of adapters that are refused."""

from typing import Any

import pytest

from finedefics.adapters import AdapterSettings
from finedefics.errors import FinedeficsError


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"kind": "prefix"}, "adapters.kind"),
        ({"init": "zeros"}, "adapters.init"),
        ({"targets": ("text", "head")}, "adapters.targets"),
        ({"rank": 0}, "adapters"),
        ({"dropout": 1.0}, "adapters"),
    ],
)
def test_wrong_settings_are_refused(change: dict[str, Any], place: str) -> None:
    with pytest.raises(FinedeficsError) as caught:
        AdapterSettings(**change)
    assert caught.value.place == place
    assert caught.value.exit_code == 2
