"""What is a secret and what only looks like one; neither a record nor an error line may hold one."""

import os
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

HIDDEN = "[hidden]"

_WORDS = {"secret", "password", "passwd", "passphrase", "pwd", "apikey"}
_WORDS |= {"credential", "credentials", "authorization"}
_ENDINGS = ("password", "passwd")  # PGPASSWORD
_KEYS = {"api", "access", "account", "encryption", "private", "secret", "signing", "ssh", "storage"}
_TOKENS = {"access", "api", "auth"}
# `password_file` names where a secret is, `secret_name` which one, `password_length` how long it is.
_DESCRIPTIONS = {"file", "path", "dir", "folder", "name", "length", "uri", "url"}
# A single "token" at a name's end is a credential, unless it is a piece of text.
_TEXT_TOKENS = {"bos", "cls", "end", "eos", "first", "image", "last", "mask", "next", "pad", "per", "sep"}
_TEXT_TOKENS |= {"special", "start", "turn", "unk", "new", "max", "min", "decoder"}

_VALUE = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|A[KS]IA[A-Z0-9]{16})\b"
)
_SIGNED = re.compile(r"([?&](?:X-Amz-(?:Signature|Credential|Security-Token)|Signature|sig)=)[^&\s\"']+")
_USER_IN_URL = re.compile(r"\b([a-z][a-z0-9+.-]*)://([^/\s@]+)@")
_PLAIN_USERS = {"abfs", "abfss", "wasb", "wasbs", "ssh"}  # the container, or a login without a password
_SHORTEST = 8  # shorter values ("1", "yes") would turn harmless text into holes
_LONGEST_WORD = 16


def is_secret(name: str, value: Any = None) -> bool:
    """Whether what is called ``name`` is a secret: an environment variable, a setting, a header.

    A switch is none, nor the path of a file, whatever they are called; ``PWD`` is the working directory.
    """
    if isinstance(value, bool) or (isinstance(value, str) and _is_path(value)):
        return False
    if name.lower() in ("pwd", "oldpwd"):
        return False
    words = [word for word in re.split(r"[^a-z0-9]+", _snake(name)) if word]
    if not words or words[-1] in _DESCRIPTIONS:
        return False
    if words[-1] == "token" and (len(words) == 1 or words[-2] not in _TEXT_TOKENS):
        return True
    pairs = set(pairwise(words))
    return (
        any(word in _WORDS or word.endswith(_ENDINGS) for word in words)
        or any(first in _KEYS and second in ("key", "keys") for first, second in pairs)
        or any(first in _TOKENS and second == "tokens" for first, second in pairs)
        or ("connection", "string") in pairs
    )


def without_secrets(text: str) -> str:
    """The text with access tokens, users of URLs, and this process's secret variables hidden."""
    text = _USER_IN_URL.sub(_without_user, text)
    text = _SIGNED.sub(rf"\1{HIDDEN}", text)
    text = _VALUE.sub(HIDDEN, text)
    for name, value in os.environ.items():
        if _is_tellable(value) and is_secret(name, value):
            text = text.replace(value, HIDDEN)
    return text


def hide(value: Any) -> Any:
    """A copy that JSON can hold, at any depth without secrets."""
    if isinstance(value, Mapping):
        return {str(k): HIDDEN if is_secret(str(k), v) else hide(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [hide(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else without_secrets(str(value))


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _without_user(found: re.Match[str]) -> str:
    scheme, user = found.groups()
    kept = user if scheme in _PLAIN_USERS and ":" not in user else HIDDEN
    return f"{scheme}://{kept}@"


def _is_tellable(value: str) -> bool:
    """Whether a text that holds this value holds it because of the secret: `finedefics` stands everywhere."""
    is_word = len(value) < _LONGEST_WORD and value.isalpha() and (value.islower() or value.istitle())
    return len(value) >= _SHORTEST and not is_word


def _is_path(value: str) -> bool:
    """Whether this is a place on this machine's disks; base64 may begin with a slash as well."""
    if value.startswith(("~/", "./", "../")):
        return True
    parts = Path(value).parts if value.startswith("/") else ()
    return len(parts) > 1 and (Path("/") / parts[1]).exists()
