"""Autoscaler YAML for `ray up` on AWS and Google Cloud, from a cluster's document."""

import shlex
from typing import Any, Literal

from finedefics.errors import wrong_use
from finedefics_platform.config.cluster import Cluster, Group, Machines
from finedefics_platform.operate.clusters.pods import variables

Provider = Literal["aws", "gcp"]
PROVIDERS: tuple[Provider, ...] = ("aws", "gcp")
_HEAD = "head"
_TOKEN = "/home/ray/.ray/auth_token"  # where Ray looks for it, in the image of cluster/Dockerfile
_IDLE_SECONDS = 300

Manifest = dict[str, Any]


def autoscaler_yaml(cluster: Cluster, provider: str, *, place: str) -> Manifest:
    """What `ray up` takes.

    Raises:
        FinedeficsError: no such provider, or the document says nothing of its machines (exit code 2).
    """
    if provider not in PROVIDERS:
        raise wrong_use(
            f"no such provider: {provider}", place="--provider", cure=f"use one of: {', '.join(PROVIDERS)}"
        )
    machines: Machines | None = getattr(cluster, provider)
    if machines is None:
        raise wrong_use(
            f"the document has no section `{provider}`",
            place=place,
            cure="add it: region, zone, head, groups",
        )
    idle = cluster.autoscaler.idle_seconds if cluster.autoscaler else _IDLE_SECONDS
    start = "ray stop; ulimit -n 65536; ray start --disable-usage-stats"
    return {
        "cluster_name": cluster.name,
        "max_workers": sum(group.most for group in cluster.groups),
        "idle_timeout_minutes": idle / 60,
        "provider": _provider(provider, machines),
        "auth": {"ssh_user": machines.ssh_user},
        "docker": {
            "image": cluster.image,
            "container_name": "ray",
            "pull_before_run": True,
            "run_options": _run_options(cluster),
        },
        "available_node_types": {
            _HEAD: {
                "resources": {"CPU": 0},
                "min_workers": 0,
                "max_workers": 0,
                "node_config": _node(provider, machines, machines.head, None),
            },
            **{group.name: _group(provider, machines, group, cluster) for group in cluster.groups},
        },
        "head_node_type": _HEAD,
        "file_mounts": {_TOKEN: machines.token_file},
        "setup_commands": [f"chmod 600 {_TOKEN}"],
        # 8265 stays on the head's loopback: `ray dashboard` and `ray job submit` go through ssh.
        "head_start_ray_commands": [
            f"{start} --head --port=6379 --dashboard-host=127.0.0.1 "
            "--autoscaling-config=~/ray_bootstrap_config.yaml"
        ],
        "worker_start_ray_commands": [f"{start} --address=$RAY_HEAD_IP:6379"],
    }


def _provider(provider: str, machines: Machines) -> Manifest:
    common = {"type": provider, "region": machines.region, "availability_zone": machines.zone}
    if provider == "gcp":
        return {**common, "project_id": machines.project}
    return {**common, "cache_stopped_nodes": False}


def _run_options(cluster: Cluster) -> list[str]:
    """Values by name; secrets come from the machine's own environment, by name only."""
    chosen = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": _TOKEN, **variables(cluster)}
    chosen["FINEDEFICS_CACHE"] = "/tmp/finedefics"
    return [
        "--ulimit nofile=65536:65536",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        f"--user={cluster.user}",
        *(f"--env={name}={shlex.quote(value)}" for name, value in chosen.items()),
    ]


def _group(provider: str, machines: Machines, group: Group, cluster: Cluster) -> Manifest:
    least = group.least if cluster.autoscaler else group.most
    return {
        "resources": {"CPU": group.cpus, **({"GPU": group.gpus} if group.gpus else {})},
        "min_workers": least,
        "max_workers": group.most,
        "node_config": _node(provider, machines, machines.groups[group.name], group),
    }


def _node(provider: str, machines: Machines, kind: str, group: Group | None) -> Manifest:
    if provider == "aws":
        disk = {"VolumeSize": machines.disk_gib, "VolumeType": "gp3", "Encrypted": True}
        node: Manifest = {
            "InstanceType": kind,
            "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": disk}],
            # Version 2 of the metadata service alone: a forged request from a job gets no credentials.
            "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 2},
        }
        return {**node, "ImageId": machines.image} if machines.image else node
    node = {
        "machineType": kind,
        "disks": [
            {
                "boot": True,
                "autoDelete": True,
                "type": "PERSISTENT",
                "initializeParams": {"diskSizeGb": machines.disk_gib, "sourceImage": machines.image},
            }
        ],
    }
    if group is not None and group.gpus:
        node["guestAccelerators"] = [
            {"acceleratorType": machines.accelerators[group.name], "acceleratorCount": group.gpus}
        ]
        node["scheduling"] = [{"onHostMaintenance": "TERMINATE"}]
    return node
