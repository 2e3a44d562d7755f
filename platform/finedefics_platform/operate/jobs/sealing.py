"""Secrets on their way to a job: in its package, sealed with the cluster's own token.

Variables that Ray is given (`env_vars`) stand in its logs and in every answer of its API. So what comes from
the submitter travels in a file that only processes which have the cluster's token can open: the job's own
and, by Ray's setup hook, each worker's.
"""

import base64
import json
import os
from collections.abc import Mapping
from hashlib import scrypt
from pathlib import Path

from finedefics.errors import FinedeficsError
from finedefics_platform.base.control_store import token_of_environment

SEALED = ".finedefics-sealed"  # in the package's root, which every process of the job starts in
HOOK = "finedefics_platform.operate.jobs.sealing.open_in_worker"
_SALT = 16


def seal(values: Mapping[str, str], token: str) -> bytes:
    """The variables as a file that whoever has the token can open."""
    from cryptography.fernet import Fernet

    salt = os.urandom(_SALT)
    return salt + Fernet(_key(token, salt)).encrypt(json.dumps(dict(values)).encode())


def unseal(content: bytes, token: str) -> dict[str, str]:
    """The variables of a sealed file; FinedeficsError where it was sealed with another token."""
    from cryptography.fernet import Fernet, InvalidToken

    try:
        return json.loads(Fernet(_key(token, content[:_SALT])).decrypt(content[_SALT:]))
    except InvalidToken:
        raise FinedeficsError(
            "the job's secrets were sealed with another token than this process has",
            place=SEALED,
            cure="give every node of the cluster the same token (RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH)",
        ) from None


def open_sealed(folder: Path | None = None) -> dict[str, str]:
    """The variables that travelled with the job in the current folder; empty where none did."""
    file = (folder or Path.cwd()) / SEALED
    if not file.is_file():
        return {}
    token = token_of_environment()
    if token is None:
        raise FinedeficsError(
            "the job brought secrets, and this process has no token to open them",
            place=SEALED,
            cure="set RAY_AUTH_MODE=token and the token on every node of the cluster",
        )
    return unseal(file.read_bytes(), token)


def open_in_worker() -> None:
    """Ray's setup hook: a worker of the job has its secret variables before it runs anything."""
    os.environ.update(open_sealed())


def _key(token: str, salt: bytes) -> bytes:
    return base64.urlsafe_b64encode(scrypt(token.encode(), salt=salt, n=2**10, r=8, p=1, dklen=32))
