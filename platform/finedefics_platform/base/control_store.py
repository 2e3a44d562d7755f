"""What a Ray cluster's control store (its GCS) answers before Ray is told to join it.

Ray itself takes half a minute and twenty lines to say that a token is missing; one call of its protocol says
so at once, and names the versions that the cluster runs.
"""

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finedefics.errors import FinedeficsError

ANSWER_SECONDS = 8.0
TOKEN_CURE = (
    "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token (of a local "
    "one: `finedefics cluster status`; on Kubernetes: the secret that `authOptions` names)"
)
_METHOD = "/ray.rpc.{}/{}"


@dataclass(frozen=True)
class Answer:
    """What a control store says of its cluster."""

    ray: str
    python: str  # empty where it does not say
    jobs: str  # host:port of the job API as the cluster itself has it; empty where there is none


def token_of_environment() -> str | None:
    """The token that Ray would use: RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH names, or its own file.

    None where Ray uses none (RAY_AUTH_MODE is not `token`) or finds none.
    """
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return None
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        return file.read_text().strip() or None
    except OSError:
        return None


def ask_control_store(address: str, token: str | None) -> Answer | None:
    """Ask the control store at host:port; None where something answers that cannot be asked (TLS, a proxy).

    Raises:
        ConnectionError, OSError: nobody listens there.
        FinedeficsError: it asks for a token, or does not take this one.
    """
    import grpc
    from ray.core.generated import gcs_service_pb2

    messages: Any = gcs_service_pb2  # made when it is imported: nothing is known of it before
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
    if os.environ.get("RAY_USE_TLS", "0") == "1":
        return None
    sent = [("authorization", f"Bearer {token}")] if token else []

    def call(service: str, method: str, request: Any, reply: Any) -> Any:
        asked = channel.unary_unary(
            _METHOD.format(service, method),
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply.FromString,
        )
        return asked(request, timeout=ANSWER_SECONDS, metadata=sent)

    def kept(namespace: bytes, key: bytes) -> str:
        request = messages.InternalKVGetRequest(namespace=namespace, key=key)
        found = call("InternalKVGcsService", "InternalKVGet", request, messages.InternalKVGetReply)
        return found.value.decode()

    # A proxy that is meant for the internet is asked for no address of a cluster.
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            alive = call(
                "NodeInfoGcsService", "CheckAlive", messages.CheckAliveRequest(), messages.CheckAliveReply
            )
            about = json.loads(kept(b"cluster", b"CLUSTER_METADATA") or "{}")
            jobs = kept(b"dashboard", b"dashboard")
        except grpc.RpcError as error:
            code = error.code()
            if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
                raise refused_token(address, token) from None
            return None
        except (ValueError, UnicodeDecodeError):
            return None
    return Answer(alive.ray_version, str(about.get("python_version", "")), jobs)


def refused_token(place: str, token: str | None) -> FinedeficsError:
    """The error of a cluster that does not let this process in."""
    if token:
        return FinedeficsError("the cluster does not take this token", place=place, cure=TOKEN_CURE)
    return FinedeficsError("the cluster asks for a token, and there is none", place=place, cure=TOKEN_CURE)


def check_versions(place: str, ray_version: str, python_version: str) -> None:
    """FinedeficsError where the cluster runs another Ray than this process, or another Python (x.y)."""
    import platform

    import ray

    if ray_version and ray_version != ray.__version__:
        raise FinedeficsError(
            f"the cluster runs Ray {ray_version}, and here is {ray.__version__}",
            place=place,
            cure=f"install Ray {ray_version} here (constraints.txt pins it), or renew the cluster's image",
        )
    here = platform.python_version()
    if python_version and python_version.split(".")[:2] != here.split(".")[:2]:
        raise FinedeficsError(
            f"the cluster runs Python {python_version}, and here is {here}",
            place=place,
            cure="use an environment with the cluster's Python, or make the cluster's image anew",
        )
