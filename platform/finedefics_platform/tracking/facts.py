"""What is written down about a run besides its metrics: parameters and the system; never a secret."""

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from finedefics_platform.base.secrets import HIDDEN, hide, is_secret

# Servers older than MLflow 2.8 refuse longer values, and nobody reads a longer one in a table.
LONGEST_PARAMETER = 500
PACKAGES = ("finedefics", "torch", "transformers", "ray", "mlflow", "deepspeed", "peft", "pyarrow")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted keys with text values, secrets hidden (``{"a": {"b": 1}}`` -> ``a.b``)."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{name}."))
        else:
            hidden = HIDDEN if is_secret(name, value) else hide(value)
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
