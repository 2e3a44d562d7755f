"""What is reached over the network: the cluster, the hub, and the time that others have."""

import http.client
import os
import time
import urllib.error
import urllib.request
from dataclasses import replace
from urllib.parse import urlsplit

from finedefics.errors import FinedeficsError
from finedefics_platform.base.control_store import TOKEN_CURE
from finedefics_platform.base.workspace import Workspace
from finedefics_platform.operate.checks.finding import Check, within
from finedefics_platform.operate.clusters.record import UP, dead, recorded
from finedefics_platform.operate.connection import Cluster, clock_difference, find_cluster
from finedefics_platform.operate.jobs.needs import nodes_of, told_nodes

SECONDS = 5.0
CLUSTER_SECONDS = 20.0  # one that is there and busy; where nobody listens the answer comes within 5 s
CLOCK_REFUSED = 900.0  # object stores refuse a request that is signed with a time so far from theirs
_OFFLINE = ("1", "ON", "YES", "TRUE")


def check_cluster() -> Check:
    """The cluster that RAY_ADDRESS names or that is up here: does it answer, as what, to whom, with what."""
    if not os.environ.get("RAY_ADDRESS"):
        records = recorded()
        if lost := [record for record in records if not record.alive]:
            told = dead(lost[0])
            return Check("cluster", "warn", f"{told.place}: {told.thing}", told.cure)
        if not records:
            found = f"none is named: Ray starts on this machine as needed ({UP} keeps one up)"
            return Check("cluster", "ok", found)
    try:
        return within(CLUSTER_SECONDS, lambda: _ask(find_cluster()))
    except TimeoutError as error:
        place = os.environ.get("RAY_ADDRESS", "the local cluster")
        return Check("cluster", "fail", f"{place}: {error}", "correct RAY_ADDRESS, or see the cluster's log")


def _ask(cluster: Cluster) -> Check:
    cluster.check()  # that it answers, lets us in, and runs our versions
    import ray

    has = told_nodes(nodes_of(cluster.ask("/api/v0/nodes")))
    found = f"{cluster.name}: Ray {ray.__version__}; {has}"
    if _is_open(cluster):
        cure = "start it with a token (RAY_AUTH_MODE=token; on Kubernetes `authOptions`)"
        return Check("cluster", "warn", f"{found}; whoever reaches it can run programs there", cure)
    return Check("cluster", "ok", f"{found}; asks for a token and takes this one")


def _is_open(cluster: Cluster) -> bool:
    try:
        replace(cluster, token=None).ask("/api/v0/nodes")
    except FinedeficsError as error:
        if error.cure == TOKEN_CURE:
            return False
        raise
    return True


def check_hub() -> Check:
    """Models and data sets of the hub can be had: offline, or by whom."""
    from huggingface_hub import constants, get_token

    if os.environ.get("HF_HUB_OFFLINE", "").upper() in _OFFLINE:
        return Check("hub", "ok", "offline (HF_HUB_OFFLINE): what is in the cache and nothing else")
    token, place = get_token(), constants.ENDPOINT
    request = urllib.request.Request(f"{place}/api/whoami-v2")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with within(SECONDS, lambda: urllib.request.urlopen(request, timeout=SECONDS)):
            return Check("hub", "ok", f"{place} answers and knows the token")
    except urllib.error.HTTPError as error:
        if error.code in (401, 403) and not token:
            return Check("hub", "ok", f"{place} answers; no token, so public models only (HF_TOKEN)")
        if error.code in (401, 403):
            cure = "renew HF_TOKEN (or `hf auth login`), or unset it for public models"
            return Check("hub", "fail", f"{place} does not take the token", cure)
        reason = f"answers {error.code}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = _reason(error)
    cure = "set HF_HUB_OFFLINE=1 where there is no network, or HF_ENDPOINT to a mirror"
    return Check("hub", "warn", f"{place} does not answer ({reason})", cure)


def check_clock(workspace: Workspace) -> Check:
    """This machine's clock against those that it works with: storage, tracking server, cluster."""
    asked = []
    for name, address in _clocks(workspace).items():
        try:
            date, between = within(SECONDS, lambda address=address: _date(address))  # type: ignore[misc]
        except (OSError, http.client.HTTPException, ValueError):
            continue  # whether it answers is another check's question
        if not date:
            continue
        asked.append(name)
        ahead = clock_difference(date, between)
        if ahead:
            found = f"{abs(ahead):.0f} s {'behind' if ahead > 0 else 'ahead of'} that of the {name}"
            cure = "let it follow a time server (`timedatectl set-ntp true`)"
            return Check("clock", "fail" if abs(ahead) >= CLOCK_REFUSED else "warn", found, cure)
    if not asked:
        return Check("clock", "ok", "there is no other machine's to compare it with")
    return Check("clock", "ok", f"as that of the {' and the '.join(asked)}")


def _clocks(workspace: Workspace) -> dict[str, str]:
    """Addresses that answer with their time, by what they are."""
    found = {}
    if workspace.root.uri.startswith("s3://"):
        found["storage"] = os.environ.get("AWS_ENDPOINT_URL") or "https://s3.amazonaws.com"
    for name, variable in (("tracking server", "MLFLOW_TRACKING_URI"), ("cluster", "RAY_ADDRESS")):
        address = urlsplit(os.environ.get(variable, ""))
        if address.scheme in ("http", "https"):
            found[name] = address._replace(netloc=address.netloc.rpartition("@")[2]).geturl()
    return found


def _date(address: str) -> tuple[str | None, float]:
    """The time that a server says it has, and ours in the middle of asking."""
    before = time.time()
    try:
        with urllib.request.urlopen(address, timeout=SECONDS) as answer:
            date = answer.headers.get("Date")
    except urllib.error.HTTPError as error:  # one that refuses has a clock as well
        date = error.headers.get("Date")
    return date, (before + time.time()) / 2


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error) or type(error).__name__
