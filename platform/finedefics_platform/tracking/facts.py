"""What is written down about a run besides its metrics: parameters and the system; never a secret."""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

HIDDEN = "[hidden]"
# Servers older than MLflow 2.8 refuse longer values, and nobody reads a longer one in a table.
LONGEST_PARAMETER = 500
PACKAGES = ("finedefics", "torch", "transformers", "ray", "mlflow", "deepspeed", "peft", "pyarrow")

_SECRET_WORDS = {"secret", "password", "passwd", "pwd", "apikey"}
_SECRET_WORDS |= {"credential", "credentials", "authorization"}
_SECRET_PAIRS = ("api_key", "private_key", "access_key", "auth_token", "access_token")
_SECRET_VALUE = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[A-Z0-9]{16})\b"
)
_USER_IN_URL = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s@]+@")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted keys with text values, secrets hidden (``{"a": {"b": 1}}`` -> ``a.b``)."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{name}."))
        else:
            hidden = HIDDEN if _names_a_secret(name) else _hide(value)
            flat[name] = hidden if isinstance(hidden, str) else json.dumps(hidden, sort_keys=True)
    return flat


def shorten(parameters: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Split parameters into values that fit a tracking server, and the full texts of those that did not.

    A value that is too long is replaced by its SHA-256 digest; the caller stores the text as an artefact.
    """
    short, long = {}, {}
    for key, value in parameters.items():
        if len(value) <= LONGEST_PARAMETER:
            short[key] = value
        else:
            long[key] = value
            short[key] = f"sha256:{hashlib.sha256(value.encode()).hexdigest()}"
    return short, long


def without_secrets(text: str) -> str:
    """The text with access tokens and the user part of URLs replaced by ``[hidden]``."""
    text = _USER_IN_URL.sub(rf"\1{HIDDEN}@", text)
    text = _SECRET_VALUE.sub(HIDDEN, text)
    for name, value in os.environ.items():
        # Short values ("1", "yes") would turn harmless text into holes.
        if len(value) >= 8 and _names_a_secret(name):
            text = text.replace(value, HIDDEN)
    return text


def _hide(value: Any) -> Any:
    """A JSON-able copy without secrets, at any depth."""
    if isinstance(value, Mapping):
        return {str(k): HIDDEN if _names_a_secret(str(k)) else _hide(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_hide(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else without_secrets(str(value))


def _names_a_secret(name: str) -> bool:
    lowered = name.lower().replace("-", "_")
    words = re.split(r"[^a-z0-9]+", lowered)
    # Only a final "token" is a credential; `max_new_tokens` and `token_budget` are settings.
    named = _SECRET_WORDS & set(words) or words[-1] == "token"
    return bool(named) or any(pair in lowered for pair in _SECRET_PAIRS)


@cache
def system_facts() -> dict[str, str]:
    """Package versions, Python, the machine and, in a git checkout, the commit of the code that runs."""
    facts = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for package in PACKAGES:
        try:
            facts[f"version.{package}"] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    facts.update(_git_facts(Path(__file__).resolve()))
    return facts


def _git_facts(file: Path) -> dict[str, str]:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(file.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        # An environment inside somebody else's checkout would otherwise report that checkout's commit.
        git("ls-files", "--error-unmatch", file.name)
        commit, changed = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"git_commit": commit, "git_changed": "true" if changed else "false"}
