"""Addresses by content: equal values give equal digests, on any machine."""

import hashlib
import json
from typing import Any


def digest_of(value: Any) -> str:
    """Twelve hex digits of a JSON-able value, independent of key order."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
